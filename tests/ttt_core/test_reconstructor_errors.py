"""Unusable arguments: named errors that say what was given and what to do."""

from __future__ import annotations

import pytest
import torch
from reconstructor_cases import random_views, tiny_config, tiny_model

from ttt_core import ConfigError, PatchSizeError, ScanError, ShapeError, ViewIndexError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"layers": 1.5}, "layers is 1.5"),
        ({"attention_head_dim": 5}, "attention_head_dim is 5.*divide width 16"),
        ({"fast_weight_head_dim": 32}, "fast_weight_head_dim is 32.*divide width 16"),
        ({"sh_degree": 4}, "sh_degree is 4"),
        ({"newton_schulz_dtype": "float16"}, "newton_schulz_dtype is 'float16'.*bfloat16"),
        ({"qk_norm_eps": float("nan")}, "qk_norm_eps is nan"),
        ({"elastic_lambda": -0.1}, "elastic_lambda is -0.1"),
        ({"fisher_alpha": 1.5}, "fisher_alpha is 1.5"),
        ({"anchor_beta": -1}, "anchor_beta is -1"),
    ],
)
def test_config(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_image_sides_must_be_multiples_of_the_patch() -> None:
    model = tiny_model()
    with pytest.raises(PatchSizeError, match=r"height is 10.*patch_size 4.*8 or 12"):
        model.reconstruct(*random_views(2, height=10))
    with pytest.raises(PatchSizeError, match=r"width is 13.*12 or 16"):
        model.stream(model.initial_state(1), *random_views(2, width=13))


def test_shapes() -> None:
    model, (image, fxfycxcy, c2w) = tiny_model(), random_views(2)
    state = model.initial_state(1)
    for wrong, message in (
        ((image[0], fxfycxcy, c2w), "image has shape"),
        ((image[:, :, :2], fxfycxcy, c2w), "image has shape"),
        ((image[:, :0], fxfycxcy[:, :0], c2w[:, :0]), "image has shape"),
        (((255 * image).to(torch.uint8), fxfycxcy, c2w), "dtype torch.uint8"),
        ((image, fxfycxcy[:, :1], c2w), r"fxfycxcy has shape .*\(1, 2, 4\)"),
        ((image, fxfycxcy, c2w[..., :3, :]), r"c2w has shape .*\(1, 2, 4, 4\)"),
    ):
        for call in (model.reconstruct, lambda *v: model.query(state, *v)):
            with pytest.raises(ShapeError, match=message):
                call(*wrong)


def test_scans() -> None:
    model, inputs = tiny_model(), random_views(4)
    with pytest.raises(ScanError, match=r"views_per_update is 3.*4 views"):
        model.reconstruct(*inputs, scan="ar", views_per_update=3)
    with pytest.raises(ScanError, match="views_per_update is 0"):
        model.reconstruct(*inputs, scan="ar", views_per_update=0)
    with pytest.raises(ScanError, match=r"'causal'.*full.*ar"):
        model.reconstruct(*inputs, scan="causal")


@pytest.mark.parametrize(
    "indices",
    [
        torch.tensor([0, 1]),
        torch.tensor([[0], [1]]),
        torch.tensor([[0.0]]),
        torch.tensor([[True]]),
        torch.tensor([[4]]),
        torch.tensor([[-1]]),
        torch.zeros(1, 0, dtype=torch.long),
    ],
)
def test_virtual_views(indices: torch.Tensor) -> None:
    with pytest.raises(ViewIndexError, match="virtual_views"):
        tiny_model().reconstruct(*random_views(4), virtual_views=indices)

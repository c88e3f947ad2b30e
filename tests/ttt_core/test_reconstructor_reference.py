"""The model against a plain loop-by-loop reference, where the numeric fixtures do not reach:
several batch items, heads and chunks at once, the elastic option, other sizes and degrees."""

from __future__ import annotations

import numpy as np
import plain_reference
import pytest
import torch
from reconstructor_cases import random_views, split_views, tiny_model

CASES = [
    {"changes": {}, "chunk_views": 3},
    {"changes": {"fast_weight_head_dim": 4, "fast_weight_expansion": 3}, "chunk_views": 1},
    {"changes": {"fast_weight_head_dim": 16, "fast_weight_expansion": 1}, "chunk_views": 1},
    {"changes": {"sh_degree": 2, "attention_head_dim": 4, "patch_size": 2}, "chunk_views": 3},
    {"changes": {"qk_norm_eps": 0.0078125, "layers": 3}, "chunk_views": 1},
    {"changes": {"elastic_lambda": 0.05}, "chunk_views": 1},
    {
        "changes": {"elastic_lambda": 0.4, "fisher_alpha": 0.2, "anchor_beta": 0.6},
        "chunk_views": 1,
    },
]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_reconstruct(case: dict) -> None:
    model = tiny_model(**case["changes"]).double()
    views = random_views(3, batch=2, height=4, width=8, dtype=torch.float64)
    output = model.reconstruct(*views, scan="ar", views_per_update=case["chunk_views"])
    parameters = {name: t.numpy() for name, t in model.state_dict().items()}
    raw, weights = plain_reference.reconstruct(
        parameters, model.config, *(t.numpy() for t in views), chunk_views=case["chunk_views"]
    )
    np.testing.assert_allclose(output.raw.numpy(), raw, rtol=0, atol=1e-8)
    for ours, theirs in zip(output.fast_weights, weights):
        for index in range(3):
            expected = np.stack([slot[index] for slot in theirs])
            np.testing.assert_allclose(ours[index].numpy(), expected, rtol=0, atol=1e-8)


@torch.no_grad()
def test_elastic_option_is_carried_by_a_stream() -> None:
    """In the first layer a stream of one-view batches equals the `ar` scan of one-view chunks only
    if importance and anchor survive between the calls."""
    model = tiny_model(elastic_lambda=0.4).double()
    views = random_views(3, batch=2, height=4, width=8, dtype=torch.float64)
    parameters = {name: t.numpy() for name, t in model.state_dict().items()}
    _, weights = plain_reference.reconstruct(
        parameters, model.config, *(t.numpy() for t in views), chunk_views=1
    )
    state = model.initial_state(2)
    for batch in split_views(views, 1):
        state, _ = model.stream(state, *batch)
    for index in range(3):
        expected = np.stack([slot[index] for slot in weights[0]])
        ours = state.layers[0].weights[index].numpy()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-8)


@torch.no_grad()
def test_rays() -> None:
    model = tiny_model()
    image, fxfycxcy, c2w = random_views(2, height=4, width=8, dtype=torch.float64)
    output = model.double().reconstruct(image, fxfycxcy, c2w)
    for view in range(2):
        _, directions = plain_reference.tokens_of_view(
            image[0, view].numpy(), fxfycxcy[0, view].numpy(), c2w[0, view].numpy(), 4
        )
        part = slice(32 * view, 32 * (view + 1))
        ours = output.ray_directions[0, part].numpy()
        np.testing.assert_allclose(ours, directions, rtol=0, atol=1e-12)
        assert (output.ray_origins[0, part] == c2w[0, view, :3, 3]).all()

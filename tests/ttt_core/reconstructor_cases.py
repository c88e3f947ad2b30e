"""Fixture cases and small random models shared by the reconstructor's tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ttt_core import FastWeights, Reconstructor, ReconstructorConfig


@dataclass
class Case:
    """One numeric fixture: the model with the fixture's parameters, its inputs, its tensors."""

    spec: dict
    tensors: dict[str, Tensor]
    model: Reconstructor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.tensors["in/image"], self.tensors["in/fxfycxcy"], self.tensors["in/c2w"]

    def fast_weights(self, kind: str, layer: int) -> FastWeights:
        return FastWeights(*(self.tensors[f"{kind}/fw/{layer}/w{i}"] for i in range(3)))


def load_case(path: Path, **changes: object) -> Case:
    spec = json.loads(path.with_suffix(".json").read_text())["config"]
    config = ReconstructorConfig(
        **{
            "width": spec["d"],
            "layers": spec["n_layer"],
            "patch_size": spec["patch"],
            "attention_head_dim": spec["attn_head"],
            "fast_weight_head_dim": spec["ttt_head"],
            "fast_weight_expansion": spec.get("inter", 4),
            "sh_degree": spec.get("sh", 3),
            **changes,
        }
    )
    tensors = load_file(path)
    model = Reconstructor(config)
    parameters = {k.removeprefix("param/"): t for k, t in tensors.items() if k[:6] == "param/"}
    model.load_state_dict(parameters, strict=True)
    return Case(spec, tensors, model.requires_grad_(False))


def tiny_config(**changes: object) -> ReconstructorConfig:
    base = {
        "width": 16,
        "layers": 2,
        "patch_size": 4,
        "attention_head_dim": 8,
        "fast_weight_head_dim": 8,
        "fast_weight_expansion": 2,
        "sh_degree": 0,
    }
    return ReconstructorConfig(**{**base, **changes})


def tiny_model(seed: int = 0, **changes: object) -> Reconstructor:
    """A random model whose every parameter matters: no gain stays 1, no projection near 0."""
    torch.manual_seed(seed)
    model = Reconstructor(tiny_config(**changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            assert parameter.abs().sum() > 0, name
    return model


def random_views(
    views: int,
    *,
    batch: int = 1,
    height: int = 8,
    width: int = 12,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """image (B,V,3,H,W), fxfycxcy (B,V,4), c2w (B,V,4,4): distinct cameras on a small arc."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, views, 3, height, width, generator=generator)
    fxfycxcy = torch.tensor([1.1 * width, 1.2 * width, 0.48 * width, 0.53 * height])
    axis_angle = 0.3 * torch.randn(batch, views, 3, generator=generator)
    skew = torch.zeros(batch, views, 3, 3)
    x, y, z = axis_angle.unbind(-1)
    skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2] = -z, y, -x
    c2w = torch.eye(4).repeat(batch, views, 1, 1)
    c2w[..., :3, :3] = torch.linalg.matrix_exp(skew - skew.mT)
    c2w[..., :3, 3] = torch.rand(batch, views, 3, generator=generator) - 0.5
    return image.to(dtype), fxfycxcy.expand(batch, views, 4).to(dtype), c2w.to(dtype)


def split_views(
    inputs: tuple[Tensor, Tensor, Tensor], per_batch: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(zip(*(t.split(per_batch, dim=1) for t in inputs)))


def max_difference(a: FastWeights, b: FastWeights) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b))

"""Mixing the tokens of a view where blocks carry no fast weights."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from ttt_core.blocks import Mlp, PreNorm, ViewAttention
from ttt_core.config import ReconstructorConfig


class Mixer(nn.Module):
    """A block without fast weights: attention inside each view, then MLP."""

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        parts = (ViewAttention(config), Mlp(config))
        self.parts = nn.ModuleList(PreNorm(config.width, part) for part in parts)

    def forward(self, x: Tensor, views: int) -> Tensor:
        attention, mlp = cast(Any, tuple(self.parts))
        x = x + attention.f(attention.ln(x), views)
        return x + mlp.f(mlp.ln(x))

"""Fourier features of place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """`phi(x) = sqrt(2/F) [sin(x Omega), cos(x Omega)]` with learned frequencies; |phi| = 1."""

    def __init__(self, features: int, deviations: Sequence[float]) -> None:
        """
        Args:
            features: F, a multiple of twice the number of deviations.
            deviations: standard deviations of the initial frequencies, radians a unit, one for
                each equal part of them.
        """
        super().__init__()
        each = features // 2 // len(deviations)
        assert 2 * each * len(deviations) == features, "checked by the configuration"
        drawn = [torch.randn(3, each) * deviation for deviation in deviations]
        self.frequencies = nn.Parameter(torch.cat(drawn, dim=1))  # (3, F/2)
        self.count = features

    def forward(self, places: Tensor) -> Tensor:
        """(..., 3) -> (..., F), in float32: half precision loses the phase."""
        with torch.autocast(places.device.type, enabled=False):
            phase = places.to(self.frequencies.dtype) @ self.frequencies
            return torch.cat((phase.sin(), phase.cos()), dim=-1) * math.sqrt(2 / self.count)

    def shift(self, matrix: Tensor, offset: Tensor) -> Tensor:
        """`R matrix` where `phi(x + offset) = R phi(x)`.

        Args:
            matrix: (B, F, K).
            offset: (B, 3).
        """
        phase = (offset.to(self.frequencies.dtype) @ self.frequencies)[..., None]  # (B, F/2, 1)
        sine, cosine = phase.sin(), phase.cos()
        upper, lower = matrix.chunk(2, dim=-2)
        return torch.cat((cosine * upper + sine * lower, cosine * lower - sine * upper), dim=-2)

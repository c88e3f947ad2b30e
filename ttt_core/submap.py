"""The frame and unit that a stream's memory works in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CONFIDENT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class SubmapFrame:
    """A frame fixed by the first batch of a stream and never moved again.

    A world point is `world_from_submap @ [scale * point, 1]`.
    """

    world_from_submap: Tensor  # (4, 4) float64, rigid
    scale: Tensor  # () float64: world units of one sub-map unit

    @classmethod
    def from_first_batch(cls, c2w: Tensor, depth: Tensor, confidence: Tensor) -> SubmapFrame:
        """First camera as the frame, median predicted depth as the unit.

        Args:
            c2w: (V, 4, 4) float64.
            depth, confidence: (V, H, W); the confident half-plane of the pixels sets the unit, all
                pixels where none is confident.
        """
        confident = depth[confidence >= _CONFIDENT]
        chosen = confident if confident.numel() else depth
        return cls(c2w[0].clone(), chosen.double().median())

    def localize(self, c2w: Tensor) -> Tensor:
        """Camera poses in this frame and unit: (V, 4, 4) float64 -> (V, 4, 4) float64."""
        local = torch.linalg.inv(self.world_from_submap).to(c2w.device) @ c2w
        local[..., :3, 3] /= self.scale.to(c2w.device)
        return local

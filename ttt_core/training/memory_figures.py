"""How a ridge memory fares along streams: its doubt where it is read, and how well it is solved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttt_core.memory import MemoryState, RidgeMemory
from ttt_core.network import PATCH, CompactNetwork, NetworkInput
from ttt_core.network.inputs import log_planes, patch_rays
from ttt_core.training.collate import StreamStep


class MemoryFigures:
    """Gathers figures at the end of streams; none for a memory that is no ridge.

    "memory/doubt": mean at the places that the last batch asks about, before it is written (1: as
    if nothing had ever been written). After the last batch, "memory/condition": the largest
    condition number of `A + lambda I`, and "memory/solution_norm": the mean Frobenius norm of the
    solved W.
    """

    def __init__(self, network: CompactNetwork) -> None:
        self._network = network
        self._doubts: list[float] = []
        self._norms: list[float] = []
        self._conditions: list[float] = []

    @torch.no_grad()
    def at_end(self, step: StreamStep, before: MemoryState, after: MemoryState) -> None:
        """Looks at streams whose last batch is `step`, and at their memory around it."""
        memory = self._network.memory
        if not isinstance(memory, RidgeMemory):
            return
        places = _read_places(step.views, self._network.config.ray_samples)
        self._doubts += memory.read(before, places)[1].mean(-1).tolist()
        self._norms += torch.linalg.matrix_norm(after["solution"]).tolist()
        # a diverged run has no eigenvalues to tell of
        finite = bool(torch.isfinite(after["gram"]).all())
        self._conditions.append(memory.condition(after) if finite else math.inf)

    def figures(self) -> dict[str, float]:
        """By name; empty where nothing was looked at."""
        if not self._doubts:
            return {}
        return {
            "memory/doubt": sum(self._doubts) / len(self._doubts),
            "memory/condition": max(self._conditions),
            "memory/solution_norm": sum(self._norms) / len(self._norms),
        }


def _read_places(views: NetworkInput, samples: int) -> Tensor:
    """(B, V*N*samples, 3): where `VolumeReader` asks for these views."""
    origins, directions = patch_rays(views, PATCH)
    depth = log_planes(views.log_range, samples).exp()[:, :, None, :, None]
    return (origins[..., None, :] + directions[..., None, :] * depth).flatten(1, -2)

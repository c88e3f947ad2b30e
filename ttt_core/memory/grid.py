"""Test-time regression on local features: surfaces in a hashed grid of many resolutions.

What is carried are sums over everything written, `sum h`, `sum h p` and `sum h c` for every corner
of a grid, where h is the share that a surface point p of colour c has in a corner (trilinear,
times its weight). Their quotients are the local regression of place and colour (Nadaraya-Watson
with hat features, or linear attention with a normaliser, arXiv 2006.16236), solved in closed form
by every write. Unlike the Fourier features of the ridge memory, which are smooth over about half a
unit, hats are as fine as what was seen; and since a sum is all there is, what was written can be
taken back and merged exactly.
Corners live in one table of constant size under a hash of their coordinates, as in Instant-NGP
(arXiv 2201.05989), but with a tag, so that none reads what another wrote. A corner all of whose
slots are taken has none; coarser ones make up for it.
Shape suffixes: B streams, N points or rays, T slots, S samples of a ray.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ttt_core.errors import StateMismatchError
from ttt_core.memory import grid_kernels, grid_torch
from ttt_core.memory.grid_torch import Recalled
from ttt_core.memory.state import MemoryState

_KEPT = 0.98  # of what is there, with every further batch
_TAGS, _SUMS = "grid_tags", "grid_sums"


class SurfacePoints(NamedTuple):
    """Points of surfaces, to be written."""

    places: Tensor  # (B, N, 3), sub-map units
    sizes: Tensor  # (B, N), of the pixels that they stand for, units
    colors: Tensor  # (B, N, 3)
    weights: Tensor  # (B, N), >= 0


class SurfaceGrid(nn.Module):
    """Fast weights in the corners of a grid; nothing about them is trained, no gradients flow.

    numba does the work on the CPU, torch elsewhere.
    """

    def __init__(self, slots: int, samples: int) -> None:
        """
        Args:
            slots: T, a power of two.
            samples: S, at which a ray is asked.
        """
        super().__init__()
        assert slots > 0 and slots & (slots - 1) == 0, "checked by the configuration"
        self.slots, self.samples = slots, samples

    def initial_state(self, streams: int, device: torch.device | str = "cpu") -> MemoryState:
        """Nothing written yet."""
        tags = torch.zeros(streams, self.slots, dtype=torch.int64, device=device)
        sums = torch.zeros(streams, self.slots, grid_kernels.SUMS, device=device)
        return MemoryState({_TAGS: tags, _SUMS: sums})

    @torch.no_grad()
    def recall(
        self,
        state: MemoryState,
        origins: Tensor,  # (B, N, 3)
        directions: Tensor,  # (B, N, 3)
        footprint: Tensor,  # (B, N)
        log_range: Tensor,  # (B, N, 2)
    ) -> Recalled:
        """What is held along rays `o + z d`, z the z-depth, sub-map units.

        Args:
            footprint: side of what a ray stands for at z = 1.
            log_range: log z of where to look.
        """
        rays = (t.float() for t in (origins, directions, footprint, log_range))
        asked = (state[_TAGS], state[_SUMS], *rays)
        if origins.device.type != "cpu":
            return grid_torch.recall(*asked, samples=self.samples)
        singles, color = torch.empty(3, *footprint.shape), torch.empty(*footprint.shape, 3)
        along = torch.empty(2, *footprint.shape, self.samples)
        found = Recalled(singles[0], singles[1], singles[2], color, along[0], along[1])
        arrays = (t.contiguous().numpy() for t in (*asked, *found))
        grid_kernels.recall(*arrays)
        return found

    def write(self, state: MemoryState, points: SurfacePoints) -> MemoryState:
        """The state after one batch."""
        return self._added(state[_TAGS].clone(), _KEPT * state[_SUMS], points)

    def amend(self, state: MemoryState, points: SurfacePoints, factor: float) -> MemoryState:
        """Add `points` `factor` times, without ageing what is there; < 0 takes them back."""
        return self._added(state[_TAGS].clone(), state[_SUMS].clone(), points, factor)

    @staticmethod
    def retention(batches: int) -> float:
        """How much of what was written is left after so many further batches, 0..1."""
        return float(_KEPT**batches)

    def merge(self, one: MemoryState, other: MemoryState) -> MemoryState:
        """The memory of everything that was written into two memories of the same frame.

        Exact but for corners of `other` that find their slots taken.

        Raises:
            StateMismatchError: their numbers of streams or slots differ.
        """
        if one[_SUMS].shape != other[_SUMS].shape:
            raise StateMismatchError(
                f"memories of shape {tuple(one[_SUMS].shape)} and {tuple(other[_SUMS].shape)} "
                "cannot be merged: give states of the same model and number of streams"
            )
        return self._state(*grid_torch.merged(one[_TAGS], one[_SUMS], other[_TAGS], other[_SUMS]))

    @torch.no_grad()
    def _added(
        self, tags: Tensor, sums: Tensor, points: SurfacePoints, factor: float = 1.0
    ) -> MemoryState:
        given = (t.detach().float().contiguous() for t in points)
        if sums.device.type != "cpu":
            return self._state(*grid_torch.added(tags, sums, *given, factor=factor))
        grid_kernels.add(tags.numpy(), sums.numpy(), *(t.numpy() for t in given), factor)
        return self._state(tags, sums)

    @staticmethod
    def _state(tags: Tensor, sums: Tensor) -> MemoryState:
        return MemoryState({_TAGS: tags, _SUMS: sums})

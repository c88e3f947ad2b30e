"""The splats under refinement: one flat store with its optimiser state, in world coordinates.

Splats live in chunks (camera frames with a pose each); optimising wants them flat, in one frame.
This store is that view of a map: rows of log scales, logits and colours relative to a float64
origin, each with the chunk it belongs to. A moved chunk moves its rows and forgets their first
moments, which pointed along the old axes.

Splats are there twice: as the last step left them, which is what the next one goes on from, and
averaged over their last steps, which is what others get to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder.refine.adam import COLOR, COLUMNS, LOG_SCALE, LOGIT, MEAN, QUAT, activate_rows
from gs_decoder.refine.harmonics import colors_from, harmonic_columns
from gs_decoder.rotations import multiply_quaternions, quaternion_from_matrix
from gs_decoder.sh import C0, sh_rotation
from gs_decoder.splats import Splats

Float32 = NDArray[np.float32]
_GROWTH = 1.5
_SMALLEST_SCALE = 1e-9
_LOGIT_BOUND = 9.0
_ALL = np.zeros(0, np.bool_)
SPLATS = ("rows", "average", "moment1", "moment2", "steps", "chunk")
"""The arrays of `SplatParameters` that say all of a splat."""


def _activated(count: int) -> tuple[Float32, Float32, Float32, Float32, Float32]:
    """Room for means, quaternions, scales, opacities and colours."""
    mean, quat, scale, color = (np.zeros((count, width), np.float32) for width in (3, 4, 3, 3))
    return mean, quat, scale, np.zeros(count, np.float32), color


class SplatParameters:
    """Flat parameters of all splats of a map.

    Attributes (the first `count` rows are in use, C = 14 + `harmonic_columns(sh_degree)`):
        rows: (capacity, C) float32: mean 3, quaternion wxyz 4, log scale 3, opacity logit 1, RGB 3,
            SH coefficients from 1 on, rgb each
        average: (capacity, C) float32, the same averaged over a splat's last steps
        chunk: (capacity,) int64, the chunk each splat belongs to
        means, quats, scales, opacities, colors: the activated copies that the rasteriser reads,
            `colors` without what depends on the direction (see `seen_from`)
    """

    def __init__(self, capacity: int = 16384, sh_degree: int = 0) -> None:
        self.count = 0
        self.sh_degree = sh_degree
        self.rows = np.zeros((capacity, COLUMNS + harmonic_columns(sh_degree)), np.float32)
        self.average = np.zeros_like(self.rows)
        self.moment1 = np.zeros_like(self.rows)
        self.moment2 = np.zeros_like(self.rows)
        self.steps = np.zeros(capacity, np.int32)
        self.chunk = np.full(capacity, -1, np.int64)
        self._allocate_activated(capacity)

    @property
    def capacity(self) -> int:
        return len(self.rows)

    def _allocate_activated(self, capacity: int) -> None:
        arrays = _activated(capacity)
        self.means, self.quats, self.scales, self.opacities, self.colors = arrays

    def _reserve(self, count: int) -> None:
        if count <= self.capacity:
            return
        capacity = max(count, int(self.capacity * _GROWTH))
        for name in SPLATS:
            old = getattr(self, name)
            new = np.zeros((capacity, *old.shape[1:]), old.dtype)
            new[: self.count] = old[: self.count]
            setattr(self, name, new)
        self._allocate_activated(capacity)
        self.activate()

    def activate(
        self,
        first: int = 0,
        last: int | None = None,
        which: NDArray[np.bool_] = _ALL,
    ) -> None:
        """Refresh the activated copies of splats first … last-1 (default: all).

        Args:
            which: (capacity,) only these of them.
        """
        activate_rows(
            first,
            self.count if last is None else last,
            self.rows,
            self.means,
            self.quats,
            self.scales,
            self.opacities,
            self.colors,
            which,
        )

    def add(self, chunk: int, splats: Splats) -> None:
        """Append splats given in this store's world frame; their optimiser state starts fresh."""
        first, last = self.count, self.count + splats.count
        self._reserve(last)
        rows = self.rows[first:last]
        rows[:, MEAN:QUAT] = splats.means.numpy()
        rows[:, QUAT:LOG_SCALE] = splats.quats_wxyz.numpy()
        rows[:, LOG_SCALE:LOGIT] = np.log(np.maximum(splats.scales.numpy(), _SMALLEST_SCALE))
        rows[:, LOGIT] = np.clip(
            torch.logit(splats.opacities, eps=1e-6).numpy(), -_LOGIT_BOUND, _LOGIT_BOUND
        )
        rows[:, COLOR:COLUMNS] = 0.5 + C0 * splats.sh[:, 0].numpy()
        rest = splats.with_sh_degree(self.sh_degree).sh[:, 1:]
        rows[:, COLUMNS:] = rest.flatten(1).numpy()
        self.average[first:last] = rows
        self.moment1[first:last] = 0.0
        self.moment2[first:last] = 0.0
        self.steps[first:last] = 0
        self.chunk[first:last] = chunk
        self.count = last
        self.activate(first, last)

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Hold these splats in the place of all others.

        Args:
            arrays: all of `SPLATS`, of one length.
        """
        self.count = 0
        self.append(arrays)

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Hold these splats too; arrays as in `load`, of any SH degree: what one of more has is
        cut off, what one of less has not is 0."""
        first, last = self.count, self.count + len(arrays["rows"])
        self._reserve(last)
        for name, array in arrays.items():
            mine = getattr(self, name)[first:last]
            if array.shape == mine.shape:
                mine[:] = array
            else:
                width = min(array.shape[1], mine.shape[1])
                mine[:, :width], mine[:, width:] = array[:, :width], 0
        self.count = last
        self.activate(first, last)

    def select(self, keep: NDArray[np.bool_]) -> None:
        """Keep only the splats marked in `keep` (count,); order is preserved."""
        kept = int(keep.sum())
        for name in SPLATS:
            array = getattr(self, name)
            array[:kept] = array[: self.count][keep]
        self.count = kept
        self.activate()

    def used(self) -> dict[str, NDArray[Any]]:
        """The rows in use of each of `SPLATS`, not copied."""
        return {name: getattr(self, name)[: self.count] for name in SPLATS}

    def chunks(self) -> list[int]:
        """The chunks that have splats here."""
        return np.unique(self.chunk[: self.count]).tolist()

    def splats(self, indices: NDArray[np.int64] | slice = slice(None)) -> Splats:
        """A copy of these splats as others see them, in the store's world frame."""
        rows = self.average[: self.count][indices]
        activated = _activated(len(rows))
        activate_rows(0, len(rows), rows, *activated, _ALL)
        means, quats, scales, opacities, colors = map(torch.from_numpy, activated)
        sh = ((colors - 0.5) / C0)[:, None, :]
        if self.sh_degree:
            rest = torch.from_numpy(rows[:, COLUMNS:].copy()).unflatten(1, (-1, 3))
            sh = torch.cat([sh, rest], 1)
        return Splats(means=means, quats_wxyz=quats, scales=scales, opacities=opacities, sh=sh)

    def seen_from(self, center: Float32, which: NDArray[np.int64]) -> Float32:
        """(M, 3) colours of these splats as they look from a place, (3,) in this frame; not
        clamped."""
        if not self.sh_degree:
            return self.colors[which]
        colors = np.empty((len(which), 3), np.float32)
        colors_from(center, self.sh_degree, self.rows, which, colors)
        return colors

    def transform(self, motions: Mapping[int, NDArray[np.float64]]) -> None:
        """Move whole chunks: `motions[chunk]` is the 4x4 similarity new-from-old in this frame.

        All chunks in one pass, because a loop closure moves thousands of them.
        """
        if not motions or self.count == 0:
            return
        ids = np.array(sorted(motions), np.int64)
        matrices = np.stack([motions[int(i)] for i in ids])
        factors = np.cbrt(np.linalg.det(matrices[:, :3, :3]))
        rotations = matrices[:, :3, :3] / factors[:, None, None]
        quaternions = quaternion_from_matrix(torch.from_numpy(rotations)).numpy()
        place = np.searchsorted(ids, self.chunk[: self.count])
        moved = np.flatnonzero(ids[np.minimum(place, len(ids) - 1)] == self.chunk[: self.count])
        which = place[moved]
        for rows in (self.rows, self.average):
            rows[moved, MEAN:QUAT] = (
                np.einsum("nij,nj->ni", matrices[which, :3, :3], rows[moved, MEAN:QUAT])
                + matrices[which, :3, 3]
            )
            rows[moved, QUAT:LOG_SCALE] = multiply_quaternions(
                torch.from_numpy(quaternions[which]),
                torch.from_numpy(rows[moved, QUAT:LOG_SCALE].astype(np.float64)),
            ).numpy()
            rows[moved, LOG_SCALE:LOGIT] += np.log(factors)[which, None]
        for band, turns in enumerate(sh_rotation(rotations, self.sh_degree), start=1):
            first, last = (COLUMNS + harmonic_columns(degree) for degree in (band - 1, band))
            turn = turns.numpy().astype(np.float32)[which]
            for rows in (self.rows, self.average):
                bands = rows[moved, first:last].reshape(-1, 2 * band + 1, 3)
                rows[moved, first:last] = (turn @ bands).reshape(-1, last - first)
        self.moment1[moved, :LOG_SCALE] = 0.0
        self.moment1[moved, COLUMNS:] = 0.0
        self.activate()

"""A truncated signed distance in sparse blocks of voxels: depth images in, triangles out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gs_decoder.mesh import closing, kernels
from gs_decoder.mesh.kernels import CELLS, REACH, SIDE
from gs_decoder.mesh.triangles import Mesh, without_flaps

BLOCK_BYTES = CELLS * (4 + 4 + 12 + 4 + 4 + 1) + 27 * 4 + 8 + 24
"""Memory of one block: distance, weight, colour and its weight, the vertices' numbers, rings."""
_STRIDE = 2


class MeshError(ValueError):
    """A mesh that cannot be made; the message says why and what would help."""


@dataclass(frozen=True, slots=True, eq=False)
class DepthView:
    """What one camera sees: pinhole, OpenCV axes, first pixel's centre at (0.5, 0.5)."""

    depth: NDArray[np.float32]
    """(H, W) z-depth, 0 = none."""
    confidence: NDArray[np.float32]
    """(H, W) weight of the pixel in the average, 0..1."""
    colour: NDArray[np.uint8]
    """(H, W, 3) rgb."""
    K: NDArray[np.float64]
    """(3, 3), pixels."""
    c2w: NDArray[np.float64]
    """(4, 4) rigid, in the volume's frame."""


class TsdfVolume:
    """The blocks around the surfaces of some views, to be filled by `integrate`.

    Distances are averaged as in Curless and Levoy 1996, in blocks as in Nießner et al. 2013. All
    lengths are world units; the frame is that of the views' poses. Results do not depend on the
    number of threads.

    Args:
        keys: sorted blocks, as `surface_blocks` makes them.
        voxel: side of a voxel. truncation: distance before and behind a surface that is kept.
        threads: None takes what `numba.get_num_threads()` says.
    """

    def __init__(
        self,
        keys: NDArray[np.int64],
        voxel: float,
        truncation: float,
        *,
        threads: int | None = None,
    ) -> None:
        self.voxel, self.truncation = voxel, truncation
        self._threads = threads or int(numba.get_num_threads())
        self._keys = keys
        self._corners = _coordinates(keys) * (SIDE * voxel)
        count = len(keys)
        self._distance = np.ones((count, CELLS), np.float32)
        self._weight = np.zeros((count, CELLS), np.float32)
        self._rgb = np.zeros((count, CELLS, 3), np.float32)
        self._rgb_weight = np.zeros((count, CELLS), np.float32)

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self._keys)

    def integrate(self, view: DepthView) -> None:
        """Average a view into the blocks."""
        w2c = np.linalg.inv(view.c2w).astype(np.float64)

        def part(first: int) -> None:
            kernels.integrate(
                self._corners,
                first,
                self._threads,
                self.voxel,
                self.truncation,
                view.depth,
                view.confidence,
                view.colour,
                view.K,
                w2c,
                self._distance,
                self._weight,
                self._rgb,
                self._rgb_weight,
            )

        self._share_out(part)

    def surface(self, least_weight: float = 0.1, close: int = 0) -> Mesh:
        """The zero crossing between voxels whose weights are at least `least_weight`.

        Nothing is integrated afterwards.

        Args:
            close: voxels by which distances are carried on into what was not seen, from all sides,
                as Davis et al. 2002 do. Of the surface there only what closes a hole wholly stays:
                no rim grows, and what was seen to be free stays so. 0: holes stay.
        """
        near = self._neighbours()
        reached = (self._weight >= least_weight).astype(np.uint8)
        self._carry_on(near, reached, close)
        number = np.empty((self.blocks, CELLS), np.int32)

        def vertices(
            positions: NDArray[np.float64], colours: NDArray[np.float32], seen: NDArray[np.bool_]
        ) -> int:
            return int(
                kernels.surface_vertices(
                    near,
                    self._corners,
                    self.voxel,
                    self._distance,
                    reached,
                    self._rgb,
                    self._rgb_weight,
                    number,
                    positions,
                    colours,
                    seen,
                )
            )

        count = vertices(np.zeros((0, 3)), np.zeros((0, 3), np.float32), np.zeros(0, bool))
        positions, colours = np.zeros((count, 3)), np.zeros((count, 3), np.float32)
        seen = np.zeros(count, bool)
        if count:
            vertices(positions, colours, seen)
        empty = np.zeros((0, 3), np.int32)
        faces = np.zeros((kernels.surface_faces(near, self._distance, number, empty), 3), np.int32)
        if len(faces):
            kernels.surface_faces(near, self._distance, number, faces)
        rounded = np.clip(np.round(colours), 0, 255).astype(np.uint8)
        mesh = Mesh(positions.astype(np.float32), faces, rounded)
        # Triangles come in pairs, one pair of four vertices.
        firm = seen[faces].all(axis=1).reshape(-1, 2).all(axis=1).repeat(2)
        # At the rim of what was seen there are vertices without a triangle.
        return mesh.select(without_flaps(faces, firm))

    def _carry_on(self, near: NDArray[np.int32], reached: NDArray[np.uint8], rings: int) -> None:
        """Distances and colours for `rings` voxels around those that were seen; `reached` grows."""
        for ring in range(2, rings + 2):

            def outwards(first: int, ring: int = ring) -> None:
                closing.grow(
                    near,
                    first,
                    self._threads,
                    ring,
                    self._distance,
                    self._rgb,
                    self._rgb_weight,
                    reached,
                )

            self._share_out(outwards)
        # Two sweeps a ring, of two parities each: what is on one side of a hole reaches the other.
        for sweep in range(4 * rings):

            def relax(first: int, parity: int = sweep & 1) -> None:
                closing.smooth(near, first, self._threads, parity, self._distance, reached)

            self._share_out(relax)

    def _share_out(self, part: Callable[[int], None]) -> None:
        """Call `part` with each number of a thread, in threads."""
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(part, range(self._threads)))

    def _neighbours(self) -> NDArray[np.int32]:
        """(B, 27) the blocks around each block, x slowest; -1 where there is none."""
        near = np.full((self.blocks, 27), -1, np.int32)
        place = 0
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                for dz in (-1, 0, 1):
                    # Coordinates at the very edge of REACH would carry over: no view reaches it.
                    wanted = self._keys + (dx << 42) + (dy << 21) + dz
                    at = np.searchsorted(self._keys, wanted)
                    at = np.minimum(at, self.blocks - 1)
                    found = self._keys[at] == wanted
                    near[found, place] = at[found]
                    place += 1
        return near


def surface_blocks(
    views: Iterable[DepthView], voxel: float, truncation: float
) -> NDArray[np.int64]:
    """Sorted keys of the blocks within `truncation` of what the views see.

    Raises:
        MeshError: the views reach farther than blocks can be counted.
    """
    found: list[NDArray[np.int64]] = []
    for view in views:
        room = view.depth.size // _STRIDE
        while True:
            keys = np.empty(room, np.int64)
            count = kernels.touched_blocks(
                view.depth, view.K, view.c2w, SIDE * voxel, truncation, _STRIDE, keys
            )
            if count == -2:
                raise MeshError(
                    f"--voxel: {voxel:g} is too small for a map of this size: leave it out, or "
                    f"give at least {voxel * 16:g}"
                )
            if count >= 0:
                break
            room *= 2
        found.append(np.unique(keys[:count]))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _coordinates(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    mask = (1 << 21) - 1
    parts = [(keys >> shift) & mask for shift in (42, 21, 0)]
    return np.stack(parts, -1).astype(np.float64) - REACH

"""Compiled parts that close holes: distances carried on into voxels that nobody saw.

As Davis et al. 2002 ("Filling holes in complex surfaces using volumetric diffusion"), but ring by
ring and then relaxed, so that it ends. Blocks and cells are those of `kernels`.
"""

from __future__ import annotations

import numba

from gs_decoder.mesh.kernels import CELLS, SIDE, Float32, Int32, UInt8, place


@numba.njit(nogil=True, cache=True)
def _beside(near: Int32, b: int, at: int, side: int) -> tuple[int, int]:
    """(block, cell) of the voxel behind one of the six sides of cell `at`; block -1: none."""
    d = 1 - 2 * (side & 1)
    return place(
        near,
        b,
        at // SIDE**2 + (d if side < 2 else 0),
        at // SIDE % SIDE + (d if 2 <= side < 4 else 0),
        at % SIDE + (d if side >= 4 else 0),
    )


@numba.njit(nogil=True, cache=True)
def grow(
    near: Int32,
    first: int,
    step: int,
    ring: int,
    distance: Float32,
    rgb: Float32,
    rgb_weight: Float32,
    reached: UInt8,
) -> None:
    """Ring number `ring` of voxels around what is known, in blocks `first`, `first + step`, ….

    A voxel with neighbours of earlier rings takes the mean of their distances and colours.

    Args:
        near: (B, 27) blocks around each block, -1 = none.
        reached: (B, 512) 0 = unknown, 1 = seen, else the ring in which it was reached; others of
            the same ring are not looked at, so that the order makes no difference.
    """
    for b in range(first, len(reached), step):
        for at in range(CELLS):
            if reached[b, at] != 0:
                continue
            count, shades = 0, 0
            total = red = green = blue = 0.0
            for side in range(6):
                other, cell = _beside(near, b, at, side)
                if other < 0 or reached[other, cell] == 0 or reached[other, cell] >= ring:
                    continue
                count += 1
                total += distance[other, cell]
                if rgb_weight[other, cell] > 0.0:
                    shades += 1
                    red += rgb[other, cell, 0]
                    green += rgb[other, cell, 1]
                    blue += rgb[other, cell, 2]
            if count == 0:
                continue
            distance[b, at] = total / count
            rgb_weight[b, at] = 0.0
            if shades:
                rgb_weight[b, at] = 1.0
                rgb[b, at, 0] = red / shades
                rgb[b, at, 1] = green / shades
                rgb[b, at, 2] = blue / shades
            reached[b, at] = ring


@numba.njit(nogil=True, cache=True)
def smooth(
    near: Int32, first: int, step: int, parity: int, distance: Float32, reached: UInt8
) -> None:
    """Every voxel of the rings whose i + j + k has this parity takes the mean of its neighbours.

    With both parities in turn it is a Gauss-Seidel sweep of the Laplace equation, in any order of
    the blocks. Arguments as of `grow`.
    """
    for b in range(first, len(reached), step):
        for at in range(CELLS):
            if reached[b, at] < 2 or (at // SIDE**2 + at // SIDE + at) & 1 != parity:
                continue
            count, total = 0, 0.0
            for side in range(6):
                other, cell = _beside(near, b, at, side)
                if other >= 0 and reached[other, cell] != 0:
                    count += 1
                    total += distance[other, cell]
            distance[b, at] = total / count

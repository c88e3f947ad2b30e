"""The exposure gain that takes a render to its picture."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_FLOOR = 0.05
"""Differences below this are noise, and count alike."""


def gain_step(exposed: Float32, target: Float32, told: NDArray[np.bool_]) -> Float32:
    """(3,) change of the log gain that brings the exposed render (H, W, 3) closest to the target.

    One Gauss-Newton step of a sum of |differences| (weights 1 / |difference|), so that what is
    plainly wrong in the map does not count as exposure.

    Args:
        told: (H, W) pixels that tell; without any the step is 0.
    """
    sums = np.zeros((2, 3))
    _add_up(exposed, target, told, _FLOOR, sums)
    return (sums[0] / (sums[1] + 1e-6)).astype(np.float32)


@numba.njit(nogil=True, cache=True, fastmath=False)
def _add_up(
    exposed: Float32,  # (H, W, 3)
    target: Float32,  # (H, W, 3)
    told: NDArray[np.bool_],  # (H, W)
    floor: float,
    sums: NDArray[np.float64],  # out (2, 3): what is missing, and what is there, weighted
) -> None:
    height, width = told.shape
    least = np.float32(floor)
    for row in range(height):
        for column in range(width):
            if not told[row, column]:
                continue
            for k in range(3):
                shown = exposed[row, column, k]
                missing = target[row, column, k] - shown
                weight = shown / (abs(missing) + least)
                sums[0, k] += weight * missing
                sums[1, k] += weight * shown

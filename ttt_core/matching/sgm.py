"""Semi-global matching: smooth depth along eight paths through every pixel.

Hirschmüller, "Stereo Processing by Semiglobal Matching and Mutual Information", PAMI 2008:
small penalty for a step of one plane, a large one for any other, lowered where the image
itself has an edge.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_F = np.float32
# Helpers are forced inline for the same two reasons as in the sweep.
_FAST = {"contract", "reassoc", "nsz", "nnan", "ninf"}


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _step(
    cost: NDArray[np.float32],
    before: NDArray[np.float32],
    lowest_before: np.float32,
    small: np.float32,
    large: np.float32,
    path: NDArray[np.float32],
    total: NDArray[np.float32],
) -> np.float32:
    """One pixel of one path: `path` (D+2, guarded at both ends) from `before`; returns its minimum.

    The guards hold a large value, so that the first and the last plane need no branch.
    """
    planes = cost.shape[0]
    ceiling = lowest_before + large
    for d in range(planes):
        here = before[d + 1]
        near = before[d] + small
        far = before[d + 2] + small
        value = here if here < near else near
        value = value if value < far else far
        value = value if value < ceiling else ceiling
        value = cost[d] + value - lowest_before
        path[d + 1] = value
        total[d] += value
    lowest = path[1]
    for d in range(1, planes):
        value = path[d + 1]
        lowest = value if value < lowest else lowest
    return lowest


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _scan(
    cost: NDArray[np.float32],
    image: NDArray[np.float32],
    small: np.float32,
    large: np.float32,
    edge: np.float32,
    total: NDArray[np.float32],
    forward: bool,
) -> None:
    """Adds the four paths that come from above (`forward`) or below."""
    rows, columns, planes = cost.shape
    guard = _F(1e9)
    upper = np.zeros((3, columns + 2, planes + 2), np.float32)
    lower = np.zeros((3, columns + 2, planes + 2), np.float32)
    upper_lowest = np.zeros((3, columns + 2), np.float32)
    lower_lowest = np.zeros((3, columns + 2), np.float32)
    side = np.zeros((2, planes + 2), np.float32)
    for buffer in (upper, lower):
        buffer[:, :, 0] = guard
        buffer[:, :, planes + 1] = guard
    side[:, 0] = guard
    side[:, planes + 1] = guard
    for i in range(rows):
        y = i if forward else rows - 1 - i
        y_before = y - 1 if forward else y + 1
        side[:, 1 : planes + 1] = _F(0.0)
        side_lowest = _F(0.0)
        for j in range(columns):
            x = j if forward else columns - 1 - j
            value = image[y, x]
            if j > 0:
                step = abs(value - image[y, x - 1 if forward else x + 1])
            else:
                step = _F(0.0)
            p2 = large / (_F(1.0) + step * edge)
            p2 = p2 if p2 > small else small
            side_lowest = _step(
                cost[y, x], side[j & 1], side_lowest, small, p2, side[1 - (j & 1)], total[y, x]
            )
            for k in range(3):
                # Slots are shifted by one: slots 0 and columns + 1 stay zero, the paths' starts.
                x_before = x + k - 1
                step = _F(0.0)
                if i > 0 and 0 <= x_before < columns:
                    step = abs(value - image[y_before, x_before])
                p2 = large / (_F(1.0) + step * edge)
                p2 = p2 if p2 > small else small
                lower_lowest[k, x + 1] = _step(
                    cost[y, x],
                    upper[k, x_before + 1],
                    upper_lowest[k, x_before + 1],
                    small,
                    p2,
                    lower[k, x + 1],
                    total[y, x],
                )
        upper, lower = lower, upper
        upper_lowest, lower_lowest = lower_lowest, upper_lowest


@numba.njit(nogil=True, cache=True, error_model="numpy")
def aggregate(
    cost: NDArray[np.float32],
    image: NDArray[np.float32],
    small_penalty: float,
    large_penalty: float,
    edge_contrast: float,
    total: NDArray[np.float32],
) -> None:
    """Fills `total` (H,W,D) with the mean over eight paths of the aggregated `cost` (H,W,D).

    image (H,W) float32 grey; the large penalty is divided by 1 + |step| / `edge_contrast` where
    the grey value steps, never below the small one.
    """
    total[:] = _F(0.0)
    edge = _F(1.0 / edge_contrast)
    # One call: each with a constant would be compiled for itself, in twice the time.
    for forward in (True, False):
        _scan(cost, image, _F(small_penalty), _F(large_penalty), edge, total, forward)
    total *= _F(0.125)

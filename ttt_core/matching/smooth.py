"""Takes the planes' staircase out of a depth picture, keeping its edges."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_F = np.float32
_RADIUS = 2


@numba.njit(nogil=True, cache=True, error_model="numpy")
def smooth_surface(
    log_depth: NDArray[np.float32],
    weights: NDArray[np.float32],
    fixed: NDArray[np.bool_],
    reach: np.float32,
    smoothed: NDArray[np.float32],
) -> None:
    """Fills `smoothed` (H,W) with means over 5x5 neighbours, weighted by `weights` and closeness.

    A neighbour whose log depth differs by `reach` or more is on another surface and counts
    nothing (Tukey's biweight); pixels that are `fixed` (sensor depth) stay as they are. The window
    is symmetric, so slopes stay; only what is rougher than a surface goes.
    """
    rows, columns = log_depth.shape
    for y in range(rows):
        for x in range(columns):
            here = log_depth[y, x]
            total = _F(1e-6) * here
            weight = _F(1e-6)
            if not fixed[y, x]:
                for i in range(max(y - _RADIUS, 0), min(y + _RADIUS + 1, rows)):
                    for j in range(max(x - _RADIUS, 0), min(x + _RADIUS + 1, columns)):
                        t = (log_depth[i, j] - here) / reach
                        closeness = _F(1.0) - t * t
                        closeness = closeness if closeness > _F(0.0) else _F(0.0)
                        share = weights[i, j] * closeness * closeness
                        total += share * log_depth[i, j]
                        weight += share
            smoothed[y, x] = total / weight

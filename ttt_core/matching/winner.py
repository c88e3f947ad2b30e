"""From an aggregated cost volume to a sub-plane winner and the figures that judge it."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_F = np.float32


@numba.njit(nogil=True, cache=True, error_model="numpy")
def pick_winner(
    total: NDArray[np.float32],
    raw: NDArray[np.float32],
    temperature: np.float32,
    window: int,
    index: NDArray[np.float32],
    mass: NDArray[np.float32],
    cost: NDArray[np.float32],
) -> None:
    """Best plane of every pixel, by a parabola through its neighbours.

    total, raw: (H,W,D) aggregated and raw matching cost. Fills index (H,W) with the fractional
    plane, mass (H,W) with the share of exp(-total/temperature) within `window` planes of it, and
    cost (H,W) with the raw cost there.
    """
    rows, columns, planes = total.shape
    inverse = _F(1.0) / temperature
    for y in range(rows):
        for x in range(columns):
            best = 0
            lowest = total[y, x, 0]
            for d in range(1, planes):
                if total[y, x, d] < lowest:
                    lowest = total[y, x, d]
                    best = d
            everywhere = _F(0.0)
            inside = _F(0.0)
            for d in range(planes):
                excess = (total[y, x, d] - lowest) * inverse
                if excess < _F(12.0):
                    share = np.exp(-excess)
                    everywhere += share
                    if abs(d - best) <= window:
                        inside += share
            shift = _F(0.0)
            if 0 < best < planes - 1:
                before = total[y, x, best - 1] - lowest
                after = total[y, x, best + 1] - lowest
                if before + after > _F(1e-9):
                    shift = _F(0.5) * (before - after) / (before + after)
            index[y, x] = _F(best) + shift
            mass[y, x] = inside / everywhere
            cost[y, x] = raw[y, x, best]

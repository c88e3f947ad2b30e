"""Do other views, by their own depths, see the same surface?"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_F = np.float32


@numba.njit(nogil=True, cache=True, error_model="numpy")
def compare_depths(
    depth: NDArray[np.float32],
    other_depth: NDArray[np.float32],
    other_trust: NDArray[np.float32],
    rotation: NDArray[np.float64],
    offset: NDArray[np.float64],
    tolerance: float,
    least_trust: float,
    agree: NDArray[np.float32],
    against: NDArray[np.float32],
) -> None:
    """Adds one other view's opinion on every pixel of `depth` (H,W) to `agree` and `against`.

    A pixel's point is moved into the other view (`geometry.relative`) and its depth there compared
    with that view's own. Within `tolerance` (natural logarithm) it agrees. Where the other view
    looks past the point, to something farther, one of the two is wrong: against. Where it sees
    something nearer, the point may be hidden: no opinion. Votes count by `other_trust`, from
    `least_trust` on.
    """
    rows, columns = depth.shape
    other_rows, other_columns = other_depth.shape
    for y in range(rows):
        for x in range(columns):
            z = depth[y, x]
            px = x + 0.5
            py = y + 0.5
            w = rotation[2, 0] * px + rotation[2, 1] * py + rotation[2, 2] + offset[2] / z
            if w <= 1e-9:
                continue
            u = (rotation[0, 0] * px + rotation[0, 1] * py + rotation[0, 2] + offset[0] / z) / w
            v = (rotation[1, 0] * px + rotation[1, 1] * py + rotation[1, 2] + offset[1] / z) / w
            if not (0.0 <= u < other_columns and 0.0 <= v < other_rows):
                continue
            ui = int(u)
            vi = int(v)
            trust = other_trust[vi, ui]
            if trust < least_trust:
                continue
            difference = np.log(other_depth[vi, ui] / (w * z))
            if abs(difference) <= tolerance:
                agree[y, x] += trust
            elif difference > 0:
                against[y, x] += trust

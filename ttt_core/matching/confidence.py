"""How likely a matched depth is right: from the cost volume, from neighbours, from other views."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_F = np.float32

# Logistic regression on real key frames with sensor depth, several spacings and batch sizes, with
# and without other views' depths; fitted on one half of them it predicts the other as well.
_BIAS = -2.75
_SHARPNESS = 0.31
_COST = -0.6
_AGREE = 0.64
_AGAINST = -0.3
_SUPPORT = 2.2
_AT_END = -1.45


@numba.njit(nogil=True, cache=True, error_model="numpy")
def neighbour_support(
    log_depth: NDArray[np.float32],
    radius: int,
    tolerance: np.float32,
    support: NDArray[np.float32],
) -> None:
    """Fills `support` (H,W) with the share of the window whose depth is within `tolerance`."""
    rows, columns = log_depth.shape
    for y in range(rows):
        y0, y1 = max(y - radius, 0), min(y + radius + 1, rows)
        for x in range(columns):
            x0, x1 = max(x - radius, 0), min(x + radius + 1, columns)
            here = log_depth[y, x]
            near = 0
            for i in range(y0, y1):
                for j in range(x0, x1):
                    near += abs(log_depth[i, j] - here) <= tolerance
            support[y, x] = _F(near - 1) / _F(max((y1 - y0) * (x1 - x0) - 1, 1))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def depth_parallax(
    depth: NDArray[np.float32],
    rotations: NDArray[np.float64],
    offsets: NDArray[np.float64],
    sizes: NDArray[np.int64],
    parallax: NDArray[np.float32],
) -> None:
    """Fills `parallax` (H,W) with pixels that a point moves per unit of log depth.

    That of the source in which it moves most, among the sources (`sweep_cost`) that see it; 0
    where none does.
    """
    rows, columns = depth.shape
    for y in range(rows):
        for x in range(columns):
            q = 1.0 / depth[y, x]
            most = 0.0
            for s in range(rotations.shape[0]):
                m = rotations[s]
                e = offsets[s]
                w = m[2, 0] * (x + 0.5) + m[2, 1] * (y + 0.5) + m[2, 2] + q * e[2]
                if w <= 1e-9:
                    continue
                u = (m[0, 0] * (x + 0.5) + m[0, 1] * (y + 0.5) + m[0, 2] + q * e[0]) / w
                v = (m[1, 0] * (x + 0.5) + m[1, 1] * (y + 0.5) + m[1, 2] + q * e[1]) / w
                if not (0.0 <= u <= sizes[s, 1] and 0.0 <= v <= sizes[s, 0]):
                    continue
                du = q * (e[0] - u * e[2]) / w
                dv = q * (e[1] - v * e[2]) / w
                most = max(most, du * du + dv * dv)
            parallax[y, x] = np.sqrt(most)


def matching_confidence(
    *,
    mass: NDArray[np.float32],
    cost: NDArray[np.float32],
    support: NDArray[np.float32],
    at_end: NDArray[np.bool_],
    agree: NDArray[np.float32],
    against: NDArray[np.float32],
    parallax: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(H,W) probability that a depth is within 5 % of the truth, all arguments (H,W).

    A logistic model of the probability mass around the winner, its matching cost, the share of
    neighbours at the same depth, whether the winner is the first or last plane (the truth may lie
    beyond), and the votes of other views (two of either kind say all); then lowered where a
    tenth of the depth moves less than half a pixel: no picture can tell such depths apart.
    """
    score = (
        _BIAS
        - _SHARPNESS * np.log(1.02 - mass)
        + _COST * cost
        + _SUPPORT * support
        + _AT_END * at_end
        + _AGREE * np.minimum(agree, 2.0)
        + _AGAINST * np.minimum(against, 2.0)
    )
    visible = np.clip(0.1 * parallax / 0.5, 0.0, 1.0)
    return (visible / (1.0 + np.exp(-score))).astype(np.float32)

"""Adam on splat parameters, fused over all of them and sparse over splats.

Only splats that a step's views touched move (the "selective Adam" of Taming 3DGS, Mallick et al.
2024): a stream looks at a part of its map, and moments of the rest must not drift. Each splat
counts its own steps, so a splat that was added late gets the bias correction of its own age.

A stream has no end that rates could fall towards (they do where one is in sight: `schedule`), so
they stay high and splats do not come to rest. What is shown is therefore an average over the last
of each splat's own steps, with weights that need no horizon either (polynomial decay, Shamir and
Zhang, arXiv 1212.1824, section 4).
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

# Columns of the parameter and moment rows; those of harmonics come after them.
MEAN, QUAT, LOG_SCALE, LOGIT, COLOR = 0, 3, 7, 10, 11
COLUMNS = 14

BETA1 = 0.9
BETA2 = 0.99
EPSILON = 1e-8


@numba.njit(nogil=True, cache=True, fastmath=False)
def adam_rows(
    first: int,
    last: int,
    rows: NDArray[np.float32],  # (N, C) parameters, C = 14 and more with harmonics
    average: NDArray[np.float32],  # (N, C) of them over the last steps
    moment1: NDArray[np.float32],  # (N, C)
    moment2: NDArray[np.float32],  # (N, C)
    steps: NDArray[np.int32],  # (N,)
    gradient: NDArray[np.float32],  # (N, C) with respect to the parameters in `rows`
    seen: NDArray[np.bool_],  # (N,)
    rates: NDArray[np.float32],  # (C,), the three for means in units of the splat's own size
    eagerness: NDArray[np.float32],  # (C,) factors on the rates of a new, transparent splat
    settling: float,  # steps of its own by which half of that is gone
    tail: float,  # the average is over about the last 1 / tail of a splat's steps
    longest: float,  # and never over more than about so many
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """One step on splats first … last-1, in place.

    How opaque a splat is says how sure it is of its place: the transparent ones move faster while
    they are young.

    Colours may fall below 0, although whoever shows the map clamps them: clamping them after
    every step cost 2.7 dB held-out on `skull` (one seed; why was not looked into).
    """
    # float32 throughout and no branch in the inner loop: so that it becomes vector instructions.
    one = np.float32(1.0)
    keep1, keep2, tiny = np.float32(beta1), np.float32(beta2), np.float32(epsilon)
    take1, take2 = one - keep1, one - keep2
    columns = rows.shape[1]
    factors = np.ones(columns, np.float32)
    for n in range(first, last):
        if not seen[n]:
            continue
        steps[n] += 1
        age = float(steps[n])
        correct1 = np.float32(1.0 / (1.0 - math.pow(beta1, age)))
        correct2 = np.float32(1.0 / (1.0 - math.pow(beta2, age)))
        doubt = 1.0 / (1.0 + math.exp(rows[n, LOGIT]))
        eager = np.float32(doubt * settling / (settling + age))
        size = np.float32(math.exp((rows[n, 7] + rows[n, 8] + rows[n, 9]) / 3.0))
        factors[0] = factors[1] = factors[2] = size
        share = np.float32(max(tail / (age - 1.0 + tail), 1.0 / longest))
        row, shown, slope = rows[n], average[n], gradient[n]
        mean1, mean2 = moment1[n], moment2[n]
        for k in range(columns):
            g = slope[k]
            m = keep1 * mean1[k] + take1 * g
            v = keep2 * mean2[k] + take2 * (g * g)
            mean1[k] = m
            mean2[k] = v
            rate = factors[k] * rates[k] * (one + (eagerness[k] - one) * eager)
            moved = row[k] - rate * (m * correct1) / (np.sqrt(v * correct2) + tiny)
            row[k] = moved
            shown[k] += share * (moved - shown[k])


@numba.njit(nogil=True, cache=True)
def activate_rows(
    first: int,
    last: int,
    rows: NDArray[np.float32],
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    colors: NDArray[np.float32],
    which: NDArray[np.bool_],  # (N,) only these of them, or (0,): all
) -> None:
    """Parameters → what the rasteriser takes, for splats first … last-1."""
    some = which.size > 0
    for n in range(first, last):
        if some and not which[n]:
            continue
        norm = 1e-12
        for k in range(4):
            norm += rows[n, 3 + k] * rows[n, 3 + k]
        norm = 1.0 / math.sqrt(norm)
        for k in range(4):
            quats[n, k] = rows[n, 3 + k] * norm
        for k in range(3):
            means[n, k] = rows[n, k]
            scales[n, k] = math.exp(rows[n, 7 + k])
            colors[n, k] = rows[n, 11 + k]
        opacities[n] = 1.0 / (1.0 + math.exp(-rows[n, 10]))


@numba.njit(nogil=True, cache=True)
def accumulate_rows(
    first: int,
    last: int,
    gradient: NDArray[np.float32],  # (N, C)
    seen: NDArray[np.bool_],  # (N,)
    scales: NDArray[np.float32],  # (N, 3)
    opacities: NDArray[np.float32],  # (N,)
    which: NDArray[np.int64],  # (M,) rows
    d_means: NDArray[np.float32],  # (M, …), as the others
    d_quats: NDArray[np.float32],
    d_scales: NDArray[np.float32],
    d_opacities: NDArray[np.float32],
    d_colors: NDArray[np.float32],
) -> None:
    """Add a view's gradients by splats which[first] … which[last-1], through the activations, to
    the parameter gradient; whatever is there of a splat that was not seen yet is overwritten.

    The quaternion gradient is taken at unit norm: the rasteriser normalises, so it is orthogonal
    to the quaternion already.
    """
    for m in range(first, last):
        total = abs(d_opacities[m])
        for k in range(3):
            total += abs(d_colors[m, k])
        if total == 0.0:
            continue
        n = which[m]
        if not seen[n]:
            seen[n] = True
            for k in range(gradient.shape[1]):
                gradient[n, k] = 0.0
        for k in range(3):
            gradient[n, k] += d_means[m, k]
            gradient[n, 7 + k] += d_scales[m, k] * scales[n, k]
            gradient[n, 11 + k] += d_colors[m, k]
        for k in range(4):
            gradient[n, 3 + k] += d_quats[m, k]
        gradient[n, 10] += d_opacities[m] * opacities[n] * (1.0 - opacities[n])

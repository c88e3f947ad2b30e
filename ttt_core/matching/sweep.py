"""Plane sweep: how well the windows of a view match its source views at every depth plane.

Zero-mean normalised cross-correlation over 5x5 windows warped by the homographies of
fronto-parallel planes (Collins, CVPR 1996), averaged over the two best sources so that a source
in which the point is hidden has no vote (Kang, Szeliski, Chai, CVPR 2001).

The work is cut into loops over single rows with few arrays each, because only such loops are
vectorised: one loop that does everything takes three times as long.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

NEUTRAL_COST = 0.5
"""Cost of a plane that no source sees, and of every plane at a masked pixel: correlation 0."""

# Helpers are forced inline: half as long again otherwise, and fast-math code that is called may
# differ in its last bits from process to process (tests/test_compiled_code.py).
# No 'nnan': NaN marks what is masked or out of view, and every window that touches it.
_FAST = {"contract", "reassoc", "nsz", "arcp"}
_RADIUS = 2
_SIDE = 2 * _RADIUS + 1
_UNSEEN = -2.0
_F = np.float32


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _locate(
    row: float,
    height: int,
    width: int,
    stride: int,
    rotation: NDArray[np.float64],
    offset: NDArray[np.float64],
    inverse_depth: float,
    index: NDArray[np.int32],
    fraction_x: NDArray[np.float32],
    fraction_y: NDArray[np.float32],
) -> None:
    """Where the pixels of one row lie in a source: flat index of the cell, place inside it.

    `fraction_x` is NaN where the source does not see the pixel; the index is valid even there.
    """
    zero, half, one, nan = _F(0.0), _F(0.5), _F(1.0), _F(np.nan)
    right, bottom = _F(width) - half, _F(height) - half
    # The last cell whose four corners lie inside the image.
    last_x, last_y = _F(width - 1) * _F(0.999999), _F(height - 1) * _F(0.999999)
    xu, yu, wu = _F(rotation[0, 0]), _F(rotation[1, 0]), _F(rotation[2, 0])
    xo = _F(rotation[0, 1] * row + rotation[0, 2] + offset[0] * inverse_depth)
    yo = _F(rotation[1, 1] * row + rotation[1, 2] + offset[1] * inverse_depth)
    wo = _F(rotation[2, 1] * row + rotation[2, 2] + offset[2] * inverse_depth)
    line = np.int32(stride)
    for x in range(index.shape[0]):
        column = _F(x) + half
        w = wu * column + wo
        scale = one / w
        u = (xu * column + xo) * scale - half
        v = (yu * column + yo) * scale - half
        seen = (w > zero) & (u >= -half) & (u <= right) & (v >= -half) & (v <= bottom)
        # Written so that NaN falls to 0: an index must never come from NaN.
        u = u if u > zero else zero
        v = v if v > zero else zero
        u = u if u < last_x else last_x
        v = v if v < last_y else last_y
        column_index = np.int32(u)
        row_index = np.int32(v)
        index[x] = row_index * line + column_index
        fraction_x[x] = (u - _F(column_index)) if seen else nan
        fraction_y[x] = v - _F(row_index)


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _sample(
    flat: NDArray[np.float32],
    stride: int,
    index: NDArray[np.int32],
    fraction_x: NDArray[np.float32],
    fraction_y: NDArray[np.float32],
    warped: NDArray[np.float32],
) -> None:
    """Bilinear samples of one row."""
    for x in range(index.shape[0]):
        # Unsigned, so that no index is tested for counting from the end.
        i = np.uint32(index[x])
        j = i + np.uint32(stride)
        top_left = flat[i]
        low_left = flat[j]
        top = top_left + fraction_x[x] * (flat[i + np.uint32(1)] - top_left)
        low = low_left + fraction_x[x] * (flat[j + np.uint32(1)] - low_left)
        warped[x] = top + fraction_y[x] * (low - top)


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _sums_along(
    w: NDArray[np.float32],
    r: NDArray[np.float32],
    sum_w: NDArray[np.float32],
    sum_ww: NDArray[np.float32],
    sum_rw: NDArray[np.float32],
) -> None:
    """Sums of w, w·w, r·w over five neighbours in a row; w and r are padded by two."""
    n = sum_w.shape[0]
    for x in range(n):
        sum_w[x] = w[x] + w[x + 1] + w[x + 2] + w[x + 3] + w[x + 4]
    for x in range(n):
        a, b, c, d, e = w[x], w[x + 1], w[x + 2], w[x + 3], w[x + 4]
        sum_ww[x] = a * a + b * b + c * c + d * d + e * e
    for x in range(n):
        a, b, c, d, e = w[x], w[x + 1], w[x + 2], w[x + 3], w[x + 4]
        sum_rw[x] = a * r[x] + b * r[x + 1] + c * r[x + 2] + d * r[x + 3] + e * r[x + 4]


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _sum_down(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    c: NDArray[np.float32],
    d: NDArray[np.float32],
    e: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    for x in range(total.shape[0]):
        total[x] = a[x] + b[x] + c[x] + d[x] + e[x]


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _correlations(
    sums: NDArray[np.float32],
    mean: NDArray[np.float32],
    inverse_std: NDArray[np.float32],
    noise: np.float32,
    scores: NDArray[np.float32],
) -> None:
    area = _F(1.0 / _SIDE**2)
    sum_w, sum_ww, sum_rw = sums[0], sums[1], sums[2]
    for x in range(scores.shape[0]):
        w = sum_w[x] * area
        variance = sum_ww[x] * area - w * w
        # Keeps NaN, which a comparison the other way round would lose.
        variance = _F(0.0) if variance < _F(0.0) else variance
        covariance = sum_rw[x] * area - w * mean[x]
        score = covariance * inverse_std[x] / np.sqrt(variance + noise)
        scores[x] = score if score == score else _F(_UNSEEN)


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _keep_best(
    scores: NDArray[np.float32], best: NDArray[np.float32], second: NDArray[np.float32]
) -> None:
    for x in range(scores.shape[0]):
        score, first, other = scores[x], best[x], second[x]
        lower = score if score < first else first
        best[x] = score if score > first else first
        second[x] = lower if lower > other else other


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def _correlate(
    reference: NDArray[np.float32],
    mean: NDArray[np.float32],
    inverse_std: NDArray[np.float32],
    warped: NDArray[np.float32],
    noise: np.float32,
    ring: NDArray[np.float32],
    work: NDArray[np.float32],
    best: NDArray[np.float32],
    second: NDArray[np.float32],
) -> None:
    """Adds one source's correlation at one plane to the running best two of every pixel.

    reference, warped: (H,W+4) padded at the sides; ring: (5,3,W) sums of the last rows.
    """
    rows = mean.shape[0]
    for below in range(rows + _RADIUS):
        if below < rows:
            sums = ring[below % _SIDE]
            _sums_along(warped[below], reference[below], sums[0], sums[1], sums[2])
        y = below - _RADIUS
        if y < 0:
            continue
        a = ring[max(y - 2, 0) % _SIDE]
        b = ring[max(y - 1, 0) % _SIDE]
        c = ring[y % _SIDE]
        d = ring[min(y + 1, rows - 1) % _SIDE]
        e = ring[min(y + 2, rows - 1) % _SIDE]
        for k in range(3):
            _sum_down(a[k], b[k], c[k], d[k], e[k], work[k])
        _correlations(work, mean[y], inverse_std[y], noise, work[3])
        _keep_best(work[3], best[y], second[y])


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath=_FAST, error_model="numpy")
def window_statistics(
    padded: NDArray[np.float32],
    noise: np.float32,
    mean: NDArray[np.float32],
    inverse_std: NDArray[np.float32],
) -> None:
    """Fills mean and 1/sqrt(variance + noise) of the 5x5 windows of `padded` (H,W+4).

    NaN (masked) pixels make every window that holds them NaN.
    """
    rows, columns = mean.shape
    count = _F(_SIDE**2)
    for y in range(rows):
        for x in range(columns):
            total = _F(0.0)
            squares = _F(0.0)
            for i in range(-_RADIUS, _RADIUS + 1):
                for j in range(_SIDE):
                    value = padded[min(max(y + i, 0), rows - 1), x + j]
                    total += value
                    squares += value * value
            m = total / count
            mean[y, x] = m
            inverse_std[y, x] = _F(1.0) / np.sqrt(np.abs(squares / count - m * m) + noise)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sweep_cost(
    reference: NDArray[np.float32],
    sources: NDArray[np.float32],
    sizes: NDArray[np.int64],
    rotations: NDArray[np.float64],
    offsets: NDArray[np.float64],
    inverse_depths: NDArray[np.float64],
    noise: np.float32,
    cost: NDArray[np.float32],
) -> None:
    """Fills `cost` (H,W,D) with (1 - correlation) / 2 at every plane.

    reference (H,W) and sources (S,Hs,Ws) are float32 grey images around zero, NaN where masked,
    sizes (S,2) the rows and columns of each source that are in use; a pixel centre p of the
    reference at depth 1/q lies in source s at `rotations[s] @ p + q * offsets[s]`.
    `noise` is the variance below which a window counts as textureless.
    """
    rows, columns = reference.shape
    stride = sources.shape[2]
    padded = np.empty((rows, columns + 2 * _RADIUS), np.float32)
    # Loops: numba compiles five seconds of error messages for an assignment of slices.
    for y in range(rows):
        for x in range(columns):
            padded[y, _RADIUS + x] = reference[y, x]
    _pad_sides(padded)
    mean = np.empty((rows, columns), np.float32)
    inverse_std = np.empty((rows, columns), np.float32)
    window_statistics(padded, noise, mean, inverse_std)
    warped = np.empty((rows, columns + 2 * _RADIUS), np.float32)
    index = np.empty(columns, np.int32)
    fraction_x = np.empty(columns, np.float32)
    fraction_y = np.empty(columns, np.float32)
    ring = np.empty((_SIDE, 3, columns), np.float32)
    work = np.empty((4, columns), np.float32)
    best = np.empty((rows, columns), np.float32)
    second = np.empty((rows, columns), np.float32)
    for d in range(inverse_depths.shape[0]):
        best[:] = _F(_UNSEEN)
        second[:] = _F(_UNSEEN)
        for s in range(sources.shape[0]):
            flat = sources[s].ravel()
            for y in range(rows):
                _locate(
                    y + 0.5, sizes[s, 0], sizes[s, 1], stride, rotations[s], offsets[s],
                    inverse_depths[d], index, fraction_x, fraction_y,
                )  # fmt: skip
                _sample(
                    flat, stride, index, fraction_x, fraction_y,
                    warped[y, _RADIUS : _RADIUS + columns],
                )  # fmt: skip
            _pad_sides(warped)
            _correlate(padded, mean, inverse_std, warped, noise, ring, work, best, second)
        for y in range(rows):
            for x in range(columns):
                score = best[y, x]
                if second[y, x] > _F(_UNSEEN):
                    score = _F(0.5) * (score + second[y, x])
                seen = score > _F(_UNSEEN)
                cost[y, x, d] = _F(0.5) - _F(0.5) * score if seen else _F(NEUTRAL_COST)


@numba.njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _pad_sides(padded: NDArray[np.float32]) -> None:
    """Repeats the first and the last inner column into the padding."""
    last = padded.shape[1] - 1
    for y in range(padded.shape[0]):
        for k in range(_RADIUS):
            padded[y, k] = padded[y, _RADIUS]
            padded[y, last - k] = padded[y, last - _RADIUS]

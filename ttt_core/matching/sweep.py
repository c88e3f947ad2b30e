"""Plane sweep: how well the windows of a view match its source views at every depth plane.

Zero-mean normalised cross-correlation over 5x5 windows warped by the homographies of
fronto-parallel planes (Collins, CVPR 1996), averaged over the better half of the sources so
that a source in which the point is hidden has no vote (Kang, Szeliski, Chai, CVPR 2001).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

NEUTRAL_COST = 0.5
"""Cost of a plane that no source sees, and of every plane at a masked pixel: correlation 0."""

# No 'nnan': NaN marks masked pixels, and every window that touches one.
_FAST = {"contract", "reassoc", "nsz", "arcp"}
_RADIUS = 2
_F = np.float32


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _warp(
    source: NDArray[np.float32],
    height: int,
    width: int,
    rotation: NDArray[np.float64],
    offset: NDArray[np.float64],
    inverse_depth: float,
    warped: NDArray[np.float32],
    seen: NDArray[np.bool_],
) -> None:
    """Samples `source[:height, :width]` where the plane at `inverse_depth` says, bilinearly."""
    rows, columns = warped.shape
    flat = source.ravel()
    stride = np.uint32(source.shape[1])
    zero, half, one = _F(0.0), _F(0.5), _F(1.0)
    right, bottom = _F(width), _F(height)
    # The last cell whose four corners lie inside the image.
    last_x, last_y = _F(width - 1) * _F(0.999999), _F(height - 1) * _F(0.999999)
    xu, yu, wu = _F(rotation[0, 0]), _F(rotation[1, 0]), _F(rotation[2, 0])
    for y in range(rows):
        row = y + 0.5
        xo = _F(rotation[0, 1] * row + rotation[0, 2] + offset[0] * inverse_depth)
        yo = _F(rotation[1, 1] * row + rotation[1, 2] + offset[1] * inverse_depth)
        wo = _F(rotation[2, 1] * row + rotation[2, 2] + offset[2] * inverse_depth)
        for x in range(columns):
            column = _F(x) + half
            w = wu * column + wo
            scale = one / w
            u = (xu * column + xo) * scale
            v = (yu * column + yo) * scale
            seen[y, x] = (w > zero) & (u >= zero) & (u <= right) & (v >= zero) & (v <= bottom)
            u -= half
            v -= half
            # Written so that NaN falls to 0: an index must never come from NaN.
            u = u if u > zero else zero
            v = v if v > zero else zero
            u = u if u < last_x else last_x
            v = v if v < last_y else last_y
            column_index = np.int32(u)
            row_index = np.int32(v)
            fu = u - _F(column_index)
            fv = v - _F(row_index)
            i = np.uint32(row_index) * stride + np.uint32(column_index)
            top_left = flat[i]
            top_right = flat[i + np.uint32(1)]
            low_left = flat[i + stride]
            low_right = flat[i + stride + np.uint32(1)]
            top = top_left + fu * (top_right - top_left)
            low = low_left + fu * (low_right - low_left)
            warped[y, x] = top + fv * (low - top)


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _window_sums(
    reference: NDArray[np.float32],
    warped: NDArray[np.float32],
    y: int,
    sums: NDArray[np.float32],
) -> None:
    """Column sums of r, w, r·w, w·w over the window's rows around row `y`, edges repeated."""
    rows, columns = warped.shape
    for x in range(columns):
        sums[0, x] = _F(0.0)
        sums[1, x] = _F(0.0)
        sums[2, x] = _F(0.0)
    for k in range(-_RADIUS, _RADIUS + 1):
        yy = min(max(y + k, 0), rows - 1)
        for x in range(columns):
            w = warped[yy, x]
            sums[0, x] += w
            sums[1, x] += w * w
            sums[2, x] += w * reference[yy, x]


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _correlate(
    reference: NDArray[np.float32],
    mean: NDArray[np.float32],
    inverse_std: NDArray[np.float32],
    warped: NDArray[np.float32],
    seen: NDArray[np.bool_],
    noise: np.float32,
    padded: NDArray[np.float32],
    best: NDArray[np.float32],
    second: NDArray[np.float32],
    votes: NDArray[np.float32],
) -> None:
    """Adds one source's correlation at one plane to the running best two of every pixel."""
    rows, columns = warped.shape
    area = _F(1.0) / _F((2 * _RADIUS + 1) ** 2)
    width = columns + 2 * _RADIUS
    for y in range(rows):
        inner = padded[:, _RADIUS : _RADIUS + columns]
        _window_sums(reference, warped, y, inner)
        for k in range(_RADIUS):
            for c in range(3):
                padded[c, k] = padded[c, _RADIUS]
                padded[c, width - 1 - k] = padded[c, width - 1 - _RADIUS]
        for x in range(columns):
            w = _F(0.0)
            ww = _F(0.0)
            rw = _F(0.0)
            for k in range(2 * _RADIUS + 1):
                w += padded[0, x + k]
                ww += padded[1, x + k]
                rw += padded[2, x + k]
            w *= area
            variance = ww * area - w * w
            variance = variance if variance > _F(0.0) else _F(0.0)
            covariance = rw * area - w * mean[y, x]
            score = covariance * inverse_std[y, x] / np.sqrt(variance + noise)
            usable = seen[y, x] & (score == score) & (variance == variance)
            score = score if usable else _F(-2.0)
            b = best[y, x]
            s = second[y, x]
            low = score if score < b else b
            best[y, x] = score if score > b else b
            second[y, x] = low if low > s else s
            votes[y, x] += _F(1.0) if usable else _F(0.0)


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def window_statistics(
    image: NDArray[np.float32],
    noise: np.float32,
    mean: NDArray[np.float32],
    inverse_std: NDArray[np.float32],
) -> None:
    """Mean and 1/sqrt(variance + noise) of the 5x5 windows of `image`, edges repeated.

    NaN (masked) pixels make every window that holds them NaN.
    """
    rows, columns = image.shape
    for y in range(rows):
        for x in range(columns):
            total = _F(0.0)
            squares = _F(0.0)
            for i in range(-_RADIUS, _RADIUS + 1):
                for j in range(-_RADIUS, _RADIUS + 1):
                    value = image[min(max(y + i, 0), rows - 1), min(max(x + j, 0), columns - 1)]
                    total += value
                    squares += value * value
            count = _F((2 * _RADIUS + 1) ** 2)
            m = total / count
            variance = squares / count - m * m
            mean[y, x] = m
            # A comparison would turn NaN into 0 and unmask the pixel.
            inverse_std[y, x] = _F(1.0) / np.sqrt(np.abs(variance) + noise)


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
    planes = inverse_depths.shape[0]
    mean = np.empty((rows, columns), np.float32)
    inverse_std = np.empty((rows, columns), np.float32)
    window_statistics(reference, noise, mean, inverse_std)
    warped = np.empty((rows, columns), np.float32)
    seen = np.empty((rows, columns), np.bool_)
    padded = np.empty((3, columns + 2 * _RADIUS), np.float32)
    best = np.empty((rows, columns), np.float32)
    second = np.empty((rows, columns), np.float32)
    votes = np.empty((rows, columns), np.float32)
    for d in range(planes):
        best[:] = _F(-2.0)
        second[:] = _F(-2.0)
        votes[:] = _F(0.0)
        for s in range(sources.shape[0]):
            _warp(
                sources[s], sizes[s, 0], sizes[s, 1], rotations[s], offsets[s],
                inverse_depths[d], warped, seen,
            )  # fmt: skip
            _correlate(
                reference, mean, inverse_std, warped, seen, noise, padded, best, second, votes
            )
        for y in range(rows):
            for x in range(columns):
                n = votes[y, x]
                score = best[y, x]
                if n >= _F(2.0):
                    score = _F(0.5) * (score + second[y, x])
                cost[y, x, d] = _F(0.5) - _F(0.5) * score if n > _F(0.0) else _F(NEUTRAL_COST)

"""Normals of a depth map pixel by pixel: `depth_normals` where no gradient is asked for."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def fit_planes(
    depth: NDArray[np.float32],
    camera: NDArray[np.float32],
    asked: NDArray[np.bool_],
    radius: int,
    steepest: float,
    ridge: float,
    out: NDArray[np.float32],
) -> None:
    """Write unit normals (H, W, 3) into `out` where `asked` (H, W); the rest stays as it is.

    Args: as in `gs_decoder.normals.depth_normals`; `camera` is fx fy cx cy, `steepest` the largest
        change of z over z for a pixel's distance, `ridge` the share of a full window's spread that
        is added to what was found.
    """
    height, width = depth.shape
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    full = 0.0
    for du in range(-radius, radius + 1):
        full += (2 * radius + 1) * du * du
    for row in range(height):
        for column in range(width):
            if not asked[row, column]:
                continue
            z = depth[row, column]
            x, y = (column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy
            nx, ny, nz = x, y, 1.0
            if np.isfinite(z) and z > 0:
                inverse = 1.0 / z
                n = su = sv = suu = suv = svv = sq = suq = svq = 0.0
                for dv in range(-radius, radius + 1):
                    other_row = row + dv
                    if other_row < 0 or other_row >= height:
                        continue
                    for du in range(-radius, radius + 1):
                        other_column = column + du
                        if other_column < 0 or other_column >= width:
                            continue
                        other = depth[other_row, other_column]
                        if not (np.isfinite(other) and other > 0):
                            continue
                        there = 1.0 / other
                        rise = there - inverse
                        limit = steepest * math.sqrt(du * du + dv * dv) * min(there, inverse)
                        if abs(rise) > limit:
                            continue
                        n += 1.0
                        su += du
                        sv += dv
                        suu += du * du
                        suv += du * dv
                        svv += dv * dv
                        sq += rise
                        suq += du * rise
                        svq += dv * rise
                n = max(n, 1.0)
                cuu = suu - su * su / n + ridge * full
                cvv = svv - sv * sv / n + ridge * full
                cuv = suv - su * sv / n
                cuq, cvq = suq - su * sq / n, svq - sv * sq / n
                determinant = cuu * cvv - cuv * cuv
                a = (cvv * cuq - cuv * cvq) / determinant
                b = (cuu * cvq - cuv * cuq) / determinant
                nx, ny = a * fx, b * fy
                nz = inverse + a * (cx - column - 0.5) + b * (cy - row - 0.5)
            norm = -1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
            out[row, column, 0] = nx * norm
            out[row, column, 1] = ny * norm
            out[row, column, 2] = nz * norm

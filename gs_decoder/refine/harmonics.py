"""Colours by direction: spherical harmonics of splats under refinement, a view at a time.

The rasteriser is given every view's own colours, unclamped like those without harmonics, and what
it says of them goes to the coefficients here. That a splat which moves is seen from elsewhere is
left out of its gradient.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine.adam import COLOR, COLUMNS
from gs_decoder.sh import C1, C2, C3, MAX_DEGREE

Float32 = NDArray[np.float32]

_ROOM = (MAX_DEGREE + 1) ** 2 - 1
# float32 throughout: numba would take literals as float64, and all that meets them.
_ONE, _TINY = np.float32(1.0), np.float32(1e-12)
_B1 = np.float32(C1)
_B2 = tuple(np.float32(value) for value in C2)
_B3 = tuple(np.float32(value) for value in C3)


def harmonic_columns(degree: int) -> int:
    """Columns that a parameter row has beyond `COLUMNS`: three for each coefficient but DC."""
    return 3 * ((degree + 1) ** 2 - 1)


@numba.njit(nogil=True, cache=True, inline="always")
def _basis(
    row: Float32,  # (COLUMNS + harmonic_columns(degree),) of a splat
    center: Float32,  # (3,) of the camera
    degree: int,
    basis: Float32,  # (_ROOM,), written: the functions of bands 1 to degree
) -> None:
    """As `gs_decoder.sh.sh_basis` without DC, from the camera's centre to the splat."""
    x, y, z = row[0] - center[0], row[1] - center[1], row[2] - center[2]
    inverse = _ONE / max(np.sqrt(x * x + y * y + z * z), _TINY)
    x, y, z = x * inverse, y * inverse, z * inverse
    basis[0] = -_B1 * y
    basis[1] = _B1 * z
    basis[2] = -_B1 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis[3] = _B2[0] * x * y
        basis[4] = -_B2[0] * y * z
        basis[5] = _B2[1] * (zz + zz - xx - yy)
        basis[6] = -_B2[0] * x * z
        basis[7] = _B2[2] * (xx - yy)
        if degree >= 3:
            xx3, yy3, ring = xx + xx + xx, yy + yy + yy, zz + zz + zz + zz - xx - yy
            basis[8] = -_B3[0] * y * (xx3 - yy)
            basis[9] = _B3[1] * x * y * z
            basis[10] = -_B3[2] * y * ring
            basis[11] = _B3[3] * z * (zz + zz - xx3 - yy3)
            basis[12] = -_B3[2] * x * ring
            basis[13] = _B3[4] * z * (xx - yy)
            basis[14] = -_B3[0] * x * (xx - yy3)


@numba.njit(nogil=True, cache=True)
def colors_from(
    center: Float32,  # (3,) of the camera
    degree: int,
    rows: Float32,  # (N, COLUMNS + harmonic_columns(degree))
    which: NDArray[np.int64],  # (M,) rows
    colors: Float32,  # (M, 3), written
) -> None:
    """What these splats look like from one place."""
    basis = np.empty(_ROOM, np.float32)
    for m, n in enumerate(which):
        _basis(rows[n], center, degree, basis)
        red, green, blue = rows[n, COLOR], rows[n, COLOR + 1], rows[n, COLOR + 2]
        for k in range((degree + 1) ** 2 - 1):
            red += basis[k] * rows[n, COLUMNS + 3 * k]
            green += basis[k] * rows[n, COLUMNS + 3 * k + 1]
            blue += basis[k] * rows[n, COLUMNS + 3 * k + 2]
        colors[m, 0], colors[m, 1], colors[m, 2] = red, green, blue


@numba.njit(nogil=True, cache=True)
def accumulate_harmonics(
    first: int,
    last: int,
    center: Float32,  # (3,) of the camera
    degree: int,
    rows: Float32,
    gradient: Float32,  # (N, as rows)
    which: NDArray[np.int64],  # (M,) rows
    d_colors: Float32,  # (M, 3) by the colours that `colors_from` gave
) -> None:
    """Add a view's gradient by the coefficients of splats which[first] … which[last-1]."""
    basis = np.empty(_ROOM, np.float32)
    for m in range(first, last):
        n = which[m]
        red, green, blue = d_colors[m, 0], d_colors[m, 1], d_colors[m, 2]
        if red == 0.0 and green == 0.0 and blue == 0.0:
            continue
        _basis(rows[n], center, degree, basis)
        for k in range((degree + 1) ** 2 - 1):
            gradient[n, COLUMNS + 3 * k] += basis[k] * red
            gradient[n, COLUMNS + 3 * k + 1] += basis[k] * green
            gradient[n, COLUMNS + 3 * k + 2] += basis[k] * blue

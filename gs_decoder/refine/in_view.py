"""The splats of a map that one view could show: what its visit costs goes by them alone.

Of an office of 76,000 splats a view shows a fifth. The others would be projected, coloured and
given gradients of nothing, and their memory would be read and written for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
from numpy.typing import NDArray

from gs_decoder.raster.cpu.layout import EPS2D, FRUSTUM_MARGIN, MIN_ALPHA
from gs_decoder.refine.parameters import SplatParameters

Float32 = NDArray[np.float32]

_NEAR = 0.01
"""The rasteriser's near plane, world units."""
_ROUNDING = 1e-6
"""Relative, of float32 coordinates after a rotation."""
_EVERY = 64
_SLACK = 1.01
"""On what a splat may reach, for rounding."""


@dataclass(frozen=True, slots=True)
class InView:
    """M splats in the store's order, as the rasteriser takes them.

    Attributes:
        which: (M,) int64 their rows, rising.
        means (M, 3), quats (M, 4), scales (M, 3), opacities (M,): activated.
    """

    which: NDArray[np.int64]
    means: Float32
    quats: Float32
    scales: Float32
    opacities: Float32


class Sieve:
    """Finds them, one view at a time, in memory of its own.

    What it leaves out the rasteriser would not draw, so renders and gradients are the same to the
    bit as with all splats.
    """

    def __init__(self) -> None:
        self._which = np.zeros(0, np.int64)
        self._arrays: tuple[Float32, ...] = ()

    def __call__(
        self,
        parameters: SplatParameters,
        viewmat: Float32,
        K: NDArray[np.floating],
        width: int,
        height: int,
        presence: Float32 | None = None,
    ) -> InView:
        """The arrays are good until the next call.

        Args:
            viewmat: (4, 4) rigid world to camera. K: (3, 3), pixels.
            presence: (N,) factors on the opacities; None: 1.
        """
        if len(self._which) < parameters.count:
            capacity = parameters.capacity
            self._which = np.empty(capacity, np.int64)
            self._arrays = tuple(
                np.empty((capacity, *shape), np.float32) for shape in ((3,), (4,), (3,), ())
            )
        count = parameters.count
        found = _sieve(
            parameters.means[:count],
            parameters.quats[:count],
            parameters.scales[:count],
            parameters.opacities[:count],
            np.ones(1, np.float32) if presence is None else presence,
            viewmat,
            _limits(K, width, height),
            self._which,
            *self._arrays,
        )
        means, quats, scales, opacities = (array[:found] for array in self._arrays)
        return InView(self._which[:found], means, quats, scales, opacities)


def even_spans(which: Sequence[NDArray[np.int64]], count: int, parts: int) -> list[tuple[int, int]]:
    """So many spans of the `count` rows, with about as much to do in each.

    Args:
        which: the rows that each view shows, rising.
    """
    some = np.sort(np.concatenate([rows[::_EVERY] for rows in which]))
    shares = np.arange(1, parts) * len(some) // parts
    inner = some[shares].tolist() if len(some) else [count] * len(shares)
    return list(pairwise([0, *inner, count]))


def _limits(K: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
    """What `_sieve` has to know of a camera: focal lengths, the picture's edges from its principal
    point, by how much a splat beside the picture seems to grow, and the rasteriser's constants."""
    fx, fy, cx, cy = (float(value) for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    beyond_x, beyond_y = (FRUSTUM_MARGIN * 0.5 * side for side in (width, height))
    slope_x = (max(cx, width - cx) + beyond_x) / fx
    slope_y = (max(cy, height - cy) + beyond_y) / fy
    # Alpha falls to its least at so many standard deviations of an opaque splat.
    reach = _SLACK * np.sqrt(-2.0 * np.log(MIN_ALPHA))
    edges = (fx, fy, -cx, width - cx, -cy, height - cy)
    grown = (1.0 + slope_x * slope_x, 1.0 + slope_y * slope_y)
    return np.array([*edges, *grown, reach, EPS2D, MIN_ALPHA, _NEAR])


@numba.njit(nogil=True, cache=True)
def _sieve(
    means: Float32,  # (N, 3)
    quats: Float32,  # (N, 4)
    scales: Float32,  # (N, 3)
    opacities: Float32,  # (N,)
    presence: Float32,  # (N,), or (1,): of all
    viewmat: Float32,  # (4, 4)
    limits: NDArray[np.float64],  # (12,), see `_limits`
    which: NDArray[np.int64],  # out (N,)
    out_means: Float32,  # out (N, 3)
    out_quats: Float32,  # out (N, 4)
    out_scales: Float32,  # out (N, 3)
    out_opacities: Float32,  # out (N,)
) -> int:
    """How many were found. Only what surely is not drawn is left out: whatever is no number stays,
    for the rasteriser to judge."""
    fx, fy, left, right, top, bottom, grown_x, grown_y, reach, blur, least, near = limits
    far = abs(viewmat[0, 3]) + abs(viewmat[1, 3]) + abs(viewmat[2, 3]) + near
    one = presence.size == 1
    found = 0
    for n in range(len(opacities)):
        opacity = opacities[n] * (presence[0] if one else presence[n])
        if opacity < least:
            continue
        px, py, pz = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        z = viewmat[2, 0] * px + viewmat[2, 1] * py + viewmat[2, 2] * pz + viewmat[2, 3]
        # What float32 may be wrong by so far from the origin.
        error = _ROUNDING * (abs(px) + abs(py) + abs(pz) + far)
        if z < near - error:
            continue
        x = viewmat[0, 0] * px + viewmat[0, 1] * py + viewmat[0, 2] * pz + viewmat[0, 3]
        y = viewmat[1, 0] * px + viewmat[1, 1] * py + viewmat[1, 2] * pz + viewmat[1, 3]
        size = float(max(scales[n, 0], scales[n, 1], scales[n, 2]))
        # Compared after multiplication by the depth. A pixel of slack on every side.
        sx, sy = fx * size, fy * size
        wide = reach * np.sqrt(sx * sx * grown_x + blur * z * z) + z + error * (fx + right - left)
        high = reach * np.sqrt(sy * sy * grown_y + blur * z * z) + z + error * (fy + bottom - top)
        if fx * x + wide < left * z or fx * x - wide > right * z:
            continue
        if fy * y + high < top * z or fy * y - high > bottom * z:
            continue
        which[found] = n
        for k in range(3):
            out_means[found, k] = means[n, k]
            out_scales[found, k] = scales[n, k]
        for k in range(4):
            out_quats[found, k] = quats[n, k]
        out_opacities[found] = opacity
        found += 1
    return found

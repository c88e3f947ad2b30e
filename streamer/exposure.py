"""Exposure of a new view against the map: auto-exposure must not become colour of splats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_LEAST_SHARE = 0.3
_BOUND = 0.4


def estimate_log_gain(
    color: Float32,
    rendered: tuple[Float32, Float32, Float32] | None,
    valid: NDArray[np.bool_] | None = None,
) -> Float32 | None:
    """(3,) log gain per channel that takes the map's colours to the view's.

    The median over pixels that the map fills, so that what changed in the scene does not count;
    None where the map fills too little of the view to tell.

    Args:
        color: (H, W, 3) float32 0..1. rendered: rgb (H, W, 3), depth, alpha (H, W) of the map.
        valid: (H, W), False where the view says nothing.
    """
    if rendered is None:
        return None
    rgb, _, alpha = rendered
    # Dark and saturated values say little of a ratio.
    usable = (alpha > 0.95) & (color.max(axis=2) < 0.98) & (color.min(axis=2) > 0.04)
    usable &= rgb.min(axis=2) > 0.04
    if valid is not None:
        usable &= valid
    if usable.mean() < _LEAST_SHARE:
        return None
    ratio = np.log(color[usable] / rgb[usable])
    return np.clip(np.median(ratio, axis=0), -_BOUND, _BOUND).astype(np.float32)

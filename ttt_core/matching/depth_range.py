"""Where the planes of the sweep begin and end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttt_core.matching.config import PriorConfig
from ttt_core.matching.views import PosedImage

_ENOUGH_POINTS = 12
_PLENTY_OF_POINTS = 60
_MISMATCHES = 2.5
_ENOUGH_PIXELS = 0.02


def known_depths(depth: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """(n,) the depths that a depth picture (0 = none) holds; none where it is nearly empty."""
    if depth is None:
        return np.zeros(0)
    thin = depth[::2, ::2]
    values = thin[np.isfinite(thin) & (thin > 0)].astype(np.float64)
    return values if values.size >= _ENOUGH_PIXELS * thin.size else np.zeros(0)


def coverage(depth: NDArray[np.float32] | None) -> float:
    """Share of pixels at which a depth picture holds something."""
    return 0.0 if depth is None else float((np.isfinite(depth) & (depth > 0)).mean())


def depth_range(
    view: PosedImage,
    known: Sequence[NDArray[np.float64]],
    elsewhere: NDArray[np.float64],
    others: Sequence[PosedImage],
    config: PriorConfig,
) -> tuple[float, float, NDArray[np.float64]]:
    """Nearest plane, farthest plane, and (n,) depths that stand for the content between.

    known: depths from sensor, map, triangulation; every one of them with its own percentiles, so
    that few triangulated points count beside many pixels of the map. With few in all, what other
    views see of the same world (`elsewhere`, their depths) counts too. Without any, the distances
    to `others` set the range: content nearer than one baseline or farther than a hundred of them
    cannot be matched. Without baselines the unit is all there is, and no depth will be confident.
    """
    lows, highs, middles = [], [], []
    plenty = sum(values.size for values in known) >= _PLENTY_OF_POINTS
    for values in known if plenty else (*known, elsewhere):
        if values.size >= _ENOUGH_POINTS:
            # Among few points even one or two mismatches are many percent.
            cut = max(config.range_percentile, 100.0 * _MISMATCHES / values.size)
            low, middle, high = np.percentile(values, [cut, 50.0, 100.0 - cut])
            lows.append(float(low))
            highs.append(float(high))
            middles.append(float(middle))
    if lows:
        near, far = min(lows) / config.range_widening, max(highs) * config.range_widening
        far = max(far, 2.0 * near)
        if far > config.range_limit * near:
            middle = float(np.median(middles))
            near = max(near, middle / config.range_limit**0.5)
            far = min(far, near * config.range_limit)
        inner = (near * config.range_widening, *middles, far / config.range_widening)
        return near, far, np.array(inner)
    baselines = [float(np.linalg.norm(other.center - view.center)) for other in others]
    baselines = [baseline for baseline in baselines if baseline > 0]
    unit = float(np.median(baselines)) if baselines else 1.0
    near, far = unit, unit * config.range_limit
    return near, far, np.array([near * 3.0, near * 10.0, near * 30.0])

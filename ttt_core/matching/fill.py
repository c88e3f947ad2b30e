"""Depth where matching found none: smoothly from confident neighbours, far where there are none."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_OWN_FROM, _OWN_UNTIL = 0.45, 0.65
_SHARPNESS = 4


def fill_unconfident(
    log_depth: NDArray[np.float32],
    confidence: NDArray[np.float32],
    *,
    background: float,
    leak: float,
) -> NDArray[np.float32]:
    """(H,W) `log_depth` where confidence is above 0.65, a smooth fill below 0.45, a blend between.

    background: log depth far from every confident pixel. Far is the harmless side: what is
    placed too near hides the content of other views, what is placed too far is hidden itself.
    """
    own = np.clip((confidence - _OWN_FROM) / (_OWN_UNTIL - _OWN_FROM), 0.0, 1.0)
    weights = np.where(confidence > _OWN_FROM, confidence**_SHARPNESS, 0.0).astype(np.float32)
    smooth = pull_push(log_depth, weights, background, leak)
    return (own * log_depth + (1.0 - own) * smooth).astype(np.float32)


def pull_push(
    values: NDArray[np.float32], weights: NDArray[np.float32], background: float, leak: float
) -> NDArray[np.float32]:
    """(H,W) smooth surface through `values` where `weights` (0..1) are high.

    Averages on a pyramid until every gap is closed (Gortler et al., "The Lumigraph", 1996);
    at every level `background` joins with weight `leak`, so that it wins far from any value.
    """
    height, width = values.shape
    blend = np.minimum(weights + leak, 1.0)
    mixed = (values * weights + background * leak) / (weights + leak)
    if height <= 2 or width <= 2:
        return mixed.astype(np.float32)
    size = ((width + 1) // 2, (height + 1) // 2)
    less = cv2.resize(weights, size, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(values * weights, size, interpolation=cv2.INTER_AREA)
    # A gap closes by averaging over what is there, not over the gap.
    coarse_values = (sums / np.maximum(less, 1e-12)).astype(np.float32)
    coarse = pull_push(coarse_values, np.minimum(less * 2.0, 1.0), background, leak)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return (blend * mixed + (1.0 - blend) * smooth).astype(np.float32)

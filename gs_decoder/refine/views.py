"""What a map is refined against."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(slots=True)
class RefineView:
    """A posed image to refine against.

    Attributes:
        key: the caller's id (sequence number of the frame).
        image: (H, W, 3) uint8 RGB.
        K: (3, 3) pinhole intrinsics in pixels.
        c2w: (4, 4) float64, rigid, camera to world (OpenCV axes).
        valid: (H, W) bool or None; False pixels are ignored.
        depth: (H, W) float32 sensor z-depth or None; 0 means none.
        far: world units beyond which it sees nothing of the map, where that is known.
        log_gain: (3,) log of the exposure gain that takes map colours to this image's.
        visits: steps that looked at it.
        visited: number of the last of them, or of the step before it came.
        psnr: dB at the last visit.
    """

    key: int
    image: NDArray[np.uint8]
    K: Float64
    c2w: Float64
    valid: NDArray[np.bool_] | None = None
    depth: Float32 | None = None
    far: float = math.inf
    log_gain: Float32 = field(default_factory=lambda: np.zeros(3, np.float32))
    visits: int = 0
    visited: int = 0
    psnr: float | None = None

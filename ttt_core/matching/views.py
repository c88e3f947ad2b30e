"""What goes into the matching prior and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PosedImage:
    """One view with a known camera.

    key: the caller's number of it.
    gray: (H,W) float32, 0..1.
    K: (3,3) float64 pinhole; the centre of the first pixel is (0.5, 0.5).
    c2w: (4,4) float64, camera to world, OpenCV camera axes, any world unit.
    valid: (H,W) bool or None; False where the picture is masked.
    depth, confidence: (H,W) float32 or None: what an earlier call predicted for this view. With
        them the depths of new views are checked against the view, without them only its picture
        is matched.
    """

    key: int
    gray: NDArray[np.float32]
    K: NDArray[np.float64]
    c2w: NDArray[np.float64]
    valid: NDArray[np.bool_] | None = None
    depth: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.gray.ndim != 2 or self.gray.dtype != np.float32:
            raise ValueError(
                f"gray of view {self.key} is {self.gray.dtype} {self.gray.shape}: "
                "give float32 (H,W) in 0..1"
            )
        if self.K.shape != (3, 3) or not np.isfinite(self.K).all() or self.K[0, 0] <= 0:
            raise ValueError(f"K of view {self.key} is {self.K!r}: give a finite 3x3 pinhole")
        if self.c2w.shape != (4, 4) or not np.isfinite(self.c2w).all():
            raise ValueError(f"c2w of view {self.key} is {self.c2w!r}: give a finite 4x4 pose")
        for name in ("valid", "depth", "confidence"):
            value = getattr(self, name)
            if value is not None and value.shape != self.gray.shape:
                raise ValueError(
                    f"{name} of view {self.key} is {value.shape}: give {self.gray.shape}, as gray"
                )

    @property
    def center(self) -> NDArray[np.float64]:
        """(3,) the camera's place in the world."""
        return self.c2w[:3, 3]


@dataclass(frozen=True, slots=True, eq=False)
class PriorDepth:
    """What matching says about one view.

    depth: (H,W) float32 z-depth in world units, finite and > 0 at every pixel.
    confidence: (H,W) float32 0..1, about the probability that `depth` is within 5 % of the truth.
    cells: (Hc,Wc,F) float32 features of 4x4-pixel cells, channels as in `CELL_CHANNELS`.
    depth_range: first and last plane of the sweep.
    sources: keys of the views matched against, best first.
    """

    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    cells: NDArray[np.float32]
    depth_range: tuple[float, float]
    sources: tuple[int, ...]

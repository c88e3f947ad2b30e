"""The one form in which frames travel behind the ingest: decoded, undistorted, scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A pinhole image in the sender's world, with OpenCV camera axes.

    Pixel (0, 0) is the top-left corner, the first pixel's centre is (0.5, 0.5).
    """

    seq: int
    """Number of the frame in its session, from 0."""
    stamp_ns: int
    """Time of capture by the sender's clock, nanoseconds."""
    camera: str
    """Name of the camera that took it."""
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    K: NDArray[np.float64]
    """(3, 3) pinhole intrinsics of `image`, pixels."""
    c2w: NDArray[np.float64] | None
    """(4, 4) camera-to-world, metres; None where the sender gave no pose."""
    depth: NDArray[np.float32] | None = None
    """(H, W) z-depth along the optical axis, metres; 0 = none."""
    valid: NDArray[np.bool_] | None = None
    """(H, W); False = masked by the sender, or outside the undistorted image."""
    received_ns: int = 0
    """`time.monotonic_ns()` when the ingest received it; the clock is the machine's, so any
    process of the daemon may subtract it from its own reading."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays it holds."""
        arrays = (self.image, self.depth, self.valid)
        return sum(array.nbytes for array in arrays if array is not None)

"""Depth carried on from pixels that are sure to those that are not, up to edges of colour.

Plain walls are where a map is least sure: it has few wide splats there, at depths that nothing
decided, or a mist of them. Their rims and what hangs on them it knows well. As in Levin et al. 2004
("Colorization using optimization") neighbours of one colour are asked to be alike, here in inverse
depth, in which planes are linear, so that a plain region takes the plane of its sure pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_COARSEST = 12
"""Pixels on the short side of the smallest picture of the pyramid."""
_HASTE = 1.5
"""Over-relaxation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionConfig:
    """Attributes:
    detail: splats as wide as this share of the picture's long side count half, wider ones less
        with the fourth power: nobody asked them where in their width the surface lies.
    stiffness: weight of two neighbours of one colour against that of a sure pixel.
    colour: difference of colours, 0..1, that takes neighbours apart by a factor of e.
    leak: what is left between neighbours across the sharpest edge.
    doubt: relative depth by which a pixel may differ from what its neighbours say before it counts
        half; so often `rounds`.
    sweeps: of relaxation at every size of the picture.
    """

    detail: float = 0.02
    stiffness: float = 1.0
    colour: float = 0.03
    leak: float = 0.001
    doubt: float = 0.05
    rounds: int = 2
    sweeps: int = 12


def complete_depth(
    depth: Float32, weight: Float32, rgb: Float32, config: CompletionConfig
) -> tuple[Float32, Float32]:
    """Depth in every pixel, and what is left of the weights where pixels contradict neighbours.

    Args:
        depth: (H, W) z-depth, 0 = none. weight: (H, W) 0..1, how sure it is.
        rgb: (H, W, 3) float32 0..1.

    Returns:
        (H, W) depth, 0 everywhere if no pixel has any; (H, W) weights.
    """
    weight = np.asarray(np.where(depth > 0.0, weight, 0.0), np.float32)
    if not weight.any():
        return np.zeros_like(depth), weight
    inverse = np.asarray(1.0 / np.where(depth > 0.0, depth, 1.0), np.float32)
    alike = _likeness(rgb, config)
    smooth = _solve(inverse, weight, alike, config.sweeps)
    left = weight
    for _ in range(config.rounds):
        off = (smooth / inverse - 1.0) / config.doubt
        left = np.asarray(weight / (1.0 + off * off), np.float32)
        smooth = _solve(inverse, left, alike, config.sweeps)
    return np.asarray(1.0 / smooth, np.float32), left


def _likeness(rgb: Float32, config: CompletionConfig) -> list[tuple[Float32, Float32]]:
    """Weight of every pixel and the one to its right, and below it, both (H, W); of the picture,
    its half, its quarter, and so on to the smallest."""
    height, width = rgb.shape[:2]
    right, down = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for likeness, axis in ((right[:, :-1], 1), (down[:-1], 0)):
        red, green, blue = np.moveaxis(np.abs(np.diff(rgb, axis=axis)), 2, 0)
        edge = np.maximum(np.maximum(red, green), blue)
        likeness[:] = config.stiffness * (np.exp(-edge / config.colour) + config.leak)
    size = _halved(height, width)
    return [(right, down), *(_likeness(_reduced(rgb, size), config) if size else [])]


def _solve(
    inverse: Float32, weight: Float32, alike: list[tuple[Float32, Float32]], sweeps: int
) -> Float32:
    """The least of weight (x - inverse)² + stiffness · likeness (x - neighbour)², coarse to fine;
    within the range of what has weight, as every value is a mean."""
    height, width = inverse.shape
    if size := _halved(height, width):
        area = np.float32(height * width / (size[0] * size[1]))
        share = _reduced(weight, size)
        mean = np.asarray(_reduced(inverse * weight, size) / np.maximum(share, 1e-12), np.float32)
        coarse = _solve(mean, share * area, alike[1:], sweeps)
        x = np.asarray(
            cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
        )
    else:
        x = np.full_like(inverse, (inverse * weight).sum() / weight.sum())
    _relax(x, inverse, weight, *alike[0], sweeps)
    return x


def _halved(height: int, width: int) -> tuple[int, int] | None:
    """Width and height of the next smaller picture; None: this is the smallest."""
    return (width // 2, height // 2) if min(height, width) > _COARSEST else None


def _reduced(image: Float32, size: tuple[int, int]) -> Float32:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)


@numba.njit(nogil=True, cache=True)
def _relax(
    x: Float32, known: Float32, weight: Float32, right: Float32, down: Float32, sweeps: int
) -> None:
    """Red-black over-relaxation of `x` (H, W), in place.

    Args:
        right, down: (H, W) weight of a pixel and the one to its right, and below it.
    """
    height, width = x.shape
    low, high = np.inf, 0.0
    for row in range(height):
        for column in range(width):
            if weight[row, column] > 0.0:
                low = min(low, known[row, column])
                high = max(high, known[row, column])
    for sweep in range(2 * sweeps):
        for row in range(height):
            for column in range((row + sweep) & 1, width, 2):
                total = weight[row, column]
                mean = total * known[row, column]
                if row > 0:
                    total += down[row - 1, column]
                    mean += down[row - 1, column] * x[row - 1, column]
                if row + 1 < height:
                    total += down[row, column]
                    mean += down[row, column] * x[row + 1, column]
                if column > 0:
                    total += right[row, column - 1]
                    mean += right[row, column - 1] * x[row, column - 1]
                if column + 1 < width:
                    total += right[row, column]
                    mean += right[row, column] * x[row, column + 1]
                value = x[row, column] + _HASTE * (mean / total - x[row, column])
                # Haste overshoots; nothing may lie beyond all that is known.
                x[row, column] = min(max(value, low), high)

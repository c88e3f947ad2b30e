"""Projections between two posed views, in float64 whatever the world's unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttt_core.matching.views import PosedImage


@dataclass(frozen=True, slots=True, eq=False)
class Relative:
    """Pixel p of one view at depth z lies in another at `rotation @ (p,1) + offset / z`.

    rotation: (3,3), offset: (3,); the third component of the sum is the other view's depth / z.
    """

    rotation: NDArray[np.float64]
    offset: NDArray[np.float64]


def relative(view: PosedImage, other: PosedImage) -> Relative:
    """How pixels of `view` move into `other`."""
    to_other = other.K.astype(np.float64) @ other.c2w[:3, :3].T
    rotation = to_other @ view.c2w[:3, :3] @ np.linalg.inv(view.K)
    return Relative(rotation, to_other @ (view.center - other.center))


def pixel_grid(height: int, width: int, columns: int, rows: int) -> NDArray[np.float64]:
    """(3, rows*columns) homogeneous pixel positions spread evenly over an image."""
    x = (np.arange(columns) + 0.5) / columns * width
    y = (np.arange(rows) + 0.5) / rows * height
    grid = np.stack(np.meshgrid(x, y), 0).reshape(2, -1)
    return np.concatenate([grid, np.ones((1, grid.shape[1]))])


def plane_depths(near: float, far: float, planes: int) -> NDArray[np.float64]:
    """(planes,) depths from `near` to `far`, evenly spaced in the logarithm."""
    return near * (far / near) ** (np.arange(planes) / (planes - 1))

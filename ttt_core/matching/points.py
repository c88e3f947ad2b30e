"""World points whose depth is known already, and where they fall in a view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttt_core.matching.views import PosedImage

_COLUMNS, _ROWS = 12, 8


def surface_points(
    view: PosedImage, depth: NDArray[np.float32], trusted: NDArray[np.bool_], step: int
) -> NDArray[np.float64]:
    """(n,3) world points of every `step`-th pixel of `view` at which `depth` (H,W) is trusted."""
    start = step // 2
    rows, columns = np.nonzero(trusted[start::step, start::step])
    y, x = rows * step + start, columns * step + start
    pixels = np.stack([x + 0.5, y + 0.5, np.ones(len(x))], 1)
    local = pixels @ np.linalg.inv(view.K).T * depth[y, x].astype(np.float64)[:, None]
    return local @ view.c2w[:3, :3].T + view.center


@dataclass(frozen=True, slots=True, eq=False)
class SeenPoints:
    """Points inside a view. depths: (n,); coverage: share of the view's 12x8 parts with any."""

    depths: NDArray[np.float64]
    coverage: float


def seen_points(view: PosedImage, points: NDArray[np.float64]) -> SeenPoints:
    """Which of the world `points` (m,3) lie in front of `view` and inside its picture."""
    local = (points - view.center) @ view.c2w[:3, :3]
    local = local[local[:, 2] > 0]
    pixels = local @ view.K.T
    height, width = view.gray.shape
    u, v = pixels[:, 0] / local[:, 2], pixels[:, 1] / local[:, 2]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = u[inside], v[inside]
    parts = (v * _ROWS / height).astype(int) * _COLUMNS + (u * _COLUMNS / width).astype(int)
    return SeenPoints(local[inside, 2], len(np.unique(parts)) / (_COLUMNS * _ROWS))

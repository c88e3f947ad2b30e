"""Which views to match a key frame against: overlap and baseline decide, not order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttt_core.matching.config import PriorConfig
from ttt_core.matching.geometry import pixel_grid, relative
from ttt_core.matching.views import PosedImage

_COLUMNS, _ROWS = 9, 6


def overlap(view: PosedImage, other: PosedImage, depths: NDArray[np.float64]) -> float:
    """Share of `view`, were it at each of `depths`, that lies inside `other`; mean over depths."""
    grid = pixel_grid(view.gray.shape[0], view.gray.shape[1], _COLUMNS, _ROWS)
    move = relative(view, other)
    height, width = other.gray.shape
    points = (move.rotation @ grid)[:, None, :] + move.offset[:, None, None] / depths[:, None]
    x, y, w = points
    ahead = w > 1e-9
    safe = np.where(ahead, w, 1.0)
    inside = ahead & (x >= 0) & (x <= width * safe) & (y >= 0) & (y <= height * safe)
    # A patch seen much larger or smaller than in the view does not match it.
    similar = (w > 0.5) & (w < 2.0)
    return float((inside & similar).mean())


def triangulation_angle(view: PosedImage, other: PosedImage, depth: float) -> float:
    """Angle in degrees between the two cameras, seen from the view's centre pixel at `depth`."""
    height, width = view.gray.shape
    ray = np.linalg.inv(view.K) @ np.array([width / 2, height / 2, 1.0])
    point = view.c2w[:3, :3] @ (ray * depth) + view.center
    a, b = view.center - point, other.center - point
    # Unlike the arc cosine this keeps its digits at small angles.
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def choose_sources(
    view: PosedImage,
    candidates: Sequence[PosedImage],
    depths: NDArray[np.float64],
    config: PriorConfig,
) -> list[PosedImage]:
    """The best `config.sources` of `candidates`, best first; fewer, or none, where few overlap.

    depths: (n,) depths at which the view's content is believed to lie. A candidate's score is
    its overlap times a liking for its triangulation angle; a candidate close to one already
    taken adds little and is passed over for a view from another side.
    """
    median = float(np.median(depths))
    scored: list[tuple[float, PosedImage]] = []
    for candidate in candidates:
        if candidate is view:
            continue
        angle = triangulation_angle(view, candidate, median)
        # Below a tenth of a degree no depth can be told, whatever the picture.
        if angle < 0.1:
            continue
        seen = overlap(view, candidate, depths)
        if seen < config.least_overlap:
            continue
        liking = np.exp(-0.5 * (np.log(angle / config.best_angle) / config.angle_spread) ** 2)
        scored.append((seen * float(liking), candidate))
    chosen: list[PosedImage] = []
    while scored and len(chosen) < config.sources:
        scored.sort(key=lambda item: (-item[0], item[1].key))
        best = scored.pop(0)[1]
        chosen.append(best)
        reach = float(np.linalg.norm(best.center - view.center))
        scored = [
            (s * _novelty(float(np.linalg.norm(c.center - best.center)) / reach), c)
            for s, c in scored
        ]
    return chosen


def _novelty(separation: float) -> float:
    """0.3 for a candidate in the same place as a chosen one, 1 for one as far as the view."""
    return 1.0 - 0.7 * float(np.exp(-((separation / 0.4) ** 2)))

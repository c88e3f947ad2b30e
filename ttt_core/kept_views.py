"""Which earlier key frames stay at hand as matching sources: a bounded, spread-out choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ttt_core.matching import PosedImage


def _spacing(views: Sequence[PosedImage], unit: float) -> NDArray[np.float64]:
    """(K, K) distance between cameras: baseline in `unit`s plus angle between optical axes."""
    poses = np.stack([view.c2w for view in views])
    centers, axes = poses[:, :3, 3], poses[:, :3, 2]
    baseline = np.linalg.norm(centers[:, None] - centers[None], axis=-1) / unit
    return baseline + np.arccos(np.clip(axes @ axes.T, -1, 1))


def keep_views(
    kept: Sequence[PosedImage], new: Sequence[PosedImage], *, limit: int, recent: int, unit: float
) -> tuple[PosedImage, ...]:
    """Add `new` views and thin out the old ones to at most `limit`, in order of arrival.

    The newest `recent` views always stay. Of the older ones the view nearest to another kept view
    goes first, so that what stays covers the places that the camera saw: a revisit finds a source.

    Args:
        unit: world length that counts as much as one radian of turning.
    """
    replaced = {view.key for view in new}
    views = [view for view in kept if view.key not in replaced] + list(new)
    while len(views) > limit:
        older = max(len(views) - recent, 1)
        spacing = _spacing(views, unit)
        np.fill_diagonal(spacing, np.inf)
        del views[int(spacing[:older].min(axis=1).argmin())]
    return tuple(views)


def move_views(
    kept: Sequence[PosedImage],
    poses: Mapping[int, NDArray[np.float64]],
    scales: Mapping[int, float] | None = None,
) -> tuple[PosedImage, ...]:
    """`kept` with corrected camera-to-world poses (4, 4) for the keys that `poses` names, and with
    depth that grew by the factors that `scales` names."""
    factors = scales or {}
    return tuple(
        _moved(view, poses[view.key], factors.get(view.key, 1.0)) if view.key in poses else view
        for view in kept
    )


def _moved(view: PosedImage, c2w: NDArray[np.float64], scale: float) -> PosedImage:
    depth = view.depth
    if depth is not None and scale != 1.0:
        depth = depth * np.float32(scale)
    return replace(view, c2w=np.array(c2w, dtype=np.float64), depth=depth)

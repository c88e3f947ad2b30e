"""Fusion: which pixels of a predicted view become new splats, and how large ones.

A pixel becomes one only where the rendered map does not explain it: nothing there (alpha), or
another surface in front (depth) of another colour. Flat regions take one splat for 4x4 or 2x2
pixels, detail takes one a pixel, and a tolerance is raised until the view keeps its budget: a
quadtree on the colour error that a cell's mean leaves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder.from_depth import splats_from_depth
from gs_decoder.splats import Splats

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

_HALVINGS = 2
"""Flat surfaces take splats for cells of up to 4x4 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """Thresholds of what the map explains, and the budget of a view.

    Attributes:
        alpha: a pixel with less rendered alpha is empty.
        closer: a confident prediction this much (relative) in front of the map is a new surface,
            where the colour disagrees too.
        color: mean absolute colour difference, 0..1, beyond which the map shows something else.
        confidence: predictions below it say nothing about surfaces; they fill holes, coarsely.
        hole_confidence: the confidence that such fillers are given (their opacity follows).
        hole_cell: largest side of the cells, of the long side of the view, that coarse fillers
            stand for: where nothing is known but one picture, detail is learnt by heart.
        far: how far those are placed, times the 98th percentile of the view's sure depths: too
            near they hide what others see, too far they are hidden themselves.
        cell_spread: a cell whose depths differ more than this (relative) is split.
        tolerance: smallest sum of squared colour errors at which a cell is split.
    """

    alpha: float = 0.6
    closer: float = 0.08
    color: float = 0.12
    confidence: float = 0.55
    hole_confidence: float = 0.2
    hole_cell: float = 0.1
    far: float = 2.0
    cell_spread: float = 0.06
    tolerance: float = 0.02


def unexplained(
    color: Float32,
    depth: Float32,
    confidence: Float32,
    rendered: tuple[Float32, Float32, Float32] | None,
    valid: Mask | None,
    config: FusionConfig,
) -> tuple[Mask, Mask]:
    """Pixels that ask for splats: (H, W) of surfaces, (H, W) of holes to fill.

    Args:
        color: the view's image, (H, W, 3) float32 0..1.
        depth, confidence: the prediction, (H, W) float32.
        rendered: rgb (H, W, 3), depth (H, W), alpha (H, W) of the map at this view; None if empty.
        valid: (H, W), False where the view says nothing.
    """
    confident = confidence >= config.confidence
    known = np.ones(depth.shape, np.bool_) if valid is None else valid
    if rendered is None:
        return confident & known, ~confident & known
    rgb, map_depth, alpha = rendered
    empty = alpha < config.alpha
    # A 3x3 mean: one noisy or mis-registered pixel is not another surface.
    error = cv2.blur(np.abs(rgb - color).mean(axis=2), (3, 3))
    differs = error > config.color
    closer = depth < (1.0 - config.closer) * map_depth
    surface = confident & known & (empty | (closer & differs))
    return surface, ~confident & known & empty


def fuse_view(
    color: Float32,
    depth: Float32,
    confidence: Float32,
    fxfycxcy: tuple[float, float, float, float],
    *,
    rendered: tuple[Float32, Float32, Float32] | None,
    valid: Mask | None = None,
    residuals: Float32 | None = None,
    budget: int,
    coarse_holes: bool = False,
    config: FusionConfig | None = None,
) -> Splats:
    """New splats of a key frame, in its camera's frame; at most `budget`, possibly none.

    Args: as in `unexplained`, and
        fxfycxcy: pixels.
        residuals: (H, W, 7) of a trained network: log scales 3, axis-angle 3, opacity logit 1.
        coarse_holes: fill holes with splats for cells of `hole_cell`, not of 4x4 pixels.
    """
    config = config or FusionConfig()
    surface, hole = unexplained(color, depth, confidence, rendered, valid, config)
    wanted = surface | hole
    if not wanted.any():
        return Splats.empty()
    trust = np.where(hole, np.float32(config.hole_confidence), confidence)
    levels = [_Level.finest(color, depth, trust, wanted, hole, residuals)]
    halvings = _HALVINGS
    if coarse_holes:
        halvings = max(halvings, int(math.log2(max(1.0, config.hole_cell * max(depth.shape)))))
    for _ in range(halvings):
        levels.append(levels[-1].halved())
    tolerance = config.tolerance
    picked = _pick(levels, tolerance, config)
    while sum(int(mask.sum()) for mask in picked) > budget:
        tolerance *= 1.5
        picked = _pick(levels, tolerance, config)
        if tolerance > 1e4:
            picked = _thin(picked, budget)
            break
    parts = [level.splats(mask, fxfycxcy) for level, mask in zip(levels, picked) if mask.any()]
    return Splats.cat(parts) if parts else Splats.empty()


@dataclass(frozen=True, slots=True)
class _Level:
    """A view in cells of `size` pixels: means over each cell, and what the means lose.

    color (h, w, 3); log_depth, confidence, share (wanted share of the cell), hole (share of
    holes), residuals (7 channels or None), loss (sum of squared colour errors of the cell),
    nearest and farthest log depth: (h, w)
    """

    size: int
    color: Float32
    log_depth: Float32
    confidence: Float32
    share: Float32
    hole: Float32
    loss: Float32
    nearest: Float32
    farthest: Float32
    residuals: Float32 | None

    @staticmethod
    def finest(
        color: Float32,
        depth: Float32,
        confidence: Float32,
        wanted: Mask,
        hole: Mask,
        residuals: Float32 | None,
    ) -> _Level:
        log_depth = np.log(depth)
        return _Level(
            1,
            color,
            log_depth,
            confidence,
            wanted.astype(np.float32),
            hole.astype(np.float32),
            np.zeros(depth.shape, np.float32),
            log_depth,
            log_depth,
            residuals,
        )

    def halved(self) -> _Level:
        """Cells twice as large; an odd last row or column repeats itself."""
        color = _corners(self.color)
        mean = _mean(color)
        spread = _sum([np.square(quarter - mean).sum(axis=2) for quarter in color])
        return _Level(
            2 * self.size,
            mean,
            _mean(_corners(self.log_depth)),
            _mean(_corners(self.confidence)),
            _mean(_corners(self.share)),
            _mean(_corners(self.hole)),
            _sum(_corners(self.loss)) + spread * np.float32(self.size**2),
            functools.reduce(np.minimum, _corners(self.nearest)),
            functools.reduce(np.maximum, _corners(self.farthest)),
            None if self.residuals is None else _mean(_corners(self.residuals)),
        )

    def splats(self, mask: Mask, fxfycxcy: tuple[float, float, float, float]) -> Splats:
        """Splats of the marked cells: the view at 1/size resolution, so size scales the rest."""
        log_scale = rotation = opacity = None
        if self.residuals is not None:
            planes = torch.from_numpy(np.ascontiguousarray(self.residuals.transpose(2, 0, 1)))
            log_scale, rotation, opacity = planes[:3], planes[3:6], planes[6]
        return splats_from_depth(
            torch.from_numpy(np.exp(self.log_depth)),
            torch.from_numpy(self.confidence),
            torch.from_numpy(np.ascontiguousarray(self.color.transpose(2, 0, 1))),
            torch.tensor([value / self.size for value in fxfycxcy]),
            cell=self.size,
            keep=torch.from_numpy(mask),
            log_scale_residual=log_scale,
            rotation_residual=rotation,
            opacity_logit_residual=opacity,
        )


def _corners(values: Float32) -> list[Float32]:
    """(h, w, …) → the four quarters of its 2x2 cells, each (ceil(h/2), ceil(w/2), …); the last row
    or column repeated if odd."""
    height, width = values.shape[:2]
    if height % 2 or width % 2:
        pad = [(0, height % 2), (0, width % 2)] + [(0, 0)] * (values.ndim - 2)
        values = np.pad(values, pad, mode="edge")
    return [values[row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _sum(quarters: Sequence[Float32]) -> Float32:
    """Of four arrays; numpy's own reduction over axes of two takes several times as long."""
    first, second, third, fourth = quarters
    return first + second + third + fourth


def _mean(quarters: Sequence[Float32]) -> Float32:
    return _sum(quarters) * np.float32(0.25)


def _pick(levels: list[_Level], tolerance: float, config: FusionConfig) -> list[Mask]:
    """Which cells of each level become splats: the coarsest that are good enough, and no others."""
    picked: list[Mask] = []
    covered: Mask | None = None
    for level in reversed(levels):
        free = np.ones(level.share.shape, np.bool_)
        if covered is not None:
            height, width = level.share.shape
            free = ~covered.repeat(2, 0).repeat(2, 1)[:height, :width]
        good = (level.share > 0.5) & free
        if level.size > 1:
            flat = (level.size <= 2**_HALVINGS) & (
                level.farthest - level.nearest < config.cell_spread
            )
            # Fillers know no detail: they stay coarse whatever the colours say.
            good &= (flat & (level.loss < tolerance)) | (level.hole > 0.5)
        picked.append(good)
        covered = ~free | good
    return picked[::-1]


def _thin(picked: list[Mask], budget: int) -> list[Mask]:
    """Every n-th cell, where even the coarsest choice is over the budget; coarse cells first."""
    coarse_first = range(len(picked))[::-1]
    cells = [(level, place) for level in coarse_first for place in np.flatnonzero(picked[level])]
    step = -(-len(cells) // max(1, budget))
    thinned = [np.zeros_like(mask) for mask in picked]
    for level, place in cells[::step]:
        thinned[level].reshape(-1)[place] = True
    return thinned

"""Depth error along streams: by batch, by confidence, with memory and without.

Shape suffixes: S sequences, T batches, K sampled pixels of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttt_core.network import CompactNetwork
from ttt_core.network.inputs import patch_centres, pixel_rays
from ttt_core.training.collate import Draw, StreamStep, collate
from ttt_core.training.memory_figures import MemoryFigures
from ttt_core.training.samples import TrainingSequence

Float32 = NDArray[np.float32]

_SAME_SURFACE = 0.05  # relative depth difference up to which another view saw the same point


@dataclass(frozen=True, slots=True, eq=False)
class StreamErrors:
    """What is known of every sampled pixel of many streams, each array (S, T, K).

    Attributes:
        network, prior: abs-rel depth error, NaN where the truth is unknown.
        confidence, prior_confidence: 0..1.
        seen: whether an earlier batch saw the same point of the scene.
    """

    network: Float32
    prior: Float32
    confidence: Float32
    prior_confidence: Float32
    seen: NDArray[np.bool_]

    def median(self, batch: int | slice | None = None) -> float:
        """Pooled median error of the network."""
        return float(np.nanmedian(self.network[:, slice(None) if batch is None else batch]))

    def mean(self, batch: int | slice | None = None) -> float:
        """Pooled mean error of the network."""
        return float(np.nanmean(self.network[:, slice(None) if batch is None else batch]))

    def by_scene(
        self, batch: int | slice, statistic: Literal["median", "mean"] = "median"
    ) -> Float32:
        """(S,) median or mean of every scene, for paired comparisons."""
        flat = self.network[:, batch].reshape(len(self.network), -1)
        median = statistic == "median"
        values = np.nanmedian(flat, axis=1) if median else np.nanmean(flat, axis=1)
        return np.asarray(values, np.float32)


@torch.no_grad()
def stream_errors(
    network: CompactNetwork,
    sequences: Sequence[TrainingSequence],
    draw: Draw,
    *,
    reset: bool = False,
    stride: int = 3,
    together: int = 2,
    device: str | torch.device = "cpu",
    memory: MemoryFigures | None = None,
) -> StreamErrors:
    """Run streams as the product would, and measure every `stride`-th pixel in both directions.

    Args:
        draw: what the network is given; its probabilities should be 0 or 1 here.
        reset: forget everything before every batch.
        together: streams that are run side by side; many spill out of a processor's caches.
        memory: is shown the end of every stream.
    """
    parts = []
    for start in range(0, len(sequences), together):
        group = sequences[start : start + together]
        steps = collate(group, np.random.default_rng(0), draw, device)
        parts.append(_run(network, steps, reset, stride, memory))
    names = StreamErrors.__dataclass_fields__
    return StreamErrors(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def _run(
    network: CompactNetwork,
    steps: Sequence[StreamStep],
    reset: bool,
    stride: int,
    figures: MemoryFigures | None,
) -> StreamErrors:
    streams = steps[0].known.shape[0]
    initial = memory = network.initial_state(streams)
    earlier: list[StreamStep] = []
    columns: list[list[Tensor]] = [[] for _ in range(5)]
    for step in steps:
        before = initial if reset else memory
        output, memory = network(step.views, before, write=True)
        if figures is not None and step is steps[-1]:
            figures.at_end(step, before, memory)

        def sampled(picture: Tensor) -> Tensor:
            return picture[..., stride // 2 :: stride, stride // 2 :: stride].flatten(1).cpu()

        def error(log_depth: Tensor, step: StreamStep = step) -> Tensor:
            relative = (torch.exp(log_depth - step.true_log_depth) - 1).abs()
            return sampled(torch.where(step.known, relative, torch.nan))

        found = (
            error(output.log_depth),
            error(step.views.log_depth),
            sampled(output.confidence),
            sampled(step.views.confidence),
            _seen_before(step, earlier, stride).cpu(),
        )
        for column, value in zip(columns, found, strict=True):
            column.append(value)
        earlier.append(step)
    stacked = [torch.stack(column, dim=1).numpy() for column in columns]
    return StreamErrors(*stacked)


def _seen_before(step: StreamStep, earlier: Sequence[StreamStep], stride: int) -> Tensor:
    """(S, K) bool: a view of an earlier batch shows the same point of the scene."""
    views = step.views

    def sampled(picture: Tensor) -> Tensor:
        return picture[..., stride // 2 :: stride, stride // 2 :: stride].flatten(2)  # (S, V, K')

    known = sampled(step.known)
    height, width = step.known.shape[-2:]
    centres = patch_centres(height, width, 1, views.fxfycxcy).view(height, width, 2)
    centres = centres[stride // 2 :: stride, stride // 2 :: stride].flatten(0, 1)
    origins, directions = pixel_rays(
        views.fxfycxcy, views.c2w, centres.expand(*known.shape[:2], -1, -1)
    )
    depth = sampled(step.true_log_depth).exp()[..., None]
    points = (origins + directions * depth).flatten(1, 2)  # (S, K, 3)
    seen = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    for other in earlier:
        for number in range(other.known.shape[1]):
            seen |= _visible(points, other, number)
    return seen & known.flatten(1)


def _visible(points: Tensor, step: StreamStep, number: int) -> Tensor:
    """(S, K): whether one view of a batch shows these points."""
    height, width = step.known.shape[-2:]
    c2w, camera = step.views.c2w[:, number], step.views.fxfycxcy[:, number]
    local = (points - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]
    z = local[..., 2].clamp_min(1e-6)
    pixel = local[..., :2] / z[..., None] * camera[:, None, :2] + camera[:, None, 2:]
    x, y = pixel.unbind(-1)
    inside = (local[..., 2] > 1e-6) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = y.long().clamp(0, height - 1) * width + x.long().clamp(0, width - 1)
    surface = step.true_log_depth[:, number].flatten(1).gather(1, place)
    known = step.known[:, number].flatten(1).gather(1, place)
    return inside & known & ((z.log() - surface).abs() < _SAME_SURFACE)

"""Training sequences to batches of streams on a device, as the network takes them.

Shape suffixes: S sequences (streams), V views of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttt_core.errors import SequenceError
from ttt_core.network import PATCH, NetworkInput
from ttt_core.training.samples import PriorMaps, TrainingSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How a training sequence is turned into one of its many variants.

    Attributes:
        views: how many views of each batch are taken, by chance; None: all of them.
        batches: how many batches are taken from the front; None: all of them.
        drop_map: probability that a sequence goes without the rendered map.
        alone: probability that a sequence has the prior of the present batch only, where stored.
        permute: probability that the colour channels change places.
    """

    views: int | None = None
    batches: int | None = None
    drop_map: float = 0.0
    alone: float = 0.0
    permute: float = 0.0


AS_STORED = Draw()


@dataclass(frozen=True, slots=True, eq=False)
class StreamStep:
    """One batch of views of S streams with the truth about them.

    Sides are cut to whole patches. true_log_depth (S, V, H, W) in sub-map units, where `known`;
    known, sky (S, V, H, W) bool.
    """

    views: NetworkInput
    true_log_depth: Tensor
    known: Tensor
    sky: Tensor


def collate(
    sequences: Sequence[TrainingSequence],
    rng: np.random.Generator,
    draw: Draw = AS_STORED,
    device: str | torch.device = "cpu",
) -> list[StreamStep]:
    """The batches of several sequences side by side, in order of arrival.

    Raises:
        SequenceError: sequences of different sizes or with batches of different sizes.
    """
    chosen = [_choose(sequence, rng, draw) for sequence in sequences]
    shapes = {tuple(len(batch) for batch in batches) for batches in chosen}
    sizes = {tuple(sequence.image.shape[1:]) for sequence in sequences}
    if len(shapes) != 1 or len(sizes) != 1:
        raise SequenceError(
            f"sequences with batches of {sorted(shapes)} views and images {sorted(sizes)} cannot "
            "go side by side: give sequences of one size and one division into batches"
        )
    streams = [_Stream.drawn(s, rng, draw) for s in sequences]
    steps = []
    for number in range(len(chosen[0])):
        parts = [
            stream.step(batches[number]) for stream, batches in zip(streams, chosen, strict=True)
        ]
        steps.append(_side_by_side(parts, device))
    return steps


def _choose(sequence: TrainingSequence, rng: np.random.Generator, draw: Draw) -> list[Tensor]:
    """Indices of the views of every batch."""
    chosen = []
    for number in sequence.batch.unique().tolist()[: draw.batches]:
        views = torch.nonzero(sequence.batch == number).flatten()
        if draw.views is not None and draw.views < len(views):
            kept = np.sort(rng.permutation(len(views))[: draw.views])
            views = views[torch.from_numpy(kept)]
        chosen.append(views)
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    sequence: TrainingSequence
    prior: PriorMaps
    local: Tensor  # (V, 4, 4) float32 camera to sub-map
    with_map: bool
    channels: list[int]

    @classmethod
    def drawn(cls, sequence: TrainingSequence, rng: np.random.Generator, draw: Draw) -> _Stream:
        local = torch.linalg.inv(sequence.c2w[0]) @ sequence.c2w
        local[:, :3, 3] /= sequence.unit
        # every draw happens, so that settings do not change which views are drawn
        alone, no_map, permuted = (rng.random() for _ in range(3))
        order = rng.permutation(3).tolist()
        prior = sequence.prior
        if alone < draw.alone and sequence.prior_alone is not None:
            prior = sequence.prior_alone
        return cls(
            sequence,
            prior,
            local.float(),
            no_map >= draw.drop_map,
            order if permuted < draw.permute else [0, 1, 2],
        )

    def step(self, views: Tensor) -> StreamStep:
        """One batch of this stream, S = 1."""
        sequence, prior = self.sequence, self.prior
        log_unit = math.log(sequence.unit)
        log_depth = prior.depth[views].float().log() - log_unit
        map_depth = sequence.map_depth[views].float()
        there = (map_depth > 0) & self.with_map
        map_log_depth = torch.where(there, map_depth.log() - log_unit, log_depth)
        truth = sequence.true_depth[views].float()
        known = truth > 0
        inputs = NetworkInput(
            image=sequence.image[views][:, self.channels].float() / 255,
            log_depth=log_depth,
            confidence=prior.confidence[views].float() / 255,
            map_log_depth=map_log_depth,
            map_there=there.float(),
            cells=prior.cells[views].float(),
            log_range=prior.depth_range[views].log() - log_unit,
            fxfycxcy=sequence.fxfycxcy[views],
            c2w=self.local[views],
        )
        truth = torch.where(known, truth.log() - log_unit, 0.0)
        return StreamStep(
            inputs.map(lambda t: t[None]).cropped(PATCH),
            *(_cropped(t)[None] for t in (truth, known, sequence.sky[views])),
        )


def _cropped(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    return picture[..., : height // PATCH * PATCH, : width // PATCH * PATCH]


def _side_by_side(parts: Sequence[StreamStep], device: str | torch.device) -> StreamStep:
    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).to(device)

    return StreamStep(
        NetworkInput.joined([p.views for p in parts]).map(lambda t: t.to(device)),
        joined([p.true_log_depth for p in parts]),
        joined([p.known for p in parts]),
        joined([p.sky for p in parts]),
    )

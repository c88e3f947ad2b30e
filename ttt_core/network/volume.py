"""The fast-weight volume: a place memory written at predicted surfaces and read along rays.

For every token the memory is asked at depth candidates of its ray ("what is held at this place?");
the answers, compared with what the token sees, join the matching cost as channels of the decoder
along the ray. After a prediction each token writes four samples: at its surface, just before and
just behind it, and in the free space up to it.
Shape suffixes: B streams, V views, N tokens of a view, M ray samples, C token channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_core.memory import MemoryState, PlaceMemory
from ttt_core.network.inputs import log_planes, pixel_rays

ANSWER_CHANNELS = 8
"""Channels of what the memory adds to the decoder along the ray; the last is its doubt."""
_HIDDEN = 24
_SAMPLES = 4
_NEARBY = 0.15  # of log depth: just before and just behind
_FREE_FROM, _FREE_TO = 0.25, 0.8  # of the way to the surface
_GOLDEN = 0.6180339887498949
_PLASTIC = 0.7548776662466927


@dataclass(frozen=True, slots=True, eq=False)
class WriteRecord:
    """What a view wrote, without its pose: enough to take it back, or to write it elsewhere.

    Of a surface grid N are cells, features their colours, there is one weight a cell, and `free`
    says nothing.
    """

    features: Tensor  # (B, V, N, value_width)
    weights: Tensor  # (B, V, N, _SAMPLES, weight_channels)
    log_depth: Tensor  # (B, V, N)
    pixels: Tensor  # (B, V, N, 2)
    free: Tensor  # (B, V, N), place of the free-space sample, in shares of the depth

    def map(self, function: Callable[[Tensor], Tensor]) -> WriteRecord:
        return WriteRecord(*(function(getattr(self, f.name)) for f in fields(self)))

    def view(self, number: int) -> WriteRecord:
        """One view's part, with V = 1."""
        return self.map(lambda t: t[:, number : number + 1])


@dataclass(frozen=True, slots=True, eq=False)
class RecordEdit:
    """A record to be taken back from the memory, or to be written as if at its time."""

    record: WriteRecord  # V views, as written; log depths may have been rescaled for sign +1
    fxfycxcy: Tensor  # (B, V, 4)
    c2w: Tensor  # (B, V, 4, 4), sub-map frame
    age: int
    """Batches written since."""
    sign: int
    """-1 takes it back, +1 writes it."""


class VolumeReader(nn.Module):
    """Asks a place memory along rays and compares the answers with what the tokens see."""

    def __init__(self, width: int, value_width: int, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.of_answer = nn.Linear(value_width + 1, _HIDDEN)
        self.of_token = nn.Linear(width, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, ANSWER_CHANNELS - 1)

    def forward(
        self,
        memory: PlaceMemory,
        state: MemoryState,
        tokens: Tensor,  # (B, V, N, C)
        origins: Tensor,  # (B, V, 1, 3)
        directions: Tensor,  # (B, V, N, 3)
        log_range: Tensor,  # (B, V, 2)
    ) -> Tensor:
        """(B, V, N, M, ANSWER_CHANNELS)."""
        depth = log_planes(log_range, self.samples).exp()[:, :, None, :, None]
        places = origins[..., None, :] + directions[..., None, :] * depth  # (B, V, N, M, 3)
        answer, doubt = memory.read(state, places.flatten(1, -2))
        shape = places.shape[:-1]
        answer, doubt = answer.view(*shape, -1), doubt.view(*shape, 1)
        hidden = (
            self.of_answer(torch.cat((answer, doubt), -1)) + self.of_token(tokens)[..., None, :]
        )
        # What nothing is known of must not speak: only the doubt itself gets through.
        return torch.cat((self.out(F.gelu(hidden)) * (1 - doubt), doubt), dim=-1)


class VolumeWriter(nn.Module):
    """Turns what was predicted for tokens into samples for a place memory."""

    def __init__(self, width: int, value_width: int, weight_channels: int) -> None:
        super().__init__()
        self.kinds = nn.Parameter(torch.randn(_SAMPLES, value_width) * 0.5)
        self.shares = nn.Parameter(torch.tensor([1.0, 0.3, 0.3, 0.0]))
        self.of_token = nn.Linear(width, value_width)
        self.weight = nn.Linear(width + 1, weight_channels)
        self.weight_of_kind = nn.Parameter(torch.zeros(_SAMPLES, weight_channels))
        self.dealt = (0, 1)
        """Number of the first view, and of processes that views are dealt out to in turn."""

    def describe(
        self,
        tokens: Tensor,  # (B, V, N, C)
        confidence: Tensor,  # (B, V, N)
        log_depth: Tensor,  # (B, V, N)
        pixels: Tensor,  # (B, V, N, 2)
        written: int,
    ) -> WriteRecord:
        """What these views write; `written` only varies where free space is sampled."""
        evidence = torch.cat((tokens, confidence[..., None]), dim=-1)
        weights = F.softplus(self.weight(evidence)[..., None, :] + self.weight_of_kind)
        count = log_depth.shape[2]
        number = torch.arange(count, device=log_depth.device, dtype=torch.float64)
        first, every = self.dealt
        views = torch.arange(log_depth.shape[1], device=log_depth.device, dtype=torch.float64)
        views = first + every * views
        # A fixed low-discrepancy sequence: the same stream must give the same memory.
        turn = (number * _GOLDEN + (views[:, None] + 7 * written) * _PLASTIC) % 1.0
        free = _FREE_FROM + (_FREE_TO - _FREE_FROM) * turn
        return WriteRecord(
            features=self.of_token(tokens),
            weights=weights,
            log_depth=log_depth,
            pixels=pixels,
            free=free.to(log_depth).expand_as(log_depth),
        )

    def samples(
        self, record: WriteRecord, fxfycxcy: Tensor, c2w: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Places (B, V*N*4, 3), values and weights of a record, for cameras (B, V, ...)."""
        origins, directions = pixel_rays(fxfycxcy, c2w, record.pixels)
        near, behind = math.exp(-_NEARBY), math.exp(_NEARBY)
        one = torch.ones_like(record.free)
        offsets = torch.stack((one, near * one, behind * one, record.free), dim=-1)
        depth = record.log_depth.exp()[..., None] * offsets  # (B, V, N, 4)
        places = origins[..., None, :] + directions[..., None, :] * depth[..., None]
        values = self.kinds + self.shares[:, None] * record.features[..., None, :]
        return places.flatten(1, -2), values.flatten(1, -2), record.weights.flatten(1, -2)

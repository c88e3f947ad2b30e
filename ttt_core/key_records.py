"""What a key frame wrote into the memory, kept so that a corrected pose can take it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ttt_core.errors import StateMismatchError
from ttt_core.network import WriteRecord

_PARTS = tuple(field.name for field in fields(WriteRecord))
_PENDING = frozenset({"pending.c2w", "pending.log_scale"})


@dataclass(frozen=True, slots=True, eq=False)
class PendingMove:
    """Where a contribution belongs that the memory still holds elsewhere."""

    c2w: Tensor  # (4, 4) float64, world
    log_scale: float
    """By how much its depths are to grow, logarithm."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyRecord:
    """One key frame's contribution: 160 bytes a token, 96 kB for a view of 240x160; to a surface
    grid 32 bytes a cell, 77 kB."""

    key: int
    written: int
    """Number of the batch that wrote it, from 0."""
    fxfycxcy: Tensor  # (4,) float32
    c2w: Tensor  # (4, 4) float64, world, with which the memory holds it
    record: WriteRecord  # one stream, one view, as the memory holds it
    pending: PendingMove | None = None
    """A correction that has yet to reach the memory."""

    def moved(self) -> KeyRecord:
        """The record once its pending correction is in the memory."""
        if self.pending is None:
            return self
        grown = replace(self.record, log_depth=self.record.log_depth + self.pending.log_scale)
        return replace(self, c2w=self.pending.c2w, record=grown, pending=None)

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` form that a larger file can embed."""
        parts = {name: getattr(self.record, name) for name in _PARTS}
        number = torch.tensor([self.key, self.written], dtype=torch.int64)
        tensors = {"number": number, "fxfycxcy": self.fxfycxcy, "c2w": self.c2w, **parts}
        if self.pending is not None:
            tensors["pending.c2w"] = self.pending.c2w
            tensors["pending.log_scale"] = torch.tensor(self.pending.log_scale, dtype=torch.float64)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> KeyRecord:
        """The inverse of `to_tensors`.

        Raises:
            StateMismatchError: something is missing.
        """
        expected = {"number", "fxfycxcy", "c2w", *_PARTS}
        waits = _PENDING & tensors.keys()
        if waits:
            expected |= _PENDING
        lacking = expected - tensors.keys()
        if lacking:
            raise StateMismatchError(
                f"a key frame's record lacks {sorted(lacking)}: the file is damaged"
            )
        key, written = tensors["number"].tolist()
        record = WriteRecord(**{name: tensors[name] for name in _PARTS})
        pending = None
        if waits:
            pending = PendingMove(tensors["pending.c2w"], float(tensors["pending.log_scale"]))
        return cls(key, written, tensors["fxfycxcy"], tensors["c2w"], record, pending)

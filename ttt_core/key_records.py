"""What a key frame wrote into the memory, kept so that a corrected pose can take it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ttt_core.errors import StateMismatchError
from ttt_core.network import WriteRecord

_PARTS = tuple(field.name for field in fields(WriteRecord))


@dataclass(frozen=True, slots=True, eq=False)
class KeyRecord:
    """One key frame's contribution: 160 bytes a token, 96 kB for a view of 240x160."""

    key: int
    written: int
    """Number of the batch that wrote it, from 0."""
    fxfycxcy: Tensor  # (4,) float32
    c2w: Tensor  # (4, 4) float64, world
    record: WriteRecord  # one stream, one view

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` form that a larger file can embed."""
        parts = {name: getattr(self.record, name) for name in _PARTS}
        number = torch.tensor([self.key, self.written], dtype=torch.int64)
        return {"number": number, "fxfycxcy": self.fxfycxcy, "c2w": self.c2w, **parts}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> KeyRecord:
        """The inverse of `to_tensors`.

        Raises:
            StateMismatchError: something is missing.
        """
        lacking = {"number", "fxfycxcy", "c2w", *_PARTS} - tensors.keys()
        if lacking:
            raise StateMismatchError(
                f"a key frame's record lacks {sorted(lacking)}: the file is damaged"
            )
        key, written = tensors["number"].tolist()
        record = WriteRecord(**{name: tensors[name] for name in _PARTS})
        return cls(key, written, tensors["fxfycxcy"], tensors["c2w"], record)

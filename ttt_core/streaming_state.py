"""What the streaming model carries, and its form on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ttt_core.errors import StateMismatchError
from ttt_core.key_records import KeyRecord
from ttt_core.matching import PosedImage
from ttt_core.memory import MemoryState
from ttt_core.state import read_state_tensors, write_tensors
from ttt_core.submap import SubmapFrame

_MEMORY, _FRAME, _VIEW, _RECORD = "memory.", "frame.", "view.", "record."
_KEYS = "views.keys"
_VIEW_FIELDS = ("gray", "K", "c2w", "valid", "depth", "confidence")
_REQUIRED_VIEW_FIELDS = {"gray", "K", "c2w"}


@dataclass(frozen=True, slots=True, eq=False)
class StreamingState:
    """Fast weights, sub-map frame, and the earlier key frames kept for matching.

    Attributes:
        memory: the network's carried memory (one stream).
        frame: None until the first batch fixed it.
        views: bounded number of earlier key frames, in order of arrival.
        records: bounded number of key frames' contributions to the memory, in order of arrival:
            what a corrected pose needs to take them back.
    """

    memory: MemoryState
    frame: SubmapFrame | None = None
    views: tuple[PosedImage, ...] = ()
    records: tuple[KeyRecord, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors; bounded however long the stream."""
        return sum(t.numel() * t.element_size() for t in self.to_tensors().values())

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` form (not copied) that a larger file can embed."""
        tensors = {_MEMORY + name: t for name, t in self.memory.to_tensors().items()}
        if self.frame is not None:
            tensors[_FRAME + "world_from_submap"] = self.frame.world_from_submap
            tensors[_FRAME + "scale"] = self.frame.scale
        tensors[_KEYS] = torch.tensor([view.key for view in self.views], dtype=torch.int64)
        for index, view in enumerate(self.views):
            for field in _VIEW_FIELDS:
                array = getattr(view, field)
                if array is not None:
                    tensors[f"{_VIEW}{index}.{field}"] = torch.from_numpy(array)
        for index, record in enumerate(self.records):
            for name, tensor in record.to_tensors().items():
                tensors[f"{_RECORD}{index}.{name}"] = tensor
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> StreamingState:
        """The inverse of `to_tensors`.

        Raises:
            StateMismatchError: names are unknown or missing.
        """
        memory = {
            name.removeprefix(_MEMORY): t for name, t in tensors.items() if name.startswith(_MEMORY)
        }
        frame = {
            name.removeprefix(_FRAME): t for name, t in tensors.items() if name.startswith(_FRAME)
        }
        if frame and frame.keys() != {"world_from_submap", "scale"}:
            raise StateMismatchError(
                f"the state's frame holds {sorted(frame)}: expected world_from_submap and scale; "
                "the file is damaged"
            )
        if _KEYS not in tensors:
            raise StateMismatchError(
                f"the state lacks {_KEYS}: was this file written by save_streaming_state?"
            )
        views = tuple(
            _view(tensors, index, key) for index, key in enumerate(tensors[_KEYS].tolist())
        )
        return cls(
            memory=MemoryState.from_tensors(memory),
            frame=SubmapFrame(**frame) if frame else None,
            views=views,
            records=_records(tensors),
        )


def _records(tensors: Mapping[str, Tensor]) -> tuple[KeyRecord, ...]:
    by_index: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_RECORD):
            index, _, field = name.removeprefix(_RECORD).partition(".")
            by_index.setdefault(int(index), {})[field] = tensor
    return tuple(KeyRecord.from_tensors(by_index[index]) for index in sorted(by_index))


def _view(tensors: Mapping[str, Tensor], index: int, key: int) -> PosedImage:
    fields = {
        field: tensors[f"{_VIEW}{index}.{field}"].cpu().numpy()
        for field in _VIEW_FIELDS
        if f"{_VIEW}{index}.{field}" in tensors
    }
    lacking = _REQUIRED_VIEW_FIELDS - fields.keys()
    if lacking:
        raise StateMismatchError(
            f"the state's view {index} (key {key}) lacks {sorted(lacking)}: the file is damaged"
        )
    return PosedImage(key=key, **fields)


def save_streaming_state(state: StreamingState, path: str | Path) -> None:
    """Write `state` as safetensors, whole or not at all; `load_streaming_state` returns it bit for
    bit."""
    write_tensors(state.to_tensors(), path)


def load_streaming_state(path: str | Path) -> StreamingState:
    """Read a state that `save_streaming_state` wrote.

    Raises:
        StateMismatchError: the file is damaged or holds something else.
    """
    return StreamingState.from_tensors(read_state_tensors(path))

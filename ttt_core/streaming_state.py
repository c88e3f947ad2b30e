"""What the streaming model carries, and its form on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ttt_core.errors import StateMismatchError
from ttt_core.key_records import KeyRecord
from ttt_core.matching import PosedImage
from ttt_core.memory import MemoryState
from ttt_core.state import read_state_tensors, write_tensors
from ttt_core.submap import SubmapFrame
from ttt_core.submaps import Anchor, Submap

_MEMORY, _FRAME, _VIEW, _RECORD, _LEFT = "memory.", "frame.", "view.", "record.", "left."
_FRAME_PARTS = {"world_from_submap", "scale", "anchor", "anchor_c2w"}
_KEYS = "views.keys"
_VIEW_FIELDS = ("gray", "K", "c2w", "valid", "depth", "confidence")
_REQUIRED_VIEW_FIELDS = {"gray", "K", "c2w"}


@dataclass(frozen=True, slots=True, eq=False)
class StreamingState:
    """Fast weights, sub-map frame, and the earlier key frames kept for matching.

    Attributes:
        memory: the network's carried memory (one stream).
        frame: of the present sub-map; None until its first batch fixed it.
        views: bounded number of earlier key frames, in order of arrival.
        records: bounded number of key frames' contributions to the memory, in order of arrival:
            what a corrected pose needs to take them back.
        anchor: the key frame that the sub-map opened with, None as long as `frame` is.
        left: bounded number of other sub-maps, in the order in which the camera left them.
    """

    memory: MemoryState
    frame: SubmapFrame | None = None
    views: tuple[PosedImage, ...] = ()
    records: tuple[KeyRecord, ...] = ()
    anchor: Anchor | None = None
    left: tuple[Submap, ...] = ()

    @property
    def submap(self) -> Submap | None:
        """The present sub-map; None before its first batch."""
        if self.frame is None or self.anchor is None:
            return None
        return Submap(self.anchor, self.frame, self.memory, self.records)

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors; bounded however long the stream."""
        return sum(t.numel() * t.element_size() for t in self.to_tensors().values())

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` form (not copied) that a larger file can embed."""
        tensors = _submap_tensors(self.memory, self.frame, self.anchor, self.records)
        for index, submap in enumerate(self.left):
            parts = _submap_tensors(submap.memory, submap.frame, submap.anchor, submap.records)
            tensors |= {f"{_LEFT}{index}.{name}": tensor for name, tensor in parts.items()}
        tensors[_KEYS] = torch.tensor([view.key for view in self.views], dtype=torch.int64)
        for index, view in enumerate(self.views):
            for field in _VIEW_FIELDS:
                array = getattr(view, field)
                if array is not None:
                    tensors[f"{_VIEW}{index}.{field}"] = torch.from_numpy(array)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> StreamingState:
        """The inverse of `to_tensors`.

        Raises:
            StateMismatchError: names are unknown or missing.
        """
        if _KEYS not in tensors:
            raise StateMismatchError(
                f"the state lacks {_KEYS}: was this file written by save_streaming_state?"
            )
        views = tuple(
            _view(tensors, index, key) for index, key in enumerate(tensors[_KEYS].tolist())
        )
        memory, present = _submap(tensors)
        left = []
        for parts in _numbered(tensors, _LEFT):
            submap = _submap(parts)[1]
            if submap is None:
                raise StateMismatchError("a sub-map that was left has no frame: it is damaged")
            left.append(submap)
        state = cls(memory=memory, views=views, left=tuple(left))
        if present is None:
            return state
        return replace(state, frame=present.frame, records=present.records, anchor=present.anchor)


def _submap_tensors(
    memory: MemoryState,
    frame: SubmapFrame | None,
    anchor: Anchor | None,
    records: Sequence[KeyRecord],
) -> dict[str, Tensor]:
    tensors = {_MEMORY + name: t for name, t in memory.to_tensors().items()}
    if frame is not None and anchor is not None:
        tensors[_FRAME + "world_from_submap"] = frame.world_from_submap
        tensors[_FRAME + "scale"] = frame.scale
        tensors[_FRAME + "anchor"] = torch.tensor(anchor.key, dtype=torch.int64)
        tensors[_FRAME + "anchor_c2w"] = anchor.c2w
    for index, record in enumerate(records):
        for name, tensor in record.to_tensors().items():
            tensors[f"{_RECORD}{index}.{name}"] = tensor
    return tensors


def _submap(tensors: Mapping[str, Tensor]) -> tuple[MemoryState, Submap | None]:
    """Fast weights, and the sub-map that they are of once it has had a batch."""
    memory = MemoryState.from_tensors(_below(tensors, _MEMORY))
    frame = _below(tensors, _FRAME)
    if not frame:
        return memory, None
    if frame.keys() != _FRAME_PARTS:
        raise StateMismatchError(
            f"the state's frame holds {sorted(frame)}: expected {sorted(_FRAME_PARTS)}; the file "
            "is damaged"
        )
    return memory, Submap(
        Anchor(int(frame["anchor"]), frame["anchor_c2w"]),
        SubmapFrame(frame["world_from_submap"], frame["scale"]),
        memory,
        tuple(KeyRecord.from_tensors(parts) for parts in _numbered(tensors, _RECORD)),
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _numbered(tensors: Mapping[str, Tensor], prefix: str) -> list[dict[str, Tensor]]:
    by_index: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, prefix).items():
        index, _, field = name.partition(".")
        by_index.setdefault(int(index), {})[field] = tensor
    return [by_index[index] for index in sorted(by_index)]


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

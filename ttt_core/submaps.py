"""Sub-maps: one set of fast weights holds a room, not a house, so a stream has several of them.

A sub-map is what was written in one frame and unit. When the camera leaves the region that these
were chosen for, the sub-map that it comes into is taken up again, and a new one opens where there
is none. Poses are given in one world, so it is the world that joins them: a sub-map that was left
follows the corrections of its anchor, the key frame that it opened with, as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttt_core.key_records import KeyRecord
from ttt_core.memory import MemoryState
from ttt_core.rewriting import aimed
from ttt_core.submap import SubmapFrame

Float64 = NDArray[np.float64]

KEPT_SUBMAPS = 48
"""Unless told otherwise."""
_INSIDE = 0.75
"""Share of the reach within which a sub-map is taken up again."""
_NEARER = 0.5
"""How much nearer than the present one another has to be: at a border nothing flickers."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """The key frame that a sub-map opened with, and its pose by the corrections so far."""

    key: int
    c2w: Tensor  # (4, 4) float64, world


@dataclass(frozen=True, slots=True, eq=False)
class Submap:
    """What the fast weights of one frame hold; `records` as in `StreamingState`."""

    anchor: Anchor
    frame: SubmapFrame
    memory: MemoryState
    records: tuple[KeyRecord, ...] = ()

    def distance(self, c2w: Tensor) -> float:
        """From its frame to the middle of cameras (V, 4, 4), in its units."""
        return float(self.frame.localize(c2w)[:, :3, 3].mean(dim=0).norm())


def chosen(now: Submap, others: Sequence[Submap], c2w: Tensor, reach: float) -> Submap | None:
    """The sub-map for cameras (V, 4, 4): this one, another, or None where a new one has to open.

    Args:
        reach: units from its frame up to which a sub-map is good for something.
    """
    distance = now.distance(c2w)
    inside = min(
        ((other.distance(c2w), place) for place, other in enumerate(others)),
        default=(float("inf"), -1),
    )
    well_inside = inside[0] <= _INSIDE * reach
    if well_inside and (distance > reach or inside[0] < _NEARER * distance):
        return others[inside[1]]
    return now if distance <= reach else None


def bounded(submaps: Sequence[Submap], *, most: int, records: int) -> tuple[Submap, ...]:
    """The `most` sub-maps that were left last, with at most so many records all together.

    Args:
        submaps: in the order in which they were left; the records of the last ones stay.
    """
    kept = []
    for submap in reversed(submaps[max(len(submaps) - most, 0) :]):
        stay = submap.records[max(len(submap.records) - records, 0) :]
        records -= len(stay)
        kept.append(submap if len(stay) == len(submap.records) else replace(submap, records=stay))
    return tuple(reversed(kept))


def noted(anchor: Anchor | None, poses: Mapping[int, Float64]) -> Anchor | None:
    """An anchor with its corrected pose, where there is one."""
    if anchor is None or anchor.key not in poses:
        return anchor
    return Anchor(anchor.key, torch.from_numpy(poses[anchor.key].copy()))


def carried(submap: Submap, poses: Mapping[int, Float64], scales: Mapping[int, float]) -> Submap:
    """A sub-map that was left, after corrected poses.

    Frame and unit follow the anchor, and what the memory holds follows them. Key frames that moved
    otherwise are to be rewritten, which happens once the sub-map is taken up again.

    Args:
        poses: camera to world (4, 4), rigid, by key.
        scales: by key, how much larger the world around that view became.
    """
    belongs = {record.key: poses.get(record.key, _place(record)) for record in submap.records}
    growth = scales.get(submap.anchor.key, 1.0) if submap.anchor.key in poses else 1.0
    # By how much more than its unit the world around each grew.
    own = {record.key: scales.get(record.key, 1.0) / growth for record in submap.records}
    anchor = noted(submap.anchor, poses)
    assert anchor is not None
    if anchor is not submap.anchor:
        submap = _following(submap, anchor, growth)
    records = aimed(submap.records, belongs, own, float(submap.frame.scale))
    return replace(submap, records=records)


def _place(record: KeyRecord) -> Float64:
    """Where a record belongs by the corrections so far."""
    return (record.c2w if record.pending is None else record.pending.c2w).numpy()


def _following(submap: Submap, anchor: Anchor, growth: float) -> Submap:
    """Frame, unit and records moved by what takes the old anchor to the new one."""
    before, after = submap.anchor.c2w, anchor.c2w
    turn = after[:3, :3] @ before[:3, :3].mT

    def follow(c2w: Tensor) -> Tensor:
        moved = c2w.clone()
        moved[:3, :3] = turn @ c2w[:3, :3]
        moved[:3, 3] = growth * (turn @ (c2w[:3, 3] - before[:3, 3])) + after[:3, 3]
        return moved

    frame = SubmapFrame(follow(submap.frame.world_from_submap), submap.frame.scale * growth)
    records = tuple(replace(record, c2w=follow(record.c2w)) for record in submap.records)
    return Submap(anchor, frame, submap.memory, records)

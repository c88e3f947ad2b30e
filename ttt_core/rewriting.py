"""Bringing what key frames wrote to where corrected poses say that it belongs, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ttt_core.key_records import KeyRecord, PendingMove
from ttt_core.memory import MemoryState
from ttt_core.network import CompactNetwork, RecordEdit
from ttt_core.submap import SubmapFrame

_SAME_ANGLE = math.radians(0.05)
_SAME_PLACE = 1e-3  # of the sub-map's unit
_SAME_LOG_SCALE = 1e-9  # what rounding leaves of a factor and its inverse


def aimed(
    records: Sequence[KeyRecord],
    poses: Mapping[int, NDArray[np.float64]],
    scales: Mapping[int, float],
    unit: float,
) -> tuple[KeyRecord, ...]:
    """`records` with what is to become of them; nothing is rewritten yet.

    A pose closer than 0.05 degrees and 0.1 % of `unit` to the one that was written with, at the
    same scale, is not worth it: what was written stays, and later corrections are measured from it.

    Args:
        poses: camera to world (4, 4) by key.
        scales: by key, how much larger the world around that view became since the last call.
        unit: world length of one sub-map unit.
    """
    return tuple(
        _aimed(record, poses[record.key], scales.get(record.key, 1.0), unit)
        if record.key in poses
        else record
        for record in records
    )


def _aimed(record: KeyRecord, c2w: NDArray[np.float64], scale: float, unit: float) -> KeyRecord:
    log_scale = math.log(scale)
    if record.pending is not None:
        log_scale += record.pending.log_scale
    written = record.c2w.numpy()
    # the chord of the rotation: the trace has no digits left for small angles
    chord = float(np.linalg.norm(c2w[:3, :3] - written[:3, :3])) / math.sqrt(8)
    near = (
        2 * math.asin(min(chord, 1.0)) < _SAME_ANGLE
        and float(np.linalg.norm(c2w[:3, 3] - written[:3, 3])) < _SAME_PLACE * unit
        and abs(log_scale) < _SAME_LOG_SCALE
    )
    pending = None if near else PendingMove(torch.from_numpy(c2w.copy()), log_scale)
    return replace(record, pending=pending)


def rewritten(
    network: CompactNetwork,
    memory: MemoryState,
    records: Sequence[KeyRecord],
    frame: SubmapFrame,
    limit: int,
) -> tuple[MemoryState, tuple[KeyRecord, ...]]:
    """Memory and records after at most `limit` records that wait were rewritten, newest first."""
    waiting = [i for i in reversed(range(len(records))) if records[i].pending is not None][:limit]
    if not waiting:
        return memory, tuple(records)
    device = network.log_sharpness.device
    memory = memory.map(lambda t: t.to(device))
    after = list(records)
    for index in waiting:
        after[index] = records[index].moved()
    now = int(memory["written"].max())

    def edits() -> Iterator[RecordEdit]:
        for index in waiting:
            for key_record, sign in ((records[index], -1), (after[index], 1)):
                yield RecordEdit(
                    key_record.record.map(lambda t: t.to(device).float()),
                    key_record.fxfycxcy.to(device)[None, None],
                    frame.localize(key_record.c2w).to(device).float()[None, None],
                    age=now - 1 - key_record.written,
                    sign=sign,
                )

    return network.amend(memory, edits()), tuple(after)

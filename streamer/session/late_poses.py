"""A correction as the ingest forwards it, or as the journal has it, put to an engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamer.frames import Frame
from streamer.protocol.internal import PosesForward
from streamer.session.engine import Engine, PosesOutcome


def announce_forwarded(
    engine: Engine, poses: PosesForward, waiting: Sequence[Frame], next_seq: int
) -> PosesOutcome:
    """Tell readers, and note for what is to come; the engine is to follow (`follow_poses`).

    Args:
        waiting: frames that were taken and are not processed yet, in order; those of a batch
            under way are not among them.
        next_seq: the last taken seq + 1.

    Raises:
        StaleRevision: nothing was changed.
    """
    stamps = [(frame.stamp_ns, frame.seq) for frame in waiting]
    stamps += [(stamp, seq) for seq, stamp in poses.waiting]
    first = waiting[0].seq if waiting else next_seq
    corrected = np.reshape([pose for _, pose in poses.entries], (-1, 4, 4))
    return engine.announce_poses(
        poses.revision,
        dict(zip([name for name, _ in poses.entries], corrected)),
        by=poses.by,
        upto=_last_old_seq(engine, poses, stamps),
        coming=_coming(poses, stamps, first),
    )


def _last_old_seq(engine: Engine, poses: PosesForward, stamps: list[tuple[int, int]]) -> int:
    """The last seq that came in the old frame: `upto`, or whatever was received until now."""
    if poses.upto is None:
        return poses.received_upto
    if poses.by == "seq":
        return poses.upto
    upto = engine.trajectory.last_seq_until(poses.upto)
    return max([upto, *(seq for stamp, seq in stamps if stamp <= poses.upto)])


def _coming(poses: PosesForward, stamps: list[tuple[int, int]], first: int) -> dict[int, int]:
    """key → seq of the corrected frames that were received and are not processed yet."""
    if poses.by == "stamp":
        named = {key for key, _ in poses.entries}
        # Of several frames with one stamp the first is meant, so it is written last.
        return {stamp: seq for stamp, seq in sorted(stamps, reverse=True) if stamp in named}
    return {seq: seq for seq, _ in poses.entries if first <= seq <= poses.received_upto}

"""A recorded session once more: the same frames in the same batches, corrections between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.ingest.catchup import Section, Step, carry_out, plan
from streamer.journal import Recorded, read_file, read_journal
from streamer.session.corrections import StaleRevision
from streamer.session.engine import Engine
from streamer.session.late_poses import announce_forwarded

_EVERYTHING = 2**53


class ReplayError(ValueError):
    """Nothing that can be replayed; the message says what is needed."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it; `refused` corrections were refused the first time too."""

    frames: int
    corrections: int
    refused: int


class Recording:
    """What was recorded, in the order in which it happened.

    Args:
        source: a session's folder, or one file of its journal.
        batch: frames that are taken together where the journal does not say.

    Raises:
        JournalError: it cannot be read.
        ReplayError: it holds no frame.
    """

    def __init__(self, source: Path, batch: int) -> None:
        self._source = source
        section = Section(
            folder=source,
            epoch=0,
            next_seq=0,
            upto=_EVERYTHING,
            pose_revision=-1,
            dropped=frozenset(),
            durable_end=None,
            batch=batch,
        )
        self._plan = plan(self._entries(parts=False), section)
        self.frames = len(self._plan.wanted)
        self.begins = self._plan.begins or 0
        """The first frame that may be there: those before it are in files that are gone, or were
        not given."""
        if self.frames == 0:
            raise ReplayError(f"{source}: holds no frame: give another session or file")

    def steps(self, long_side: int) -> Iterator[Step]:
        """Batches and corrections, decoded as they are asked for."""
        return carry_out(self._plan, self._entries(parts=True), long_side)

    def _entries(self, *, parts: bool) -> Iterator[Recorded]:
        if self._source.is_dir():
            return read_journal(self._source, parts=parts)
        return read_file(self._source)


def replay(
    engine: Engine,
    recording: Recording,
    *,
    long_side: int,
    rate: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Feed a recording to an engine.

    Args:
        rate: frames a second, refined in between where the engine does so by time; 0: one after
            the other, without waiting.
        progress: called with the frames done.

    Raises:
        JournalError: the recording cannot be read.
    """
    began = time.monotonic()
    frames = corrections = refused = next_seq = 0
    for step in recording.steps(long_side):
        if step.poses is not None:
            corrections += 1
            try:
                announce_forwarded(engine, step.poses, [], next_seq)
            except StaleRevision:
                refused += 1
            engine.follow_poses()
            continue
        if not step.frames:
            continue
        frames += len(step.frames)
        while rate > 0.0 and time.monotonic() < began + frames / rate:
            if engine.wants_refinement:
                engine.refine()
            else:
                time.sleep(min(0.02, max(0.0, began + frames / rate - time.monotonic())))
        next_seq = step.frames[-1].seq + 1
        engine.process(step.frames)
        if progress is not None:
            progress(frames)
    engine.publish()
    return Replayed(frames, corrections, refused)

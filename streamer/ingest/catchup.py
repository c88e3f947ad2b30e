"""What a session has lost, from its journal: batch by batch as its predecessor was given it.

A thread reads, decodes and stays a little ahead; the ingest's loop takes what is ready.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from streamer.frames import Frame
from streamer.ingest.recorded import correction, decode_recorded
from streamer.journal import (
    BatchSent,
    Begin,
    Corrected,
    Dropped,
    FrameEntry,
    JournalError,
    Overtook,
    Recorded,
    read_journal,
)
from streamer.protocol import ProtocolError
from streamer.protocol.internal import PosesForward

logger = logging.getLogger(__name__)

_AHEAD = 16
"""Frames that are decoded before they are wanted."""


@dataclass(frozen=True, slots=True)
class Section:
    """The part of a journal that a session lacks.

    Args:
        folder: the session's.
        next_seq: what the session has up to, this one excluded.
        upto: first seq that the ingest has itself.
        pose_revision: last correction that the session has.
        dropped: frames that were discarded since the journal said so last.
        durable_end: as `Journal.durable_end`.
        batch: frames that it takes at a time where no batches are recorded.
    """

    folder: Path
    epoch: int
    next_seq: int
    upto: int
    pose_revision: int
    dropped: frozenset[int]
    durable_end: tuple[Path, int] | None
    batch: int


@dataclass(slots=True)
class Step:
    """One message to the session: frames, or a correction."""

    frames: list[Frame] = field(default_factory=list)
    poses: PosesForward | None = None
    recorded: bool = True
    """Whether the journal knows that these frames were sent together."""
    whole: bool = True
    """Whether no frames that are still to come belong to the same batch."""


@dataclass(slots=True)
class Plan:
    """Seqs of each batch, and corrections, in order."""

    steps: deque[list[int] | Corrected] = field(default_factory=deque)
    stamps: dict[int, int] = field(default_factory=dict)
    begins: int | None = None
    """First frame that the entries may hold; those before it are gone."""
    loose: set[int] = field(default_factory=set)
    """Accepted frames that were never sent: they come last."""
    batch: int = 1
    """Of them so many are sent together."""

    @property
    def wanted(self) -> set[int]:
        """All frames of it."""
        return {seq for step in self.steps if not isinstance(step, Corrected) for seq in step}

    def put_before(self, which: Overtook) -> None:
        """A correction comes before a batch, which has waited for it with all that came behind."""
        overtaken: list[int] = []
        first = None
        for place, step in enumerate(self.steps):
            if not isinstance(step, Corrected):
                if first is None and step[-1] >= which.before:
                    first = place
                if first is not None:
                    overtaken += step
            elif first is not None and (step.revision, step.client) == (
                which.revision,
                which.client,
            ):
                waited = [(seq, self.stamps[seq]) for seq in overtaken]
                del self.steps[place]
                moved = msgspec.structs.replace(step, waiting=waited + step.waiting)
                self.steps.insert(first, moved)
                return


def plan(entries: Iterable[Recorded], section: Section) -> Plan:
    """What the session has to be told.

    Args:
        entries: of the journal, from the section's beginning or earlier.

    Raises:
        JournalError: the journal cannot be read.
    """
    made = Plan(batch=section.batch)
    loose: dict[int, None] = {}
    for recorded in entries:
        match recorded.entry:
            case Begin(next_seq=next_seq):
                made.begins = next_seq if made.begins is None else made.begins
            case FrameEntry(header=header):
                in_part = section.next_seq <= header.seq < section.upto
                if in_part and header.seq not in section.dropped:
                    loose[header.seq] = None
                    made.stamps[header.seq] = header.stamp_ns
            case Dropped(seqs=seqs):
                for seq in seqs:
                    loose.pop(seq, None)
            case BatchSent(seqs=seqs):
                batch = [seq for seq in seqs if seq in loose]
                for seq in batch:
                    del loose[seq]
                if batch:
                    made.steps.append(batch)
            case Corrected(revision=revision) as correction:
                if revision > section.pose_revision:
                    made.steps.append(correction)
            case Overtook() as which:
                made.put_before(which)
    made.loose = set(loose)
    last = list(loose)
    for start in range(0, len(last), section.batch):
        made.steps.append(last[start : start + section.batch])
    return made


def carry_out(made: Plan, source: Iterator[Recorded], long_side: int) -> Iterator[Step]:
    """The steps of a plan, one after the other, decoded as they are asked for.

    Args:
        source: the same entries once more, with their parts.
    """
    wanted = made.wanted
    frames: dict[int, Frame | None] = {}
    for step in made.steps:
        if isinstance(step, Corrected):
            yield Step(poses=correction(step))
            continue
        while step[-1] not in frames:
            recorded = next(source, None)
            if recorded is None:
                break
            if isinstance(recorded.entry, FrameEntry) and recorded.entry.header.seq in wanted:
                frames[recorded.entry.header.seq] = _decode(recorded, long_side)
        batch = [frame for seq in step if (frame := frames.pop(seq, None)) is not None]
        recorded_so = step[0] not in made.loose
        yield Step(frames=batch, recorded=recorded_so, whole=recorded_so or len(step) == made.batch)


def _decode(recorded: Recorded, long_side: int) -> Frame | None:
    try:
        return decode_recorded(recorded, long_side)
    except ProtocolError as error:
        logger.error("a journalled frame cannot be decoded any more: %s", error)
        return None


def _entries(section: Section, *, parts: bool) -> Iterator[Recorded]:
    return read_journal(
        section.folder,
        section.epoch,
        from_seq=section.next_seq,
        durable_end=section.durable_end,
        parts=parts,
    )


class CatchUp:
    """Reads a section in the background.

    Args:
        wake: called from the thread when there is something to take.
    """

    def __init__(self, section: Section, long_side: int, wake: Callable[[], None]) -> None:
        self.section = section
        self.remaining = section.upto - section.next_seq
        """Frames that are still to be taken, at most."""
        self._long_side = long_side
        self._wake = wake
        self._changed = threading.Condition()
        self._ready: deque[Step] = deque()
        self._corrections: int | None = None
        self._stamps: dict[int, int] = {}
        self._ended = False
        self._cancelled = False
        self._thread = threading.Thread(target=self._run, name="catch-up", daemon=True)
        self._thread.start()

    def peek(self) -> Step | None:
        """The next step, if it is ready."""
        with self._changed:
            return self._ready[0] if self._ready else None

    def pop(self) -> None:
        """The step of `peek` was sent."""
        with self._changed:
            step = self._ready.popleft()
            self.remaining -= len(step.frames)
            for frame in step.frames:
                self._stamps.pop(frame.seq, None)
            if step.poses is not None and self._corrections is not None:
                self._corrections -= 1
            self._changed.notify()

    def waiting(self) -> list[tuple[int, int]] | None:
        """(seq, stamp) of the frames that are still to be taken; None while corrections are, or it
        is not known yet: newer ones must not overtake them."""
        with self._changed:
            return list(self._stamps.items()) if self._corrections == 0 else None

    @property
    def ended(self) -> bool:
        """Whether everything was taken."""
        with self._changed:
            return self._ended and not self._ready

    def cancel(self) -> None:
        """Stop; returns when the thread has ended."""
        with self._changed:
            self._cancelled = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._read()
        except JournalError as error:
            logger.error("a session goes on without what its journal holds: %s", error)
        except Exception:
            logger.exception("reading %s", self.section.folder)
        with self._changed:
            self._ended = True
        self._wake()

    def _read(self) -> None:
        section = self.section
        made = plan(_entries(section, parts=False), section)
        if (made.begins or 0) > section.next_seq:
            logger.warning(
                "%s: frames %d to %d are gone from the journal: the map is made of the rest",
                section.folder, section.next_seq, (made.begins or 0) - 1,
            )  # fmt: skip
        with self._changed:
            wanted = sorted(made.wanted)
            self.remaining = len(wanted)
            self._stamps = {seq: made.stamps[seq] for seq in wanted}
            self._corrections = sum(isinstance(step, Corrected) for step in made.steps)
        for step in carry_out(made, _entries(section, parts=True), self._long_side):
            if not self._offer(step):
                return

    def _offer(self, step: Step) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._cancelled or sum(len(s.frames) for s in self._ready) < _AHEAD
            )
            if self._cancelled:
                return False
            self._ready.append(step)
        self._wake()
        return True

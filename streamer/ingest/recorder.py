"""A session's line to its journal: what is told to it, and whether it can be written."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamer.ingest.decoder import Job
from streamer.ingest.stream import Pending, Stream, Superseded
from streamer.journal import (
    AnyEntry,
    Begin,
    Committer,
    Dropped,
    FrameEntry,
    History,
    Item,
    Journal,
    JournalError,
    JournalQueue,
    Opened,
    Rejected,
    Report,
    segments,
)
from streamer.journal.entries import FORMAT
from streamer.journal.journal import program_version
from streamer.protocol import ProtocolError
from streamer.protocol.internal import Counts
from streamer.protocol.messages import CameraHeader, Hello
from streamer.session.folder import SessionFolderError, begin_epoch, last_epoch, session_folder

logger = logging.getLogger(__name__)

_REMEMBERED = 256
"""Drops that were queued last; the journal is never so far behind."""


@dataclass(frozen=True, slots=True)
class Journals:
    """What all recorders of an ingest share."""

    committer: Committer
    session_dir: Path
    segment_bytes: int


class Recorder:
    """The journal of one session, if it has one already."""

    def __init__(self, journals: Journals, name: str) -> None:
        self._journals = journals
        self._name = name
        self.folder = session_folder(journals.session_dir, name)
        self.queue: JournalQueue | None = None
        self.trouble: str | None = None
        """Why nothing can be written at the moment."""
        self.bypassed = False
        """Whether the session goes on without its journal until it can be written again."""
        self.durable = 0
        """Number of the last entry that is on the disk."""
        self._drops: deque[tuple[int, list[int]]] = deque(maxlen=_REMEMBERED)
        self._reopening = 0
        """Number of the entry that tells whether the journal can be written again."""

    def restore(self) -> History | None:
        """Take up the journal that is on the disk; None where it holds nothing.

        Raises:
            JournalError, SessionFolderError: there is one that cannot be used.
        """
        epoch = last_epoch(self.folder)
        if not segments(self.folder, epoch):
            return None
        journal = self._open(epoch)
        if journal.history.next_seq == 0:
            journal.close()
            return None
        self.queue = self._journals.committer.add(journal)
        return journal.history

    def begin(self, hello: Hello | None, stream: Stream) -> bool:
        """A journal for a session that has none yet; False where that cannot be."""
        if self.queue is not None:
            return True
        try:
            journal = self._open(begin_epoch(self.folder))
        except (JournalError, SessionFolderError) as error:
            self.fail(str(error))
            return False
        self.queue = self._journals.committer.add(journal)
        self.trouble = None
        if stream.settled >= 0:
            self.put(self._standing(stream))
        if hello is not None:
            self.put(Opened(hello=hello))
        return True

    @property
    def epoch(self) -> int:
        """Of the journal."""
        assert self.queue is not None
        return self.queue.journal.history.epoch

    def put(self, entry: AnyEntry, *, urgent: bool = False) -> int:
        """Queue an entry without parts; its number, 0 where there is no journal to put it into.

        Args:
            urgent: as in `Committer.put`.
        """
        if self.queue is None or self.bypassed:
            return 0
        return self._journals.committer.put(self.queue, Item(entry), urgent=urgent)

    def put_dropped(self, seqs: list[int]) -> None:
        """Queue frames that the live policy discarded."""
        self._drops.append((self.put(Dropped(seqs=seqs)), seqs))

    @property
    def dropped_lately(self) -> frozenset[int]:
        """Of what was dropped, what a reader of the journal may not find there yet."""
        while self._drops and self._drops[0][0] <= self.durable:
            self._drops.popleft()
        return frozenset(seq for _, seqs in self._drops for seq in seqs)

    def put_verdicts(self, entries: Iterable[Pending]) -> None:
        """Queue frames that were accepted, rejected, or dropped before they were decoded."""
        assert self.queue is not None
        for entry in entries:
            if isinstance(entry.verdict, ProtocolError):
                item = Item(Rejected(seq=entry.seq, code=entry.verdict.code))
            elif isinstance(entry.verdict, Superseded):
                item = Item(Dropped(seqs=[entry.seq]))
            else:
                assert entry.job is not None, "accepted frames have been decoded"
                item = _frame(entry.job)
            entry.number = self._journals.committer.put(self.queue, item)

    def fail(self, reason: str) -> None:
        """Nothing can be written; said once."""
        if self.trouble is None:
            logger.error("session %s is not durable: %s", self._name, reason)
        self.trouble = reason

    def bypass(self, stream: Stream) -> None:
        """Go on without: instead of what waits, ask whether writing works again."""
        self.bypassed = True
        stream.stop_recording()
        if self.queue is not None:
            items = [Item(self._standing(stream))]
            self._reopening = self._journals.committer.replace(self.queue, items)

    def insist(self, stream: Stream) -> None:
        """Go on with the journal, which begins with where the session stands."""
        self.bypassed = False
        self.put(self._standing(stream))
        stream.recording = True

    def written(self, report: Report, stream: Stream) -> None:
        """Something was: whatever trouble there was is over."""
        if self.bypassed:
            if report.durable < self._reopening:
                return
            self.insist(stream)
        if self.trouble is not None:
            logger.info("session %s is durable again", self._name)
        self.trouble = None
        self.durable = report.durable
        stream.stalled = False
        stream.recorded(report.durable)

    def begin_epoch(self, epoch: int) -> None:
        """The session was reset."""
        if self.queue is not None:
            self._journals.committer.begin_epoch(self.queue, epoch)

    def close(self) -> None:
        """Let go of the folder."""
        if self.queue is not None:
            self._journals.committer.remove(self.queue)
            self.queue = None

    def _open(self, epoch: int) -> Journal:
        size = self._journals.segment_bytes
        return Journal.open(self.folder, self._name, epoch, segment_bytes=size)

    def _standing(self, stream: Stream) -> Begin:
        assert self.queue is not None
        counts = stream.counts
        return Begin(
            format=FORMAT,
            version=program_version(),
            session=self._name,
            epoch=self.epoch,
            next_seq=stream.settled + 1,
            counts=Counts(
                frames_in=counts.frames_in, dropped=counts.dropped, rejected=counts.rejected
            ),
        )


def _frame(job: Job) -> Item:
    camera = msgspec.convert(job.camera.to_header(), CameraHeader)
    entry = FrameEntry(header=job.header, camera=camera, convention=job.convention)
    return Item(entry, job.parts, job.camera, job.c2w)

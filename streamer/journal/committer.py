"""Group commit: one thread writes the journals of all sessions, and says what is durable.

What is queued while a group is on its way to the disk makes the next group. Groups begin at least
`gather_s` apart, so that a stream costs some tens of fsyncs a second, not one a frame; a frame
that comes alone does not wait, nor does an entry that is urgent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamer.journal.errors import JournalError
from streamer.journal.journal import Item, Journal

logger = logging.getLogger(__name__)

GATHER_S = 0.03
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a queue: everything up to `durable` (a number that `put` gave) is on the
    disk, or nothing more could be written."""

    queue: JournalQueue
    durable: int
    error: JournalError | None = None


@dataclass(slots=True, eq=False)
class JournalQueue:
    """The entries of one journal on their way to the disk."""

    journal: Journal
    items: deque[Item] = field(default_factory=deque)
    written: int = 0
    """Entries that left the queue so far."""
    retry_at: float = 0.0
    epoch_wanted: int = 0
    """Larger than the journal's: begin anew before the next entry."""
    leaving: bool = False


class Committer:
    """A thread, and a file descriptor that becomes readable when it has something to report."""

    def __init__(self, gather_s: float = GATHER_S, retry_s: float = RETRY_S) -> None:
        self._gather_s = gather_s
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._queues: list[JournalQueue] = []
        self._reports: deque[Report] = deque()
        self._closing = self._hurry = False
        self.wake_fd, self._wake_write = os.pipe()
        os.set_blocking(self.wake_fd, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def add(self, journal: Journal) -> JournalQueue:
        """Write this journal too."""
        queue = JournalQueue(journal)
        with self._changed:
            self._queues.append(queue)
        return queue

    def put(self, queue: JournalQueue, item: Item, *, urgent: bool = False) -> int:
        """Queue an entry; returns its number, which a report will name.

        Args:
            urgent: its group begins as soon as the one under way is on the disk.
        """
        with self._changed:
            queue.items.append(item)
            self._hurry |= urgent
            self._changed.notify_all()
            return queue.written + len(queue.items)

    def replace(self, queue: JournalQueue, items: Sequence[Item]) -> int:
        """Forget what waits in a queue that cannot be written, and queue these; the number of
        the last. What is being written at this moment may still be reported."""
        with self._changed:
            queue.written += len(queue.items)
            queue.items = deque(items)
            self._changed.notify_all()
            return queue.written + len(items)

    def begin_epoch(self, queue: JournalQueue, epoch: int) -> None:
        """The session was reset: what waits is void, the files go, and entries follow of a new
        epoch."""
        with self._changed:
            queue.written += len(queue.items)
            queue.items = deque()
            queue.epoch_wanted = epoch
            self._changed.notify_all()

    def remove(self, queue: JournalQueue) -> None:
        """Write what waits and close the journal; returns when that is done."""
        with self._changed:
            queue.leaving = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: queue not in self._queues)

    def collect(self) -> list[Report]:
        """What happened since the last call."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_fd, 4096):
                pass
        reports = []
        while self._reports:
            reports.append(self._reports.popleft())
        return reports

    def close(self) -> None:
        """Write what can be written, close all files."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        for queue in self._queues:
            queue.journal.close()
        os.close(self.wake_fd)
        os.close(self._wake_write)

    def _run(self) -> None:
        began = 0.0
        while True:
            with self._changed:
                while not self._closing and not self._due(time.monotonic()):
                    self._changed.wait(self._until_due(time.monotonic()))
                closing = self._closing
                if not closing:
                    # Entries of other senders make the same group.
                    self._changed.wait_for(
                        lambda: self._closing or self._hurry,
                        max(0.0, began + self._gather_s - time.monotonic()),
                    )
                self._hurry = False
                began = time.monotonic()
                due = self._due(began) if not closing else list(self._queues)
            for queue in due:
                self._write(queue)
            if closing:
                return

    def _write(self, queue: JournalQueue) -> None:
        with self._changed:
            items = list(queue.items)
            number, epoch = queue.written, queue.epoch_wanted
        if epoch > queue.journal.history.epoch:
            queue.journal.begin_epoch(epoch)
        error: JournalError | None = None
        try:
            if items:
                queue.journal.write(items)
        except JournalError as trouble:
            error = trouble
        except Exception as trouble:
            logger.exception("the journal of %s", queue.journal.folder)
            error = JournalError(f"{queue.journal.folder}: {trouble}: see the daemon's log")
        with self._changed:
            if error is not None:
                queue.retry_at = time.monotonic() + self._retry_s
            elif queue.written == number:
                for _ in items:
                    queue.items.popleft()
                queue.written += len(items)
            number += len(items) if error is None else 0
            if queue.leaving:
                queue.journal.close()
                self._queues.remove(queue)
                self._changed.notify_all()
        self._reports.append(Report(queue, number, error))
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def _due(self, now: float) -> list[JournalQueue]:
        return [
            queue
            for queue in self._queues
            if (queue.items and now >= queue.retry_at)
            or queue.leaving
            or queue.epoch_wanted > queue.journal.history.epoch
        ]

    def _until_due(self, now: float) -> float | None:
        waits = [queue.retry_at - now for queue in self._queues if queue.items]
        return max(0.0, min(waits)) if waits else None

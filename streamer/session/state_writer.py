"""Saving beside the session's loop: a thread writes what the loop copied."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.keep import Keep
from streamer.session.engine_state import EngineState
from streamer.session.folder import SessionFolderError
from streamer.session.state_files import Cursor
from streamer.session.storage import save_state, shorten_journal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """A state was written, or could not be (`error`); `order` asked for it."""

    order: int
    error: SessionFolderError | None


@dataclass(slots=True)
class _Job:
    state: EngineState
    cursor: Cursor
    orders: tuple[int, ...]


class StateWriter:
    """Writes one state after the other; of those that wait only the newest, for all who asked.

    Args:
        folder: the session's.
        keep: of its journal, which is shortened when a state has been written.
    """

    def __init__(self, folder: Path, keep: Keep | None = None) -> None:
        self._folder = folder
        self._keep = keep or Keep()
        self._changed = threading.Condition()
        self._next: _Job | None = None
        self._writing = False
        self._closing = False
        self._saved: deque[Saved] = deque()
        self._troubled = False
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a state is being written, or waits."""
        with self._changed:
            return self._writing or self._next is not None

    def put(self, state: EngineState, cursor: Cursor, orders: Sequence[int] = ()) -> None:
        """Write this state.

        Args:
            orders: `collect` will tell when they are carried out.
        """
        with self._changed:
            earlier = self._next.orders if self._next is not None else ()
            self._next = _Job(state, cursor, (*earlier, *orders))
            self._changed.notify_all()

    def collect(self) -> list[Saved]:
        """The orders that were carried out since the last call."""
        saved = []
        while self._saved:
            saved.append(self._saved.popleft())
        return saved

    def close(self) -> None:
        """Returns when everything is written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closing)
                job, self._next = self._next, None
                if job is None:
                    return
                self._writing = True
            error = self._write(job)
            self._saved.extend(Saved(order, error) for order in job.orders)
            # A state is as large as what it is a copy of, and the next one is far.
            job = None
            with self._changed:
                self._writing = False

    def _write(self, job: _Job) -> SessionFolderError | None:
        """What went wrong; logged unless it went wrong before, too."""
        error: SessionFolderError | None = None
        try:
            save_state(job.state, self._folder, job.cursor)
            shorten_journal(self._folder, job.cursor, self._keep)
        except SessionFolderError as trouble:
            error = trouble
        except Exception as trouble:
            log.exception("saving a state in %s", self._folder)
            error = SessionFolderError(f"{self._folder}: {trouble}: see the daemon's log")
        if error is not None and not self._troubled:
            log.error("%s", error)
        self._troubled = error is not None
        return error

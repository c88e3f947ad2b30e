"""Sessions come into being: new ones, those of an ingest that was killed, those of a daemon
before this one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from streamer.ingest.notes import Note, read_notes
from streamer.ingest.recorder import Journals, Recorder
from streamer.ingest.sessions import Process, Session
from streamer.ingest.stream import StreamLimits
from streamer.journal import JournalBusy, JournalError
from streamer.session.folder import SessionFolderError, read_session_file

logger = logging.getLogger(__name__)

_DYING_S = 4.0


@dataclass(frozen=True, slots=True)
class SessionMaker:
    """What every session of an ingest is made with.

    Args:
        notes: where this daemon's notes are kept.
        journals: None where nothing is journalled.
    """

    notes: Path
    limits: StreamLimits
    journals: Journals | None

    def make(self, name: str, note: Note | None, now: float) -> Session:
        """A session as it was left, or a new one.

        Raises:
            JournalError, SessionFolderError: its folder cannot be used.
        """
        recorder = Recorder(self.journals, name) if self.journals is not None else None
        history = recorder.restore() if recorder is not None else None
        session = Session(name, self.limits, self.notes, recorder)
        session.restore(note, history, now)
        return session


def restore_sessions(maker: SessionMaker, now: float) -> dict[str, Session]:
    """The sessions that an ingest of this daemon knew, and those that ran when a daemon with the
    same session folder was killed."""
    sessions = {}
    notes = read_notes(maker.notes)
    for name, note in notes.items():
        try:
            session = maker.make(name, note, now)
        except (JournalError, SessionFolderError) as error:
            logger.error("session %s is left alone: %s", name, error)
            continue
        if session.stream.accepted:
            # It has a process, which will say so itself.
            session.link.process = Process.LOST
        sessions[name] = session
    if maker.journals is not None:
        for name in _running(maker.journals.session_dir):
            if name not in notes:
                try:
                    session = _make_patiently(maker, name, now)
                except JournalBusy:
                    continue
                except (JournalError, SessionFolderError) as error:
                    logger.error("session %s is left alone: %s", name, error)
                    continue
                if session.holds_frames:
                    logger.info("session %s ran when its daemon was killed: it goes on", name)
                    sessions[name] = session
                else:
                    session.leave()
    return sessions


def _make_patiently(maker: SessionMaker, name: str, now: float) -> Session:
    """The processes of a daemon that was killed take a moment to follow it."""
    until = time.monotonic() + _DYING_S
    while True:
        try:
            return maker.make(name, None, now)
        except JournalBusy:
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)


def _running(session_dir: Path) -> list[str]:
    """Names of the sessions whose last process was not told to end."""
    names = []
    for path in sorted(session_dir.glob("*/session.json")):
        try:
            if read_session_file(path.parent).running:
                names.append(path.parent.name)
        except SessionFolderError:
            continue
    return names

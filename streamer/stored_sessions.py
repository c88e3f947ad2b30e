"""Sessions as they lie on the disk, whether a daemon runs them or not."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamer.journal import History, JournalError, first_seq, read_journal, segments
from streamer.session.folder import (
    SESSION_FILE,
    SessionFolderError,
    read_session_file,
    session_folder,
    states,
)
from streamer.suggest import did_you_mean

_NEWEST = 2**53


class NoSuchSession(ValueError):
    """A name that no session in the folder has."""


class SessionRuns(ValueError):
    """A session that a daemon works on: what was asked for would take it away from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """What is known of a session without loading it.

    Attributes:
        epoch: grows with every RESET; lives: processes that ran it in this epoch.
        runs: a daemon holds it now. crashed: its last process was not told to end.
        frames, dropped, rejected: as the journal counts them, None without a journal.
        journal_bytes, journal_files: of the present epoch.
        journal_begins: first frame that it still holds (`journal.keep`).
        client: who sent last.
        states: saved states, newest first.
        total_bytes: of all files.
        problem: what is wrong with its files, or None.
    """

    name: str
    folder: Path
    epoch: int = 0
    lives: int = 0
    runs: bool = False
    crashed: bool = False
    frames: int | None = None
    dropped: int | None = None
    rejected: int | None = None
    journal_files: int = 0
    journal_bytes: int = 0
    journal_begins: int = 0
    client: str | None = None
    states: tuple[Path, ...] = ()
    total_bytes: int = 0
    problem: str | None = None


def stored_sessions(session_dir: Path) -> list[StoredSession]:
    """All sessions of a folder, by name."""
    return [_look(path.parent) for path in sorted(session_dir.glob(f"*/{SESSION_FILE}"))]


def stored_session(session_dir: Path, name: str) -> StoredSession:
    """One session by its name.

    Raises:
        NoSuchSession: there is none; the message names what there is.
        SessionFolderError: no session can have this name.
    """
    folder = session_folder(session_dir, name)
    if not (folder / SESSION_FILE).is_file():
        names = [path.parent.name for path in sorted(session_dir.glob(f"*/{SESSION_FILE}"))]
        hint = did_you_mean(name, names) if names else "there is none"
        raise NoSuchSession(f"{session_dir}: there is no session {name!r}: {hint}")
    return _look(folder)


def can_come_back(session_dir: Path, name: str) -> bool:
    """Whether a session of this name lies there that a daemon could go on with; any text is let
    ask."""
    try:
        folder = session_folder(session_dir, name)
        return bool(segments(folder, read_session_file(folder).epoch))
    except SessionFolderError:
        return False


def delete_session(session_dir: Path, name: str) -> StoredSession:
    """Remove a session's folder with all that is in it; what it was.

    Raises:
        NoSuchSession, SessionFolderError: as `stored_session`.
        SessionRuns: a daemon holds it, or may.
        OSError: files cannot be removed.
    """
    session = stored_session(session_dir, name)
    if session.crashed and not session.journal_files:
        # Without a journal nobody holds the folder.
        raise SessionRuns(
            f"{name} was not told to end and has no journal, so a daemon may be running it: see "
            f"that none does, then remove {session.folder}"
        )
    with _held(session):
        # First what makes it a session: half a folder must not look like a whole one.
        (session.folder / SESSION_FILE).unlink()
        shutil.rmtree(session.folder)
    return session


@contextmanager
def _held(session: StoredSession) -> Iterator[None]:
    """Keep daemons away from a session.

    Raises:
        SessionRuns: one holds it.
    """
    descriptor = os.open(session.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _lock(descriptor):
            raise SessionRuns(
                f"{session.name} runs in a daemon: end it there first (splatstream sessions close "
                f"{session.name} --server ADDRESS)"
            )
        yield
    finally:
        os.close(descriptor)


def _look(folder: Path) -> StoredSession:
    found = segments(folder)
    epoch = lives = begins = 0
    running = False
    history: History | None = None
    problem = None
    try:
        file = read_session_file(folder)
        epoch, lives, running = file.epoch, file.life, file.running
        found = [segment for segment in found if segment.epoch == epoch]
        if found:
            history = History(folder.name, epoch)
            # Of a file that is torn before its first entry nothing is known.
            begins = first_seq(found[0].path) % 2**63
            for recorded in read_journal(folder, epoch, from_seq=_NEWEST, parts=False):
                history.take(recorded.entry)
    except (SessionFolderError, JournalError) as error:
        problem, history = str(error), None
    runs = _is_held(folder)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return StoredSession(
        name=folder.name,
        folder=folder,
        epoch=epoch,
        lives=lives,
        runs=runs,
        crashed=running and not runs,
        frames=None if history is None else history.counts.frames_in,
        dropped=None if history is None else history.counts.dropped,
        rejected=None if history is None else history.counts.rejected,
        journal_files=len(found),
        journal_begins=begins,
        journal_bytes=sum(segment.path.stat().st_size for segment in found),
        client=None if history is None or history.hello is None else history.hello.client,
        states=tuple(states(folder)),
        total_bytes=sum(sizes),
        problem=problem,
    )


def _is_held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """As a daemon's ingest does (`streamer/journal/journal.py`)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

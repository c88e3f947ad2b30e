"""A session's folder: which epoch it is in, how many processes have run it, and whether one does.

No torch in here: the ingest looks at it too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer.protocol.fields import SESSION_PATTERN

SESSION_FILE = "session.json"
STATES = "state"
FORMAT = 1


class SessionFolderError(ValueError):
    """A session folder that cannot be used; the message names the path and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFile:
    """Attributes:
    epoch: grows each time the session begins anew, 0 before the first.
    life: grows with every process that runs it in this epoch, from 1.
    running: whether one does; left standing by a daemon that was killed.
    """

    epoch: int = 0
    life: int = 0
    running: bool = False


def session_folder(session_dir: Path, session: str) -> Path:
    """Where a session lives: a folder right inside ``session_dir``.

    Raises:
        SessionFolderError: the name could lead elsewhere.
    """
    # The door has checked it before; whoever else hands a name here must not get past either.
    if not re.match(SESSION_PATTERN, session):
        raise SessionFolderError(
            f"session: {session[:80]!r} is no name: 1 to 64 characters A-Za-z0-9_.-, the first a "
            "letter or digit"
        )
    return session_dir / session


def read_session_file(folder: Path) -> SessionFile:
    """What session.json says; the defaults where there is none.

    Raises:
        SessionFolderError: it is there but not readable as one, or of another version.
    """
    path = folder / SESSION_FILE
    if not path.exists():
        return SessionFile()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        form = int(content.get("format", FORMAT))
        file = SessionFile(
            epoch=int(content["epoch"]),
            life=int(content.get("life", 0)),
            running=bool(content.get("running", False)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SessionFolderError(
            f"{path}: not a session file ({error}): move the folder away, or use another name"
        ) from None
    if form != FORMAT:
        raise SessionFolderError(
            f"{path}: written in format {form}, this version reads {FORMAT}: use the version of "
            "splatstream that wrote it, or move the folder away"
        )
    return file


def last_epoch(folder: Path) -> int:
    """The epoch of the session's last start, 0 before the first.

    Raises:
        SessionFolderError: as `read_session_file`.
    """
    return read_session_file(folder).epoch


def begin_epoch(folder: Path) -> int:
    """Start anew: the next epoch, written down before anybody hears of it.

    Raises:
        SessionFolderError: the folder cannot be written, or its session.json not be read.
    """
    file = read_session_file(folder)
    return _write(folder, SessionFile(epoch=file.epoch + 1, running=file.running)).epoch


def begin_life(folder: Path, *, anew: bool) -> SessionFile:
    """A process takes the session over; with `anew`, or where there was none, in a new epoch.

    Raises:
        SessionFolderError: as `begin_epoch`.
    """
    file = read_session_file(folder)
    if anew or file.epoch == 0:
        file = SessionFile(epoch=file.epoch + 1)
    return _write(folder, dataclasses.replace(file, life=file.life + 1, running=True))


def end_life(folder: Path) -> None:
    """The process ends because it was told to, not because it was killed.

    Raises:
        SessionFolderError: as `begin_epoch`.
    """
    _write(folder, dataclasses.replace(read_session_file(folder), running=False))


def states(folder: Path) -> list[Path]:
    """The states of a session, newest first.

    Args:
        folder: the session's.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = [path for path in (folder / STATES).iterdir() if path.name.isdigit()]
        return sorted(found, key=lambda path: int(path.name), reverse=True)
    return []


def write_aside(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file; a reader, and whoever comes after a power cut, sees the old or the new
    one.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    aside = path.with_name(path.name + ".writing")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(folder: Path, file: SessionFile) -> SessionFile:
    try:
        # `parents=True` would make those with the modes of the umask.
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        write_aside(folder / SESSION_FILE, {"format": FORMAT, **dataclasses.asdict(file)})
    except OSError as error:
        raise SessionFolderError(
            f"{folder}: cannot be written ({error.strerror}): choose another --session-dir"
        ) from None
    return file

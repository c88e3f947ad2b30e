"""A session's states on disk: written aside, renamed when they are whole; the last two stay."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from streamer.journal import JournalError, remove_spare
from streamer.keep import Keep
from streamer.session.engine_state import EngineState
from streamer.session.folder import STATES, SessionFolderError, states, sync
from streamer.session.spill_files import SPILLED, numbers, remove
from streamer.session.state_files import Cursor, needed_files, read_cursor, write_state

log = logging.getLogger(__name__)

_KEPT_STATES = 2


def save_state(state: EngineState, folder: Path, cursor: Cursor) -> Path:
    """Write `state/<n>/`; it is on the disk when this returns.

    Raises:
        SessionFolderError: the folder cannot be written.
    """
    aside = folder / STATES / ".writing"
    try:
        with holding_states(folder):
            earlier = states(folder)
            _sync_spilled(state, folder, earlier)
            final = aside.with_name(str(int(earlier[0].name) + 1 if earlier else 0))
            shutil.rmtree(aside, ignore_errors=True)
            try:
                aside.mkdir(mode=0o700)
                write_state(state, cursor, aside)
                for path in [*aside.iterdir(), aside]:
                    sync(path)
                aside.rename(final)
            except BaseException:
                # A disk that is full gets its room back; the states before this one stay.
                shutil.rmtree(aside, ignore_errors=True)
                raise
            sync(final.parent)
            for old in earlier[_KEPT_STATES - 1 :]:
                shutil.rmtree(old, ignore_errors=True)
            _sweep_spilled(state, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SessionFolderError(
            f"{aside.parent}: the state could not be written ({reason}): free the disk or "
            "choose another --session-dir"
        ) from None
    return final


def _sync_spilled(state: EngineState, folder: Path, earlier: list[Path]) -> None:
    """What the state refers to is on the disk before the state is."""
    files = {file.number: file.name for held in state.residence.resting for file in held.files}
    for path in earlier:
        with contextlib.suppress(SessionFolderError):
            for number in needed_files(path):
                files.pop(number, None)
    for name in files.values():
        sync(folder / SPILLED / name)
    if files:
        sync(folder / SPILLED)


def _sweep_spilled(state: EngineState, folder: Path) -> None:
    """Remove the files that were there when this state was copied and that no state refers to:
    the engine cannot need them any more."""
    try:
        needed = {number for path in states(folder) for number in needed_files(path)}
    except SessionFolderError:
        # Whoever reads that state will put it aside.
        return
    spilled = folder / SPILLED
    old = [number for number in numbers(spilled) if number < state.residence.next_file]
    remove(spilled, set(old) - needed)


def shorten_journal(folder: Path, cursor: Cursor, keep: Keep) -> list[Path]:
    """Remove what `keep` does not want of a session's journal and neither of its states needs;
    what is gone. With fewer than two states, or with one that another process could not go on
    from, nothing goes.

    Args:
        folder: the session's.
        cursor: of the state that was saved last.
    """
    if keep.everything:
        return []
    try:
        with holding_states(folder):
            cursors = [read_cursor(path) for path in states(folder)[:_KEPT_STATES]]
            alike = all((c.epoch, c.settings) == (cursor.epoch, cursor.settings) for c in cursors)
            if len(cursors) < _KEPT_STATES or not alike:
                return []
            needed_from = min(c.next_seq for c in cursors)
            return remove_spare(folder, cursor.epoch, needed_from, keep, time.time())
    except (OSError, JournalError, SessionFolderError) as error:
        log.warning("%s: the journal cannot be shortened: %s", folder, error)
        return []


def set_aside(path: Path) -> None:
    """Put a damaged state out of the way, for whoever wants to look at it."""
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.rename(aside)


@contextlib.contextmanager
def holding_states(folder: Path) -> Iterator[None]:
    """Nobody else writes or looks for states meanwhile: the process of a daemon that was killed
    may still be saving while its successor comes up.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / STATES).mkdir(exist_ok=True, mode=0o700)
    descriptor = os.open(folder / STATES, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

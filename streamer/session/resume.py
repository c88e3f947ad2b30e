"""A session goes on: from its newest whole state, with the pictures that the journal has kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from streamer.frames import Frame
from streamer.hardware import usable_cores
from streamer.ingest.recorded import decode_recorded
from streamer.journal import Begin, FrameEntry, JournalError, Rejected, read_journal
from streamer.protocol import ProtocolError
from streamer.session.engine import Engine
from streamer.session.engine_state import restore_engine
from streamer.session.folder import states
from streamer.session.state_files import StateDamaged, StateVersion, read_cursor, read_state
from streamer.session.storage import holding_states, set_aside

log = logging.getLogger(__name__)


def resume(
    engine: Engine, folder: Path, epoch: int, settings: Mapping[str, str | int], long_side: int
) -> int:
    """Bring a new engine to the newest state that can be used; what cannot be is logged.

    Args:
        folder: the session's.
        settings: of this process; a state of others is passed over.
        long_side: to which frames are scaled, pixels.

    Returns:
        the seq from which on the journal has to be told; 0: all of it.
    """
    try:
        with holding_states(folder):
            for path in states(folder):
                next_seq = _try(engine, path, folder, epoch, settings, long_side)
                if next_seq:
                    return next_seq
    except OSError as error:
        log.error("%s: states cannot be read (%s): the journal is", folder, error.strerror)
    return 0


def _try(
    engine: Engine,
    path: Path,
    folder: Path,
    epoch: int,
    settings: Mapping[str, str | int],
    long_side: int,
) -> int:
    """Bring the engine to this state; 0 if it is of no use."""
    began = time.monotonic()
    try:
        cursor = read_cursor(path)
        if cursor.epoch != epoch:
            return 0
        if cursor.settings != settings:
            log.warning("%s: saved under other settings (%s)", path, dict(cursor.settings))
            return 0
        state = read_state(path, engine.model)
    except StateVersion as error:
        log.warning("%s", error)
        return 0
    except StateDamaged as error:
        log.error("%s", error)
        set_aside(path)
        return 0
    frames, reached = _read_views(folder, epoch, state.refiner.view_keys, long_side)
    if reached < cursor.next_seq:
        # Frames that were never journalled; a sender that goes on will use their numbers again.
        log.warning(
            "%s: up to frame %d, where the journal ends at %d: not used",
            path, cursor.next_seq - 1, reached - 1,
        )  # fmt: skip
        return 0
    restore_engine(engine, state, frames)
    log.info(
        "goes on from %s at frame %d: %d splats, %d of %d views, %.1f s",
        path, cursor.next_seq, engine.refiner.parameters.count, len(frames),
        len(state.refiner.view_keys), time.monotonic() - began,
    )  # fmt: skip
    return cursor.next_seq


def _read_views(
    folder: Path, epoch: int, keys: Collection[int], long_side: int
) -> tuple[dict[int, Frame], int]:
    """Frames of the journal by seq, and the first seq that it does not have."""
    wanted = set(keys)
    reached = 0
    frames: dict[int, Frame] = {}
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="views") as pool:
        jobs = {}
        try:
            for recorded in read_journal(folder, epoch, from_seq=min(wanted, default=0)):
                match recorded.entry:
                    case Begin(next_seq=next_seq):
                        reached = max(reached, next_seq)
                    case Rejected(seq=seq):
                        reached = max(reached, seq + 1)
                    case FrameEntry(header=header):
                        reached = max(reached, header.seq + 1)
                        if header.seq in wanted:
                            jobs[header.seq] = pool.submit(decode_recorded, recorded, long_side)
        except JournalError as error:
            log.error("the journal cannot be read any further: %s", error)
        for seq, job in jobs.items():
            with suppress(ProtocolError):
                frames[seq] = job.result()
    return frames, reached

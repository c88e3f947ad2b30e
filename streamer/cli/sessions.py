"""What a session folder holds: list it, look at one session, take its map out, delete it.

No daemon is needed. A session that runs in one can be looked at, not deleted. With --server the
daemon there is asked instead: `list` shows what runs in it, `close` has a session save its state
and end until somebody sends into it again or asks for its map.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from streamer.cli.keys import KeyOptions

if TYPE_CHECKING:
    from streamer.requests import Requests
    from streamer.stored_sessions import StoredSession


Action = Literal["list", "show", "export", "delete", "close"]


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """`list` needs no session; `show`, `export`, `delete` and `close` take one."""

    action: Annotated[Action, tyro.conf.Positional] = "list"
    """What to do."""
    session: Annotated[str | None, tyro.conf.Positional] = None
    """Name of the session."""
    session_dir: Path | None = None
    """Folder of the sessions' own folders (as `serve --session-dir`)."""
    server: str | None = None
    """list, close: requests (or updates) address of a daemon."""
    out: Path | None = None
    """export: the .ply file."""
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """delete: really."""


class SessionsError(ValueError):
    """A command line that lacks something; the message says what."""


def run(options: Options) -> int:
    """Does it; 1 where a session's files are not as they should be."""
    from streamer.cli.console import console
    from streamer.config import default_session_dir
    from streamer.stored_sessions import delete_session, stored_session, stored_sessions

    if options.server is not None or options.action == "close":
        return _run_at_server(options)
    session_dir = options.session_dir or default_session_dir()
    if options.action == "list":
        if options.session is not None:
            raise SessionsError(f"list takes no session: say show {options.session}")
        found = stored_sessions(session_dir)
        _print_list(session_dir, found)
        return 1 if any(session.problem for session in found) else 0
    if options.session is None:
        raise SessionsError(f"which session? Say: splatstream sessions {options.action} NAME")
    session = stored_session(session_dir, options.session)
    if options.action == "show":
        _print_one(session)
        return 1 if session.problem else 0
    if options.action == "export":
        return _export(session, options.out)
    if not options.yes:
        raise SessionsError(
            f"{session.folder} holds {_size(session.total_bytes)}, which would be gone for good: "
            "add --yes"
        )
    delete_session(session_dir, options.session)
    console().print(f"deleted {session.folder}, {_size(session.total_bytes)}", markup=False)
    return 0


def _run_at_server(options: Options) -> int:
    """What only a running daemon knows or can do."""
    from streamer.addresses import find_daemon
    from streamer.cli.console import console
    from streamer.requests import Requests

    if options.server is None:
        raise SessionsError("close: which daemon? Say --server tcp://HOST:5557")
    if options.action not in ("list", "close"):
        raise SessionsError(f"{options.action} looks at the disk: leave --server out")
    keys = options.keys()
    with Requests(find_daemon(options.server, keys=keys).requests, keys=keys) as requests:
        if options.action == "list":
            _print_running(requests)
        elif options.session is None:
            raise SessionsError("which session? Say: splatstream sessions close NAME --server ...")
        else:
            requests.close_session(options.session)
            console().print(f"{options.session} has ended, its state is saved", markup=False)
    return 0


def _print_running(requests: Requests) -> None:
    from streamer.cli.console import table

    rows = [
        (
            entry.session,
            entry.state,
            str(entry.frames_in),
            str(entry.frames_done),
            f"{entry.splats:,}",
            f"{entry.idle_s:.0f} s ago",
        )
        for entry in requests.sessions()
    ]
    headings = ("session", "state", "frames", "done", "splats", "last activity")
    print(table([headings, *rows], left=2) if rows else "no session runs")


def _export(session: StoredSession, out: Path | None) -> int:
    """The map of the newest whole state."""
    from streamer.cli.console import console

    if out is None or out.suffix.lower() != ".ply":
        raise SessionsError("where to? Say --out map.ply")
    from gs_decoder import to_world, world_origin, write_ply
    from streamer.session.state_files import StateDamaged, read_chunks

    damage = ""
    for path in session.states:
        try:
            cursor, chunks = read_chunks(path)
        except StateDamaged as error:
            damage = f"; {error}"
            continue
        origin = world_origin(chunks)
        splats = to_world(chunks, origin=origin)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_ply(out, splats, offset=origin)
        console().print(
            f"{out}: {splats.count:,} splats, the map after frame {cursor.next_seq - 1}{damage}",
            markup=False,
        )
        return 0
    raise SessionsError(
        f"{session.folder} holds no saved state to export{damage}: a running daemon saves one on "
        "SAVE, after every session.save_every batches, and when it ends"
    )


_HEADINGS = ("session", "state", "frames", "dropped", "journal", "states", "all")


def _print_list(session_dir: Path, found: list[StoredSession]) -> None:
    from streamer.cli.console import table

    if not found:
        print(f"no session in {session_dir}")
        return
    rows = [
        (
            session.name,
            _state(session),
            _count(session.frames),
            _count(session.dropped),
            _size(session.journal_bytes),
            str(len(session.states)),
            _size(session.total_bytes),
        )
        for session in found
    ]
    print(table([_HEADINGS, *rows], left=2))
    for session in found:
        if session.problem:
            print(f"wrong: {session.name}: {session.problem}")


def _print_one(session: StoredSession) -> None:
    begins = session.journal_begins
    missing = f"; frames 0 to {begins - 1} are gone (journal.keep)" if begins else ""
    lines = {
        "session": session.name,
        "folder": str(session.folder),
        "state": _state(session),
        "epoch": f"{session.epoch}, run by {session.lives} processes",
        "last sender": session.client or "-",
        "frames": f"{_count(session.frames)} accepted, {_count(session.dropped)} dropped, "
        f"{_count(session.rejected)} rejected",
        "journal": f"{session.journal_files} files, {_size(session.journal_bytes)}{missing}",
        "states": ", ".join(path.name for path in session.states) or "none",
        "on the disk": _size(session.total_bytes),
    }
    for name, value in lines.items():
        print(f"{name:<12}{value}")
    if session.problem:
        print(f"wrong: {session.problem}")


def _state(session: StoredSession) -> str:
    if session.problem:
        return "damaged"
    if session.runs:
        return "runs"
    return "was killed" if session.crashed else "ended"


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB"

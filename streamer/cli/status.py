"""One look at a running daemon: sessions, states, what waits, rates. For people and health checks.

Exit code 0: healthy; 1: something is wrong, and said; 2: a wrong address or session; 3: no daemon
answers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import FlagCreatePairsOff, Positional

from streamer.cli.keys import KeyOptions

if TYPE_CHECKING:
    from streamer.health import DaemonLook, SessionLook

UNWELL, SILENT = 1, 3


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """What counts as wrong: a session whose process died, and what is asked for here."""

    address: Positional[str] = "tcp://127.0.0.1:5557"
    """Requests (or updates) address of the daemon."""
    ingest: str | None = None
    """Also say HELLO at this ingest address; that it does not answer is wrong."""
    session: str | None = None
    """Only this session."""
    over: float = 1.0
    """Seconds between the two looks that rates are taken from."""
    max_latency: float | None = None
    """A session whose latency (p95, milliseconds) is above is wrong."""
    max_waiting: int | None = None
    """A session of which more frames wait is wrong."""
    durable: FlagCreatePairsOff[bool] = False
    """A session whose frames are not on the disk is wrong."""
    timeout: float = 5.0
    """Seconds that the daemon may take to answer."""
    json: FlagCreatePairsOff[bool] = False
    """Print a JSON object instead of a table."""


def run(options: Options) -> int:
    """Looks and prints; the exit code says how the daemon is."""
    from streamer.addresses import DaemonNotFound, find_daemon
    from streamer.health import Bounds, ingest_problem, look_at
    from streamer.requests import DaemonSilent, Requests

    address, keys = options.address, options.keys()
    bounds = Bounds(
        max_latency_ms=options.max_latency,
        max_waiting=options.max_waiting,
        durable=options.durable,
    )
    try:
        if not address.startswith("ipc://"):
            address = find_daemon(address, timeout=options.timeout, keys=keys).requests
        with Requests(address, timeout=options.timeout, keys=keys) as requests:
            look = look_at(requests, over_s=options.over, bounds=bounds, session=options.session)
    except (DaemonNotFound, DaemonSilent) as error:
        if options.json:
            print(json.dumps({"healthy": False, "problems": [str(error)], "sessions": []}))
        print(f"splatstream status: {error}", file=sys.stderr)
        return SILENT
    if options.ingest is not None:
        problem = ingest_problem(options.ingest, options.timeout, keys)
        look.problems += [] if problem is None else [f"ingest: {problem}"]
    if options.json:
        print(json.dumps(look.to_builtins(), indent=2))
    else:
        _print_table(look)
    return 0 if look.healthy else UNWELL


_HEADINGS = (
    *("session", "state", "in", "in/s", "done/s", "waiting", "dropped", "rejected"),
    *("key frames", "splats", "batch ms", "latency p50/p95 ms", "dB"),
)


def _print_table(look: DaemonLook) -> None:
    from streamer.cli.console import table
    from streamer.health import NOT_DURABLE

    rows = [_HEADINGS, *(_row(session) for session in look.sessions)]
    print(table(rows, left=2) if look.sessions else "no session yet")
    for problem in look.problems:
        print(f"wrong: {problem}")
    for session in look.sessions:
        for problem in session.problems:
            print(f"wrong: session {session.status.session}: {problem}")
        if not session.status.durable and NOT_DURABLE not in session.problems:
            print(f"note: session {session.status.session}: {NOT_DURABLE}")
    if look.healthy:
        print("healthy")


def _row(session: SessionLook) -> tuple[str, ...]:
    status = session.status
    latency = status.latency_ms
    return (
        status.session,
        status.state,
        str(status.frames_in),
        f"{session.in_rate:.1f}",
        f"{session.done_rate:.1f}",
        str(status.frames_waiting),
        str(status.frames_dropped),
        str(status.frames_rejected),
        str(status.keyframes),
        f"{status.splats:,}",
        "-" if status.batch_ms is None else f"{status.batch_ms:.0f}",
        "-" if latency is None else f"{latency.p50:.0f}/{latency.p95:.0f}",
        "-" if status.psnr is None else f"{status.psnr:.1f}",
    )

"""Live status of a daemon's sessions; with --ply a copy of a map, written whenever it changed.

The address is the daemon's updates or requests address; the other one is found beside it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from streamer.cli.keys import KeyOptions

if TYPE_CHECKING:
    from streamer.access import ClientKeys
    from streamer.addresses import ReaderAddresses


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """Ctrl-C ends it."""

    address: Positional[str] = "tcp://127.0.0.1:5557"
    """Updates or requests address of the daemon."""
    session: str | None = None
    """Only this session; with --ply and several sessions it has to be given."""
    ply: Path | None = None
    """Mirror the map into this file."""
    updates: str | None = None
    """Updates address, where it is not the port below the requests one."""
    requests: str | None = None
    """Requests address, where it is not the port above the updates one."""
    seconds: float | None = None
    """End after so long."""


PLY_EVERY_S = 5.0
ASK_EVERY_S = 2.0


def run(options: Options) -> int:
    """Watches until Ctrl-C."""
    from streamer.addresses import find_daemon

    keys = options.keys()
    found = find_daemon(
        options.address, updates=options.updates, requests=options.requests, keys=keys
    )
    end = None if options.seconds is None else time.monotonic() + options.seconds
    try:
        if options.ply is None:
            _watch_status(found, options.session, end, keys)
        else:
            _mirror_map(found, options.session, options.ply, end, keys)
    except KeyboardInterrupt:
        return 0
    return 0


def _watch_status(
    found: ReaderAddresses, session: str | None, end: float | None, keys: ClientKeys | None
) -> None:
    import zmq

    from streamer.cli.console import console
    from streamer.requests import DaemonSilent, Requests
    from streamer.status_line import StatusLine, describe

    out = console()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    line = StatusLine(found.updates, context, keys)
    if session is not None:
        line.follow(session)
    shown: dict[str, str] = {}
    ask_at = 0.0
    with Requests(found.requests, timeout=2.0, keys=keys) as asker:
        while end is None or time.monotonic() < end:
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ASK_EVERY_S
                try:
                    names = [entry.session for entry in asker.sessions()]
                    if not names and shown.setdefault("", "none") == "none":
                        shown[""] = "said"
                        out.print("no session yet")
                except DaemonSilent as error:
                    out.print(str(error))
                    names = []
                for name in names if session is None else ():
                    line.follow(name)
            for status in line.listen():
                text = describe(status)
                if shown.get(status.session) != text:
                    shown[status.session] = text
                    out.print(f"{time.strftime('%H:%M:%S')} {text}")
            time.sleep(0.1)
    line.close()


def _mirror_map(
    found: ReaderAddresses,
    session: str | None,
    ply: Path,
    end: float | None,
    keys: ClientKeys | None,
) -> None:
    from gs_decoder import write_ply
    from streamer.cli.console import console
    from streamer.status_line import describe
    from streamer.subscriber import Subscriber

    out = console()
    ply.parent.mkdir(parents=True, exist_ok=True)
    written: tuple[int, int] | None = None
    write_at = 0.0

    with Subscriber(found.updates, found.requests, session, keys=keys) as subscriber:

        def write() -> None:
            nonlocal written, write_at
            here = (subscriber.epoch, subscriber.seq)
            if here == written or not subscriber.synced:
                return
            origin = subscriber.mirror.origin()
            write_ply(ply, subscriber.splats_world(origin=origin), offset=origin)
            written, write_at = here, time.monotonic() + PLY_EVERY_S
            out.print(
                f"{time.strftime('%H:%M:%S')} {ply}: {subscriber.mirror.count:,} splats of "
                f"{subscriber.session}"
            )

        try:
            while end is None or time.monotonic() < end:
                for change in subscriber.poll(0.5):
                    if change.kind == "status" and subscriber.status is not None:
                        out.print(f"{time.strftime('%H:%M:%S')} {describe(subscriber.status)}")
                if time.monotonic() >= write_at:
                    write()
        finally:
            write()

"""A session's map as a file, asked of a running daemon.

The address is the daemon's updates or requests address.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from streamer.cli.keys import KeyOptions


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """The file is in the sender's world; far from its origin it comes with an offset."""

    address: Positional[str] = "tcp://127.0.0.1:5557"
    """Updates or requests address of the daemon."""
    session: str
    """Name of the session."""
    out: Path
    """The file; its ending says the format (only .ply in this version)."""
    requests: str | None = None
    """Requests address, where it is not the port above the updates one."""


class ExportError(ValueError):
    """A file that cannot be written; the message says why."""


def run(options: Options) -> int:
    """Writes the file whole or not at all."""
    from gs_decoder import decode_ply, write_ply
    from streamer.addresses import find_daemon
    from streamer.cli.console import console
    from streamer.requests import Requests

    ending = options.out.suffix.lstrip(".").lower()
    if not ending:
        raise ExportError(f"--out: {options.out} has no ending that names a format: say map.ply")
    keys = options.keys()
    found = find_daemon(options.address, requests=options.requests, keys=keys)
    with Requests(found.requests, keys=keys) as requests:
        data = requests.export(options.session, ending)
    # Read before it is written: a file that does not open helps nobody.
    content = decode_ply(data, source=f"what {found.requests} sent")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_ply(options.out, content.splats, offset=content.offset)
    console().print(f"{options.out}: {content.splats.count:,} splats, {len(data) / 1e6:.1f} MB")
    return 0

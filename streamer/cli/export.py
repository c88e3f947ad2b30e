"""A session's map as a file, asked of a running daemon.

The address is the daemon's updates or requests address. The file holds the published map, chunks
that rest on the disk among it. Of what a full map has dropped one is told; `splatstream sessions
export`, on the daemon's machine, writes that too.
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
    """The file; its ending says the format: .ply for the splats, .glb for a mesh."""
    mesh: bool = False
    """A mesh into a .ply too. The daemon makes it; `splatstream mesh` makes it here."""
    requests: str | None = None
    """Requests address, where it is not the port above the updates one."""


class ExportError(ValueError):
    """A file that cannot be written; the message says why."""


def run(options: Options) -> int:
    """Writes the file whole or not at all."""
    from gs_decoder import decode_ply, write_ply
    from gs_decoder.ply import write_aside
    from streamer.addresses import find_daemon
    from streamer.cli.console import console
    from streamer.requests import Requests

    ending = options.out.suffix.lstrip(".").lower()
    if not ending:
        raise ExportError(f"--out: {options.out} has no ending that names a format: say map.ply")
    if options.mesh and ending not in ("ply", "glb"):
        raise ExportError(f"--out: {options.out}: a mesh is a .ply or a .glb")
    keys = options.keys()
    found = find_daemon(options.address, requests=options.requests, keys=keys)
    with Requests(found.requests, keys=keys) as requests:
        requests.wake(options.session)
        data = requests.export(
            options.session, "mesh" if options.mesh and ending == "ply" else ending
        )
        status = requests.status(options.session)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Read before it is written: a file that does not open helps nobody.
    if ending == "glb":
        from gs_decoder.mesh import decode_glb

        what = f"{len(decode_glb(data).faces):,} triangles"
        write_aside(options.out, data)
    elif options.mesh:
        what = "a mesh"
        write_aside(options.out, data)
    else:
        content = decode_ply(data, source=f"what {found.requests} sent")
        what = f"{content.splats.count:,} splats"
        write_ply(options.out, content.splats, offset=content.offset)
    console().print(f"{options.out}: {what}, {len(data) / 1e6:.1f} MB")
    dropped = status.splats_ready + status.splats_on_disk - status.splats
    if dropped > 0:
        console().print(
            f"{dropped:,} more splats, beyond session.map_budget, lie on the daemon's disk alone: "
            f"splatstream sessions export {options.session} writes them too, after a SAVE"
        )
    return 0

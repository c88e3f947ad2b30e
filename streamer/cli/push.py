"""Sends a recorded capture to a running daemon, frame by frame, as a camera would.

Reads nerfstudio's transforms.json, the TUM RGB-D layout, and COLMAP models (docs/captures.md).
Ends when every frame is settled; exit code 1 if the daemon rejected any.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape

from streamer.cli.console import console, frame_progress
from streamer.cli.keys import KeyOptions

_LISTED = 10


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """What to send where."""

    capture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """Folder of the capture, or its transforms.json."""
    to: str = "tcp://127.0.0.1:5555"
    """The daemon's address for frames."""
    session: str | None = None
    """Name of the session; the capture's folder name by default."""
    resume: bool = False
    """Go on in a session that holds frames already: these come after them."""
    frames: str | None = None
    """Only frames A:B, counted from 0, B not among them."""
    rate: float = 10.0
    """Frames a second; 0 for as fast as the daemon gives credit."""
    hold_out: int = 0
    """Keep every N-th frame back (0, N, 2N … of the range), to measure the map by it."""
    policy: Literal["lossless", "live"] = "lossless"
    """lossless: wait when the daemon is behind; live: it drops the oldest waiting frames."""
    depth: bool = False
    """Send depth images where the capture has them."""


def run(options: Options) -> int:
    """Sends the capture; 1 where frames were rejected."""
    from streamer.client import Client
    from streamer.playback import play
    from streamer.sources import open_capture, parse_range, session_name

    capture = open_capture(options.capture).select(*parse_range(options.frames))
    given, kept = capture.hold_out(options.hold_out)
    session = options.session or session_name(capture.name)
    out = console()
    held = f", {len(kept)} held out" if kept else ""
    out.print(
        escape(
            f"{capture.name} ({capture.layout}): {len(given)} frames to {options.to}, "
            f"session {session}{held}"
        )
    )
    for note in capture.notes:
        out.print(escape(f"note: {note}"))
    with (
        Client(
            options.to,
            session=session,
            cameras=dict(capture.cameras),
            convention=capture.convention,
            policy=options.policy,
            clock="capture",
            resume=options.resume,
            keys=options.keys(),
        ) as client,
        frame_progress(out, len(given)) as progress,
    ):
        playback = play(
            client,
            given,
            rate=options.rate,
            with_depth=options.depth,
            progress=progress.update,
        )
    for rejected in playback.rejected[:_LISTED]:
        name = rejected.frame.image_path.name
        out.print(escape(f"rejected: {name}: {rejected.code}: {rejected.reason}"))
    if len(playback.rejected) > _LISTED:
        out.print(f"… and {len(playback.rejected) - _LISTED} more")
    out.print(playback.summary())
    return 1 if playback.rejected else 0

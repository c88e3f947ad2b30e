"""Shows the whole of it on this machine: daemon, demo capture, live page.

Starts a daemon on loopback, pushes the demo capture (an office walk, examples/office) through the
ordinary client and prints the address of the live page; stays until Ctrl-C. With --once it needs
no browser: it ends when the map is done and leaves map.ply, report.json and renders.png.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from streamer.cli.console import console, frame_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.config import ServeConfig
    from streamer.daemon_process import DaemonProcess
    from streamer.playback import Playback
    from streamer.sources import Capture, CaptureFrame


@dataclass(kw_only=True, slots=True)
class Options:
    """How to show it."""

    rate: float = 5.0
    """Frames a second; 0 for as fast as the daemon gives credit."""
    once: bool = False
    """End when the map is done; needs --out."""
    out: Path | None = None
    """Folder for map.ply, report.json and renders.png."""
    long_side: int = 240
    """Working size: the long side of the pictures in pixels."""
    refine: float = 20.0
    """With --once: at most so many seconds of refinement after the last frame."""


def run(options: Options) -> int:
    """Runs the demo; 1 where frames were rejected."""
    from streamer.demo import DemoError, demo_capture, demo_config, demo_daemon, page_address

    if options.once and options.out is None:
        raise DemoError("--once leaves its results in a folder: give it by --out DIR")
    if options.out is not None and not options.once:
        raise DemoError("--out is for --once; without it save the map on the page")
    capture = demo_capture()
    out = console()
    out.print("starting the daemon …")
    with tempfile.TemporaryDirectory(prefix="splatstream-demo-") as folder:
        config = demo_config(Path(folder), long_side=options.long_side, page=not options.once)
        if options.once:
            return _once(options, capture, config, out)
        with demo_daemon(config, out.print) as daemon:
            page = escape(page_address(daemon.addresses))
            out.print(f"live page: [bold]{page}[/]")
            playback = _play(options, capture.frames, capture, daemon, out)
            out.print(playback.summary())
            out.print(f"the map stays on the page until Ctrl-C: {page}")
            out.print(f"the daemon ended with exit code {daemon.wait()}")
            return 1


def _play(
    options: Options,
    frames: Sequence[CaptureFrame],
    capture: Capture,
    daemon: DaemonProcess,
    out: Console,
    meanwhile: Callable[[], object] = lambda: None,
) -> Playback:
    from streamer.client import Client
    from streamer.demo import SESSION, check_running
    from streamer.playback import play

    with (
        Client(
            daemon.addresses["ingest"],
            session=SESSION,
            cameras=dict(capture.cameras),
            convention=capture.convention,
            clock="capture",
        ) as client,
        frame_progress(out, len(frames)) as bar,
    ):

        def progress(settled: int) -> None:
            bar.update(settled)
            check_running(daemon)
            meanwhile()

        return play(client, frames, rate=options.rate, progress=progress)


def _once(options: Options, capture: Capture, config: ServeConfig, out: Console) -> int:
    from streamer.demo import HOLD_OUT, SESSION, demo_daemon, leave_results, wait_for_map
    from streamer.run import output_folder
    from streamer.subscriber import Subscriber

    assert options.out is not None
    folder = output_folder(options.out)
    given, kept = capture.hold_out(HOLD_OUT)
    with demo_daemon(config, out.print) as daemon:
        addresses = daemon.addresses
        with Subscriber(addresses["updates"], addresses["requests"], SESSION) as subscriber:
            playback = _play(options, given, capture, daemon, out, subscriber.poll)
            out.print(playback.summary())
            out.print(f"refining for at most {options.refine:g} s …")
            accepted = len(given) - len(playback.rejected)
            done_at = wait_for_map(subscriber, daemon, accepted, refine_s=options.refine)
    # The daemon is gone: measuring has the machine for itself, and measures the copy of the map.
    measures = leave_results(
        folder,
        capture,
        given,
        kept,
        playback,
        subscriber,
        long_side=options.long_side,
        done_at=done_at,
    )
    out.print(
        f"{measures.figures['splats']} splats, held-out PSNR {measures.psnr:.2f} dB, "
        f"SSIM {measures.ssim:.3f} ({measures.figures['hardware']})"
    )
    out.print(escape(f"map.ply, report.json and renders.png are in {options.out}"))
    return 1 if playback.rejected else 0

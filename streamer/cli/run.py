"""Builds a map from a recorded capture in one process, without a daemon.

Takes the frames in order, refines until the time is up or the map has settled, and leaves
map.ply (in the capture's world), cameras.json (its key frames), report.json and renders.png in the
output folder. Ctrl-C ends it early with the map as it is by then (exit code 130). Frames whose
files cannot be read are named and passed over (exit code 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from streamer.cli.console import console, frame_progress
from streamer.config import SH_DEGREE

if TYPE_CHECKING:
    from streamer.held_out import Unreadable
    from streamer.live_page import LivePage
    from streamer.run import RunPlan
    from streamer.session.engine import Engine

_LISTED = 10


@dataclass(kw_only=True, slots=True)
class Options:
    """What to build, and how long."""

    capture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """Folder of the capture, or its transforms.json."""
    out: Path
    """Folder for map.ply, cameras.json, report.json and renders.png."""
    frames: str | None = None
    """Only frames A:B, counted from 0, B not among them."""
    hold_out: int = 8
    """Keep every N-th frame back (0, N, 2N … of the range) to judge the map by; 0 for none."""
    long_side: int = 240
    """Working size: the long side of the pictures in pixels."""
    time_limit: float = 60.0
    """Wall seconds from the first frame read to the finished map; 0 for none."""
    depth: bool = False
    """Use depth images where the capture has them."""
    refine_poses: bool = False
    """Let refinement find the frames' cameras as well, near the poses that the capture has;
    cameras.json has what was found."""
    sh_degree: int = SH_DEGREE
    """How finely colours depend on where one looks from (`session.sh_degree`), 0 to 3."""
    background: Literal["auto", "black", "white"] = "auto"
    """What lies behind the map; auto reads it off the images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to compute on."""
    weights: Path | None = None
    """A checkpoint that corrects what matching finds: a file of `splatstream train`, or a released
    one of tttLRM; "packaged": the one that is shipped. Without it matching alone."""
    viewer: bool = False
    """Show the growing map on a live page."""


def run(options: Options) -> int:
    """Builds the map; 1 where frames could not be read, 130 where Ctrl-C ended it."""
    from streamer.sources import open_capture, parse_range, session_name

    capture = open_capture(options.capture).select(*parse_range(options.frames))
    given, kept = capture.hold_out(options.hold_out)

    # A capture that is none is said at once: these bring torch, which takes seconds.
    from streamer.interrupt import InterruptWish
    from streamer.run import RunPlan, make_engine, output_folder, run_capture, write_results

    out = output_folder(options.out)
    screen = console()
    for note in capture.notes:
        screen.print(escape(f"note: {note}"))
    screen.print(f"{escape(capture.name)}: {len(given)} frames, {len(kept)} held out; compiling …")
    plan = RunPlan(
        capture=capture,
        given=given,
        kept=kept,
        long_side=options.long_side,
        with_depth=options.depth,
        time_limit=options.time_limit if options.time_limit > 0 else math.inf,
    )
    engine = make_engine(
        options.device,
        options.background,
        options.long_side,
        options.weights,
        refine_poses=options.refine_poses,
        sh_degree=options.sh_degree,
    )
    with InterruptWish() as interrupt, frame_progress(screen, len(given)) as progress:
        if options.viewer:
            from streamer.live_page import LivePage

            def announce(url: str) -> None:
                screen.print(f"live page: {escape(url)}")

            with LivePage(session_name(capture.name), announce) as page:
                engine.outbox = page.outbox
                shown = _shown(progress.update, page, plan)
                outcome = run_capture(engine, plan, progress=shown, stopped=lambda: interrupt.came)
        else:
            outcome = run_capture(
                engine,
                plan,
                progress=lambda engine, _: progress.update(engine.frames_done),
                stopped=lambda: interrupt.came,
            )
    if interrupt.came:
        screen.print("interrupted: what there is by now is written; Ctrl-C once more ends at once")
    if outcome.frames_done == 0:
        _name(screen, outcome.unreadable)
        screen.print("no frame was taken: there is no map to write")
        return 130 if interrupt.came else 1
    figures, scores = write_results(out, engine, plan, outcome)
    _name(screen, outcome.unreadable)
    mean = scores.mean("psnr_gain")
    judged = "" if mean is None else f", held-out PSNR {mean:.2f} dB after exposure"
    screen.print(
        f"{outcome.frames_done} frames in {outcome.seconds:.1f} s, {figures['splats']} splats"
        f"{judged} ({escape(str(figures['hardware']))})"
    )
    screen.print(f"map.ply, cameras.json, report.json and renders.png are in {escape(str(out))}")
    if interrupt.came:
        return 130
    return 1 if outcome.unreadable else 0


def _name(screen: Console, unreadable: Sequence[Unreadable]) -> None:
    for entry in unreadable[:_LISTED]:
        screen.print(escape(f"unreadable: {entry.reason}"))
    if len(unreadable) > _LISTED:
        screen.print(f"… and {len(unreadable) - _LISTED} more")


def _shown(
    update: Callable[[int], None], page: LivePage, plan: RunPlan
) -> Callable[[Engine, int], None]:
    """Progress for the terminal and the page's panel."""

    def show(engine: Engine, frames_in: int) -> None:
        update(engine.frames_done)
        streaming = frames_in < len(plan.given)
        page.tell(engine, frames_in, "streaming" if streaming else "refining")

    return show

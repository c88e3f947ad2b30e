"""Judges maps by views that they were never given: the reconstructor beside its baselines.

Holds every N-th frame of each capture out, builds a map from the others (one way to start after the
other, each in a process of its own, all with the same refinement and on the same clock), and
compares renders of the map with the held-out frames. The output folder gets report.json,
report.html and the maps; docs/evaluation.md says what the figures mean. Ends with exit code 1 where
a run failed or frames could not be read, 130 where Ctrl-C ended it with what there was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape

from streamer.cli.console import console
from streamer.config import SH_DEGREE
from streamer.evaluation.methods import Slug


@dataclass(kw_only=True, slots=True)
class Options:
    """What to judge, and how."""

    captures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE...")]
    """Folders of captures, or their transforms.json."""
    out: Path
    """Folder for report.json, report.html and the maps."""
    hold_out: int = 8
    """Every N-th frame (0, N, 2N … of the range) is held out."""
    long_side: int = 240
    """Working size: the long side of the pictures in pixels."""
    at: str | None = None
    """Marks "10,30,60": seconds from the first frame read at which the map on disk is scored. In
    mode stream none by default, since every batch is scored."""
    mode: Literal["batch", "stream"] = "batch"
    """All frames at once, or frames at a rate in time order, scored after every batch."""
    rate: float = 2.0
    """Frames a second in mode stream."""
    frames: str | None = None
    """Only frames A:B of each capture, counted from 0, B not among them."""
    seed: int = 0
    """Of refinement and of the random points."""
    only: tuple[Slug, ...] = ()
    """Ways to start; all that apply by default, none where a --map is given."""
    map: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE.ply...")] = ()
    """3DGS PLY files from elsewhere, in the world of the capture, to be scored like our own."""
    depth: bool = False
    """Give sensor depth to every start where the capture has it; otherwise RGB alone, but for
    sensor-depth."""
    refine_poses: bool = False
    """Let refinement find the given frames' cameras as well; the figures "+poses" are of held-out
    cameras that follow those of their neighbours in time."""
    sh_degree: int = SH_DEGREE
    """How finely colours depend on where one looks from (`session.sh_degree`), 0 to 3."""
    weights: Path | None = None
    """The checkpoint of the learned starts; by default the packaged one."""
    steps: int | None = None
    """Exactly so many refinement steps after the last frame in the place of marks: the same map
    to the bit whatever else the machine does."""
    background: Literal["auto", "black", "white"] = "auto"
    """What lies behind the map; auto reads it off the given images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to compute on."""
    renderer: Literal["auto", "reference"] = "auto"
    """What the judge renders with: the fast kernels, or the reference in plain torch that they are
    tested against (seconds to minutes a view)."""


def run(options: Options) -> int:
    """Evaluates; 1 where not all of it could be done, 130 where it was interrupted."""
    from streamer.evaluation.evaluate import Evaluation, Settings, evaluate
    from streamer.evaluation.methods import METHODS
    from streamer.evaluation.report import HTML, write_reports
    from streamer.evaluation.table import rows, text_table, without_empty
    from streamer.run import output_folder
    from streamer.session.threads import use_all_cores

    screen = console()
    marks = options.at if options.at is not None else "10,30,60" * (options.mode == "batch")
    settings = Settings(
        hold_out=options.hold_out,
        long_side=options.long_side,
        at=parse_marks(marks),
        mode=options.mode,
        rate=options.rate,
        frames=options.frames,
        seed=options.seed,
        steps=options.steps,
        depth=options.depth,
        refine_poses=options.refine_poses,
        sh_degree=options.sh_degree,
        weights=None if options.weights is None else str(options.weights.expanduser()),
        methods=options.only or (() if options.map else tuple(METHODS)),
        maps=options.map,
        device=options.device,
        background=options.background,
        renderer=options.renderer,
    )
    out = output_folder(options.out)
    use_all_cores()
    found = Evaluation(settings)

    def keep(evaluation: Evaluation) -> None:
        nonlocal found
        found = evaluation
        write_reports(out, evaluation)

    interrupted = False
    try:
        evaluate(
            options.captures,
            settings,
            out,
            tell=lambda text: screen.print(escape(text)),
            after_run=keep,
        )
    except KeyboardInterrupt:
        interrupted = True
        screen.print(
            "interrupted: the report has the runs that had ended"
            if found.captures
            else "interrupted before a run had ended: there is no report of it"
        )
    for capture in found.captures:
        screen.print(f"\n{escape(capture.capture)}")
        heads, lines = without_empty(list(rows(capture)))
        screen.print(escape(text_table(lines, heads)))
    if found.captures:
        screen.print(f"\n{escape(str(out / HTML))}")
    if interrupted:
        return 130
    return 0 if found.complete else 1


def parse_marks(text: str) -> tuple[float, ...]:
    """`10,30,60` as rising seconds; nothing is no mark.

    Raises:
        EvaluationError: anything else.
    """
    from streamer.evaluation.errors import EvaluationError

    try:
        marks = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise EvaluationError(f"--at is {text!r}: give seconds with commas, 10,30,60") from None
    return tuple(marks)

"""An evaluation from beginning to end: captures, runs, scores, report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gs_decoder import estimate_background, read_ply
from gs_decoder.sh import MAX_DEGREE
from streamer.config import SH_DEGREE
from streamer.evaluation.errors import EvaluationError, RunFailed
from streamer.evaluation.job import Job, MapRecord, Mode
from streamer.evaluation.judge import Judge
from streamer.evaluation.launch import launch
from streamer.evaluation.methods import METHODS, Method, Slug
from streamer.evaluation.pictures import ViewPictures, worst_and_best
from streamer.evaluation.results import CaptureResult, MapResult, RunResult
from streamer.held_out import HeldOut
from streamer.scoring import Scores
from streamer.sources import Capture, CaptureFrame, open_capture, parse_range, session_name

MAPS = "maps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is evaluated, as `splatstream eval` is told.

    Attributes:
        methods: slugs of `METHODS`, in the order they run.
        maps: PLY files from elsewhere, in each capture's world.
        renderer: auto, or reference.

    Raises:
        EvaluationError: settings that do not go together.
    """

    hold_out: int = 8
    long_side: int = 240
    at: tuple[float, ...] = (10.0, 30.0, 60.0)
    mode: Mode = "batch"
    rate: float = 2.0
    frames: str | None = None
    seed: int = 0
    steps: int | None = None
    depth: bool = False
    refine_poses: bool = False
    sh_degree: int = SH_DEGREE
    weights: str | None = None
    methods: tuple[Slug, ...] = tuple(METHODS)
    maps: tuple[Path, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    background: Literal["auto", "black", "white"] = "auto"
    renderer: Literal["auto", "reference"] = "auto"

    def __post_init__(self) -> None:
        if self.hold_out < 2:
            raise EvaluationError(f"--hold-out is {self.hold_out}: hold every 2nd, 3rd … frame out")
        if not 32 <= self.long_side <= 4096:
            raise EvaluationError(f"--long-side is {self.long_side}: give 32 to 4096 pixels")
        if any(not 0.0 < mark < math.inf for mark in self.at):
            raise EvaluationError(f"--at is {self.at}: give seconds above 0")
        if self.mode == "stream" and not 0.0 < self.rate < math.inf:
            raise EvaluationError(f"--rate is {self.rate:g}: give frames a second, above 0")
        if self.steps is not None and (self.steps < 0 or self.mode == "stream"):
            raise EvaluationError(
                f"--steps is {self.steps} in mode {self.mode}: give 0 or more, in mode batch"
            )
        if self.mode == "batch" and self.steps is None and not self.at and self.methods:
            raise EvaluationError("--at is empty: give at least one mark in seconds, or --steps")
        if not 0 <= self.sh_degree <= MAX_DEGREE:
            raise EvaluationError(f"--sh-degree is {self.sh_degree}: give 0 to {MAX_DEGREE}")
        if self.weights is not None and self.weights not in ("none", "packaged"):
            _must_exist(Path(self.weights), "--weights")
        for path in self.maps:
            _must_exist(path, "--map")
        if not self.methods and not self.maps:
            raise EvaluationError("nothing to evaluate: name methods with --only, or a --map")


@dataclass(slots=True)
class Evaluation:
    """Results so far, and the pictures of each run's last map: by capture, then by run."""

    settings: Settings
    captures: list[CaptureResult] = field(default_factory=list)
    pictures: list[list[list[ViewPictures]]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every frame could be read and every run ended well."""
        return all(
            capture.views_unreadable == 0
            and all(run.failed is None and run.frames_unreadable == 0 for run in capture.runs)
            for capture in self.captures
        )


@dataclass(frozen=True, slots=True)
class _Subject:
    """A capture as it is judged."""

    path: Path
    folder: Path
    capture: Capture
    given: Sequence[CaptureFrame]
    judge: Judge


def evaluate(
    paths: Sequence[Path],
    settings: Settings,
    out: Path,
    *,
    tell: Callable[[str], None] = lambda text: None,
    after_run: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Evaluation:
    """Runs everything, one run after the other, and scores it.

    Args:
        paths: captures.
        out: a folder that is there; maps go below it.
        tell: one line for people, at every start and end.
        after_run: called with the results so far, so that an interrupted evaluation leaves them.

    Raises:
        CaptureError, InvalidPly: a capture or a map from elsewhere that cannot be read (before
            anything runs).
        EvaluationError: a capture with nothing to give or to judge by; a map that a run would
            overwrite.
    """
    evaluation = Evaluation(settings)
    opened = [open_capture(path).select(*parse_range(settings.frames)) for path in paths]
    if settings.methods:
        for map_path in settings.maps:
            _must_outlive_the_runs(map_path, out / MAPS)
    names: set[str] = set()
    for path, capture in zip(paths, opened, strict=True):
        for note in capture.notes:
            tell(f"note: {note}")
        name = _unused(session_name(capture.name), names)
        subject, result = _subject(path, capture, out / MAPS / name, name, settings)
        evaluation.captures.append(result)
        evaluation.pictures.append([])
        depth = ", scored against its depth sensor" if result.has_depth else ""
        tell(f"{name}: {result.frames_given} frames given, {result.views_held_out} held out{depth}")
        for entry in subject.judge.held_out.unreadable:
            tell(f"unreadable: {entry.reason}")

        def add(run: RunResult, scores: Scores, subject: _Subject = subject) -> None:
            evaluation.captures[-1].runs.append(run)
            views = subject.judge.held_out.views
            evaluation.pictures[-1].append(worst_and_best(scores, views))
            tell(f"  {run.label}: {_in_words(run)}")
            after_run(evaluation)

        for slug in settings.methods:
            method = METHODS[slug]
            if method.uses_depth and not result.has_depth:
                result.left_out[slug] = "the capture has no sensor depth"
                tell(f"  {method.label}: left out, {result.left_out[slug]}")
                continue
            tell(f"  {method.label} …")
            add(*_run(subject, method, settings))
        for path_of_map in settings.maps:
            add(*_from_elsewhere(subject, path_of_map, settings))
    return evaluation


def _subject(
    path: Path, capture: Capture, folder: Path, name: str, settings: Settings
) -> tuple[_Subject, CaptureResult]:
    given, kept = capture.hold_out(settings.hold_out)
    if not given:
        raise EvaluationError(f"{name}: one frame, which is held out; give it more with --frames")
    has_depth = any(frame.depth_path is not None for frame in capture.frames)
    held_out = HeldOut.load(
        capture, given, kept, long_side=settings.long_side, with_depth=has_depth
    )
    if not held_out.views:
        raise EvaluationError(f"{name}: no held-out frame can be read, so there is no judging")
    result = CaptureResult(
        capture=name,
        frames_given=len(given),
        views_held_out=len(held_out.views),
        views_unreadable=len(held_out.unreadable),
        has_depth=has_depth,
    )
    judge = Judge(held_out, settings.renderer)
    return _Subject(path, folder, capture, given, judge), result


def _run(subject: _Subject, method: Method, settings: Settings) -> tuple[RunResult, Scores]:
    result = RunResult(
        method=method.slug,
        label=method.label,
        about=method.about,
        depth_given=method.uses_depth or settings.depth,
    )
    folder = subject.folder / method.slug
    job = Job(
        capture=str(subject.path.resolve()),
        frames=settings.frames,
        hold_out=settings.hold_out,
        long_side=settings.long_side,
        method=method.slug,
        with_depth=result.depth_given,
        mode=settings.mode,
        at=() if settings.steps is not None else settings.at,
        rate=settings.rate,
        steps=settings.steps,
        seed=settings.seed,
        refine_poses=settings.refine_poses,
        sh_degree=settings.sh_degree,
        device=settings.device,
        background=settings.background,
        weights=settings.weights,
        out=str(folder.resolve()),
    )
    try:
        outcome = launch(job)
    except RunFailed as error:
        result.failed = str(error)
        return result, Scores([], [], [])
    result.model = outcome.model
    result.frames_in = outcome.frames_in
    result.frames_unreadable = len(outcome.unreadable)
    result.stream_seconds = outcome.stream_seconds
    result.settled_after = outcome.settled_after
    result.background = outcome.background
    return result, subject.judge.score_run(result, folder, outcome, settings.mode == "stream")


def _from_elsewhere(subject: _Subject, path: Path, settings: Settings) -> tuple[RunResult, Scores]:
    neighbours = subject.judge.held_out.neighbours
    background = estimate_background([frame.image for frame in neighbours], settings.background)
    count, scores = subject.judge.score_file(path, background)
    record = MapRecord(
        file=str(path),
        at=None,
        batch=None,
        written=0.0,
        cpu_seconds=0.0,
        peak_memory_mb=0.0,
        frames_in=0,
        newest=subject.given[-1].index,
        keyframes=0,
        refinement_steps=0,
        splats=count,
    )
    red, green, blue = (float(value) for value in background)
    result = RunResult(
        method="map",
        label=path.name,
        about=f"{path}, made elsewhere",
        depth_given=False,
        background=(red, green, blue),
    )
    result.maps.append(MapResult.of(record, scores, len(subject.judge.held_out.views)))
    return result, scores


def _in_words(run: RunResult) -> str:
    if run.failed is not None:
        return f"failed: {run.failed}"
    figures = [
        f"{result.name} {result.psnr:.2f} dB ({result.psnr_gain:.2f} after gain), SSIM "
        f"{result.ssim:.3f}"
        for result in (run.maps or run.batches[-1:])
        if result.psnr is not None and result.psnr_gain is not None and result.ssim is not None
    ]
    return "; ".join(figures)


def _must_exist(path: Path, option: str) -> None:
    if not path.is_file():
        raise EvaluationError(f"{option}: there is no file {path}")


def _must_outlive_the_runs(path: Path, maps: Path) -> None:
    if maps.resolve() in path.resolve().parents:
        raise EvaluationError(
            f"--map: {path} lies where this evaluation writes its own maps: name another --out, or "
            "leave --only out"
        )
    # It is scored last: what is wrong with it should not wait for that.
    read_ply(path)


def _unused(name: str, names: set[str]) -> str:
    """The name, with a number where another capture has it already."""
    chosen, number = name, 2
    while chosen in names:
        chosen, number = f"{name}-{number}", number + 1
    names.add(chosen)
    return chosen

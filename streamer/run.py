"""`splatstream run`: a capture to a map in one process, by the same engine as the daemon's."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import ENOTDIR
from pathlib import Path
from typing import Any, Literal

from gs_decoder import world_origin, write_ply
from streamer.config import SH_DEGREE, ServeConfig, SessionConfig
from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.held_out import HeldOut, Unreadable
from streamer.report import contact_sheet, write_report
from streamer.scoring import Scores, WorldSplats, score
from streamer.session.engine import Engine
from streamer.session.pace import SHARE
from streamer.session.settings import READY_WITHOUT_A_DISK, engine_config
from streamer.session.threads import use_all_cores
from streamer.sources import Capture, CaptureFrame, load_frame
from streamer.trajectory import CAMERAS_FILE, write_cameras
from streamer.undistort import working_size
from ttt_core import default_model

_AHEAD = 16
_NAP_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What to build from: frames given to the map and frames kept back, the working size (long
    side, pixels), and wall seconds from the first frame read (inf: until the map has settled).

    Attributes:
        aim: seconds at which the map should be good first: what key frames may take is a share of
            it. None: the time limit.
        rate: given frames a second that arrive, as from a camera; 0: all of them are there. At a
            rate every frame is taken, however late; the time limit then ends refinement alone.
    """

    capture: Capture
    given: Sequence[CaptureFrame]
    kept: Sequence[CaptureFrame]
    long_side: int
    with_depth: bool
    time_limit: float
    aim: float | None = None
    rate: float = 0.0

    def next_batch_at(self, taken: int, batch: int) -> float:
        """Seconds until which the time after `taken` frames is refinement's."""
        if self.rate > 0.0:
            return min(taken + batch, max(taken, len(self.given))) / self.rate
        return 0.0

    def key_frame_seconds(self, frames: int) -> float:
        """What the key frames among so many frames may take; inf where there is neither rate nor
        limit."""
        if self.rate > 0.0:
            return SHARE * frames / self.rate
        aim = self.time_limit if self.aim is None else self.aim
        return SHARE * aim * frames / len(self.given)

    def share_gone(self, last: float, now: float) -> float:
        """Of the time that refinement has after the last frame, taken in at `last` seconds; 0 where
        no end is known, as with a camera, which might go on."""
        if self.rate > 0.0 or math.isinf(self.time_limit):
            return 0.0
        return (now - last) / max(self.time_limit - last, 1e-9)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run did: frames taken and frames passed over, and wall seconds from the first frame
    read to the end."""

    frames_in: int
    frames_done: int
    stream_seconds: float
    seconds: float
    unreadable: list[Unreadable]


class FrameReader:
    """Reads and prepares frames ahead in a thread, in order; bounded.

    Attributes:
        unreadable: the frames passed over so far.
    """

    def __init__(
        self,
        capture: Capture,
        frames: Sequence[CaptureFrame],
        *,
        long_side: int,
        with_depth: bool = False,
    ) -> None:
        self._capture = capture
        self._frames = frames
        self._long_side = long_side
        self._with_depth = with_depth
        self.unreadable: list[Unreadable] = []
        self._queue: queue.Queue[Frame | Exception | None] = queue.Queue(maxsize=_AHEAD)
        self._stop = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="frame-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop reading; frames read ahead are forgotten."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def take(self, count: int) -> list[Frame]:
        """The next `count` frames, waiting for them; fewer only at the end of the capture."""
        frames: list[Frame] = []
        while len(frames) < count and not self._ended:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                self._ended = True
            else:
                frames.append(item)
        return frames

    def _read(self) -> None:
        try:
            for number, entry in enumerate(self._frames):
                if self._stop.is_set():
                    break
                try:
                    frame = load_frame(
                        self._capture,
                        entry,
                        seq=number,
                        long_side=self._long_side,
                        with_depth=self._with_depth,
                    )
                except ValueError as error:
                    self.unreadable.append(Unreadable(entry, str(error)))
                else:
                    self._queue.put(frame)
            self._queue.put(None)
        except Exception as error:
            # Raised in the thread that takes frames: this one has nobody to tell.
            self._queue.put(error)


def make_engine(
    device: Literal["auto", "cpu", "cuda"],
    background: Literal["auto", "black", "white"],
    long_side: int,
    weights: Path | None = None,
    *,
    refine_poses: bool = False,
    sh_degree: int = SH_DEGREE,
) -> Engine:
    """The daemon's engine with its default settings, compiled and warm.

    Raises:
        CheckpointError: `weights` is no checkpoint that can predict splats.
        ConfigError: `long_side` or `sh_degree` is out of bounds.
    """
    use_all_cores()
    session = SessionConfig(
        long_side=long_side,
        background=background,
        weights=weights,
        refine_poses=refine_poses,
        sh_degree=sh_degree,
        resident_budget=READY_WITHOUT_A_DISK,
    )
    settings = engine_config(ServeConfig(device=device, session=session))
    engine = Engine(settings, model=default_model(session.weights, settings.device))
    engine.warm_up(long_side * 2 // 3, long_side)
    return engine


def run_capture(
    engine: Engine,
    plan: RunPlan,
    *,
    progress: Callable[[Engine, int], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> RunOutcome:
    """Feed all frames to the engine, refine when it has them, until the time is up.

    Without a time limit the end is when the map has settled. With one, or at a rate, the engine is
    told what the key frames of a batch may take. At a rate a batch waits for its last frame, and
    what is left until then is refinement's.

    Frames that cannot be read are passed over.

    Args:
        progress: called with the engine and the frames taken so far, after every batch and step.
        stopped: asked before every batch and step; once true, the map stays as it is.
    """
    reader = FrameReader(
        plan.capture, plan.given, long_side=plan.long_side, with_depth=plan.with_depth
    )
    started = time.monotonic()
    reader.start()
    frames_in = 0
    stream_seconds = 0.0

    def tell() -> None:
        if progress:
            progress(engine, frames_in)

    def over() -> bool:
        return time.monotonic() - started >= plan.time_limit or stopped()

    def done_reading() -> bool:
        return stopped() if plan.rate > 0.0 else over()

    def use_time_until(due: float) -> None:
        """Refine; where a camera sends, wait as well."""
        while (left := started + due - time.monotonic()) > 0.0 and not over():
            if engine.wants_refinement:
                engine.refine()
            elif plan.rate > 0.0:
                time.sleep(min(left, _NAP_S))
            else:
                break
            tell()

    batch = engine.config.batch
    count = batch
    try:
        use_time_until(plan.next_batch_at(0, batch))
        while not done_reading():
            frames = reader.take(count)
            if not frames:
                break
            frames_in += len(frames)
            if plan.rate == 0.0:
                height, width = frames[0].image.shape[:2]
                seconds = plan.key_frame_seconds(batch)
                count = batch * engine.pace.together(batch, seconds, height, width)
            engine.process(
                frames,
                seconds=plan.key_frame_seconds(len(frames)),
                last=frames_in + len(reader.unreadable) == len(plan.given),
            )
            stream_seconds = time.monotonic() - started
            tell()
            use_time_until(plan.next_batch_at(frames_in, batch))
        while engine.wants_refinement and not over():
            engine.refine(share=plan.share_gone(stream_seconds, time.monotonic() - started))
            tell()
    finally:
        reader.close()
    engine.publish()
    engine.close()
    return RunOutcome(
        frames_in,
        engine.frames_done,
        stream_seconds,
        time.monotonic() - started,
        reader.unreadable,
    )


def write_results(
    out: Path, engine: Engine, plan: RunPlan, outcome: RunOutcome
) -> tuple[dict[str, Any], Scores]:
    """`map.ply`, `cameras.json`, `renders.png` and `report.json` of a finished map.

    Returns the figures and scores.

    Frames kept back that cannot be read are added to the outcome's unreadable ones.
    """
    origin = world_origin(engine.map.chunks.values())
    splats = engine.splats_world(origin)
    write_ply(out / "map.ply", splats, offset=origin)
    write_keyframes(out, engine, plan)

    held_out = HeldOut.load(
        plan.capture,
        plan.given,
        plan.kept,
        long_side=plan.long_side,
        known_unreadable={unreadable.frame.index for unreadable in outcome.unreadable},
    )
    outcome.unreadable.extend(held_out.unreadable)
    background = engine.refiner.background
    moved = engine.refiner.offsets.items()
    scores = score(
        WorldSplats(splats, origin),
        held_out.views,
        held_out.neighbours,
        background,
        offsets={plan.given[seq].index: offset for seq, offset in moved},
    )
    contact_sheet(out / "renders.png", held_out.views, scores)
    status = engine.status()
    figures: dict[str, Any] = {
        "capture": plan.capture.name,
        "frames_in": outcome.frames_in,
        "frames_done": outcome.frames_done,
        "frames_unreadable": len(outcome.unreadable),
        "frames_per_second": outcome.frames_done / max(outcome.stream_seconds, 1e-9),
        "stream_seconds": outcome.stream_seconds,
        "seconds": outcome.seconds,
        "keyframes": status.keyframes,
        "refinement_steps": status.steps,
        "splats": splats.count,
        "long_side": plan.long_side,
        "model": status.model,
        "hardware": hardware(),
    }
    write_report(out / "report.json", figures, scores)
    return figures, scores


def write_keyframes(out: Path, engine: Engine, plan: RunPlan) -> None:
    """`cameras.json`: the key frames' poses as they are now, where refinement has them, with their
    lens at working size."""
    keyframes = list(engine.keyframes.values())
    frames = [plan.given[keyframe.seq] for keyframe in keyframes]
    models = [plan.capture.camera_of(frame) for frame in frames]
    write_cameras(
        out / CAMERAS_FILE,
        [keyframe.c2w for keyframe in keyframes],
        [m.scaled(*working_size(m.width, m.height, plan.long_side)) for m in models],
        [frame.image_path.name for frame in frames],
    )


def output_folder(path: Path) -> Path:
    """The folder for results, made where it is missing.

    Raises:
        NotADirectoryError: something else lies there.
    """
    if path.exists() and not path.is_dir():
        reason = "a file is there: name a folder for the results"
        raise NotADirectoryError(ENOTDIR, reason, str(path))
    path.mkdir(parents=True, exist_ok=True)
    return path

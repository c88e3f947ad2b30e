"""One run in a process of its own: `python -m streamer.child streamer.evaluation.worker FOLDER`.

Reads FOLDER/job.json and leaves the maps, cameras.json (the key frames at the end) and run.json
there. Of the held-out frames it reads nothing but their entries in the capture's listing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from streamer.config import ServeConfig, SessionConfig
from streamer.evaluation.errors import EvaluationError
from streamer.evaluation.job import JOB, OUTCOME, Job, Outcome, read_job, write
from streamer.evaluation.marks import Marks
from streamer.evaluation.methods import build_model
from streamer.run import RunPlan, run_capture, write_keyframes
from streamer.session.engine import Engine
from streamer.session.settings import READY_WITHOUT_A_DISK, EngineConfig, engine_config
from streamer.session.threads import use_all_cores
from streamer.sources import CaptureFrame, open_capture, parse_range
from streamer.undistort import working_size


def build_map(job: Job) -> Outcome:
    """Do the run; the maps are in `job.out` afterwards.

    Raises:
        EvaluationError: no frame could be read.
        CheckpointError: the weights cannot be used.
    """
    use_all_cores()
    capture = open_capture(job.capture).select(*parse_range(job.frames))
    given, _ = capture.hold_out(job.hold_out)
    config = _engine_config(job)
    engine = Engine(config, model=build_model(job.method, job.weights, config.device, job.seed))
    # What is compiled and allocated for pictures of this size does not run on the clock.
    camera = capture.camera_of(given[0])
    width, height = working_size(camera.width, camera.height, job.long_side)
    engine.warm_up(height, width)
    _warm_disk(given)
    plan = RunPlan(
        capture=capture,
        given=given,
        kept=(),
        long_side=job.long_side,
        with_depth=job.with_depth,
        time_limit=_time_limit(job, len(given), config.batch),
        # Without marks there is no refinement between batches: time would decide how much.
        aim=min(job.at, default=math.inf),
        rate=job.rate if job.mode == "stream" else 0.0,
    )
    marks = Marks(Path(job.out), plan, job.at, config.batch)
    marks.start()
    outcome = run_capture(engine, plan, progress=marks.tell)
    # Without any frame and with readable ones the time was too short: the map is empty.
    if len(outcome.unreadable) == len(given):
        reasons = "; ".join(entry.reason for entry in outcome.unreadable[:3])
        raise EvaluationError(f"{capture.name}: no frame could be read ({reasons})")
    if job.steps is None:
        marks.finish(engine)
    else:
        marks.write_last(engine)
    write_keyframes(Path(job.out), engine, plan)
    red, green, blue = (float(value) for value in engine.refiner.background)
    return Outcome(
        model=engine.model.describe(),
        background=(red, green, blue),
        frames_in=outcome.frames_in,
        frames_done=outcome.frames_done,
        stream_seconds=outcome.stream_seconds,
        settled_after=None if engine.wants_refinement else outcome.seconds,
        unreadable=[(entry.frame.index, entry.reason) for entry in outcome.unreadable],
        maps=marks.records,
    )


def _warm_disk(given: Sequence[CaptureFrame]) -> None:
    """Read the files once: else the first run alone would pay for a cold disk."""
    for frame in given:
        for path in (frame.image_path, frame.depth_path, frame.mask_path):
            if path is not None:
                with contextlib.suppress(OSError):
                    path.read_bytes()


def _engine_config(job: Job) -> EngineConfig:
    session = SessionConfig(
        long_side=job.long_side,
        background=job.background,
        refine_poses=job.refine_poses,
        sh_degree=job.sh_degree,
        resident_budget=READY_WITHOUT_A_DISK,
    )
    config = engine_config(ServeConfig(device=job.device, session=session))
    config = dataclasses.replace(config, refine=dataclasses.replace(config.refine, seed=job.seed))
    return config if job.steps is None else dataclasses.replace(config, idle_steps=job.steps)


def _time_limit(job: Job, frames: int, batch: int) -> float:
    if job.steps is not None:
        return math.inf
    last = max(job.at, default=0.0)
    # The last batch has its time too.
    return max(last, (frames + batch) / job.rate) if job.mode == "stream" else last


def main() -> int:
    """0 done, 2 the user has to change something (said in the last line of stderr)."""
    folder = Path(sys.argv[1])
    job = read_job(folder / JOB)
    try:
        write(folder / OUTCOME, build_map(job))
    except ValueError as error:
        if type(error).__module__.split(".")[0] not in ("streamer", "gs_decoder", "ttt_core"):
            raise
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What each choice of refinement brings: one start, one choice undone, judged on held-out views.

    python benchmarks/refinement.py CAPTURE... [--steps 300 1500] [--seeds 0 1] [--long-side 240]
                                    [--frames 0:150] [--only NAME...] [--out RESULT.json]

All frames of a capture but the held-out ones go through the engine without refinement, once; from
there every variant refines by steps, so that the machine's load changes nothing but the time. Every
number of steps is a run of its own, as rates fall towards its end; 0: until it has settled, as a
daemon does when frames pause, which knows no end before.
PSNR and SSIM as `splatstream eval` has them, means over held-out views and seeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tyro

from gs_decoder.refine import (
    RefineConfig,
    Refiner,
    RefinerState,
    RefineView,
    refiner,
    refiner_state,
    restore_refiner,
)
from gs_decoder.refine.renderers import NumbaViewRenderer
from gs_decoder.refine.schedule import RateSchedule
from streamer.config import ServeConfig, SessionConfig
from streamer.evaluation.methods import build_model
from streamer.hardware import hardware
from streamer.held_out import HeldOut
from streamer.run import RunPlan, run_capture
from streamer.scoring import WorldSplats, score
from streamer.session.engine import Engine
from streamer.session.settings import engine_config
from streamer.session.threads import use_all_cores
from streamer.sources import CaptureFrame, open_capture
from streamer.sources.capture import parse_range

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "rates never fall": {"schedule": RateSchedule(rest=1.0)},
    "views drawn, no turns": {},
    "no gains": {"gain_step": 0.0},
    "gains not held": {"gain_hold": 0.0},
    "no dropout": {"dropout_views": 0.0},
    "last steps shown": {"average_most": 1.0},
    "last steps shown, half rates": {
        "average_most": 1.0,
        "rate_mean": 0.1,
        "rate_quat": 1.5e-2,
        "rate_log_scale": 2e-2,
        "rate_opacity": 4e-2,
        "rate_color": 7.5e-3,
    },
    "nobody is eager": {"eager_opacity": 1.0, "eager_color": 1.0},
    "cameras found": {"refine_poses": True},
    "colours without direction": {"sh_degree": 0},
    "SH degree 1": {"sh_degree": 1},
    "SH degree 3": {"sh_degree": 3},
}


@dataclass(kw_only=True)
class Options:
    captures: tyro.conf.Positional[tuple[Path, ...]]
    steps: tuple[int, ...] = (300, 1500)
    seeds: tuple[int, ...] = (0, 1)
    long_side: int = 240
    frames: str = "0:150"
    only: tuple[str, ...] = tuple(VARIANTS)
    out: Path | None = None


@dataclass(frozen=True)
class Start:
    """A map before refinement, its views, and what it is judged by."""

    state: RefinerState
    views: dict[int, RefineView]
    given: Sequence[CaptureFrame]
    held_out: HeldOut

    def refined(self, name: str, seed: int, steps: int) -> dict[str, float]:
        """Scores after so many steps; 0: when it has settled."""
        config = dataclasses.replace(RefineConfig(seed=seed), **VARIANTS[name])
        work = Refiner(NumbaViewRenderer(config.workers), config)
        own = {"random": work._random.getstate(), "chance": work._chance.bit_generator.state}
        own["convergence"] = dataclasses.asdict(work.convergence)
        state = RefinerState(self.state.arrays, {**self.state.figures, **own})
        views = {key: dataclasses.replace(view) for key, view in self.views.items()}
        restore_refiner(work, state, views)
        began, cpu_began = time.perf_counter(), time.process_time()
        with drawn() if name == "views drawn, no turns" else contextlib.nullcontext():
            while not work.convergence.reached if steps == 0 else work.steps < steps:
                work.step(work.steps / steps if steps else 0.0)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        world = WorldSplats(work.parameters.splats(), work.origin)
        given = self.held_out.neighbours
        offsets = {self.given[seq].index: off for seq, off in work.offsets.items()}
        scores = score(world, self.held_out.views, given, work.background, offsets=offsets)
        moved = np.array(list(work.offsets.values()) or np.zeros((1, 6)))
        shown = [view.psnr for view in work.views.values() if view.psnr is not None]
        work.close()
        return {
            "psnr": scores.mean("psnr") or math.nan,
            "psnr_gain": scores.mean("psnr_gain") or math.nan,
            "ssim_gain": scores.mean("ssim_gain") or math.nan,
            "psnr_gain_poses": scores.mean("psnr_gain_poses") or math.nan,
            "ssim_gain_poses": scores.mean("ssim_gain_poses") or math.nan,
            "psnr_given": float(np.mean(shown)),
            "turned_deg": float(np.degrees(_rms(moved[:, :3]))),
            "shifted": _rms(moved[:, 3:]),
            "splats": work.parameters.count,
            "steps": work.steps,
            "steps_per_second": work.steps / took,
            "cpu_ms_per_step": 1e3 * cpu / work.steps,
        }


def _rms(vectors: np.ndarray) -> float:
    """Of the lengths of (N, 3)."""
    return float(np.sqrt(np.square(vectors).sum(axis=1).mean()))


def drawn() -> Any:
    """Views at random in the place of turns, as it was before."""

    def draw(
        views: Sequence[RefineView], count: int, _: int, __: float, random: np.random.Generator
    ) -> list[RefineView]:
        return [views[n] for n in random.choice(len(views), min(count, len(views)), replace=False)]

    return mock.patch.object(refiner, "choose_views", draw)


def start(path: Path, options: Options) -> Start:
    capture = open_capture(path).select(*parse_range(options.frames))
    given, kept = capture.hold_out(8)
    config = engine_config(ServeConfig(session=SessionConfig(long_side=options.long_side)))
    config = dataclasses.replace(config, idle_steps=0, device="cpu")
    engine = Engine(config, model=build_model("learned", None, "cpu", 0))
    run_capture(
        engine,
        RunPlan(
            capture=capture,
            given=given,
            kept=(),
            long_side=options.long_side,
            with_depth=False,
            time_limit=math.inf,
        ),
    )
    held_out = HeldOut.load(capture, given, kept, long_side=options.long_side)
    return Start(refiner_state(engine.refiner), dict(engine.refiner.views), given, held_out)


def main(options: Options) -> None:
    use_all_cores()
    result: dict[str, Any] = {
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
        "long_side": options.long_side,
        "frames": options.frames,
        "seeds": list(options.seeds),
        "captures": {},
    }
    for path in options.captures:
        at = start(path, options)
        rows = result["captures"].setdefault(path.name, {})
        for name in options.only:
            for steps in options.steps:
                scores = [at.refined(name, seed, steps) for seed in options.seeds]
                row = {key: round(float(np.mean([s[key] for s in scores])), 3) for key in scores[0]}
                row = {key: value for key, value in row.items() if not math.isnan(value)}
                row["psnr_gain_by_seed"] = [round(s["psnr_gain"], 2) for s in scores]
                rows.setdefault(name, {})[str(steps)] = row
                print(f"{path.name:18} {name:24} {steps:5} {row}", flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

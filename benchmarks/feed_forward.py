"""Feed-forward over 8 to 1000 views: what a key frame costs as the stream and its map grow.

    python benchmarks/feed_forward.py CAPTURE [--views 1000] [--weights none packaged]
                                      [--frames 0:300] [--every 2] [--long-side 240] [--json FILE]

An engine as a session has one, but without refinement: key frames are chosen, predicted, fused and
published, in batches of four. The capture is gone through again and again, every round in a place
of its own, until there are so many key frames. A row tells of the key frames between half a number
and that number: CPU time of all threads for each, in all and in the model alone, so that other load
on the machine changes little. Memory is that of the process, pictures of the capture included.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from endless import pose, shifted

from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.process_stats import process_stats
from streamer.session.engine import Engine
from streamer.session.outbox import Outbox
from streamer.session.settings import EngineConfig
from streamer.sources import load_frame, open_capture, parse_range
from ttt_core import default_model

SHOWN = (8, 16, 32, 64, 125, 250, 500, 1000)


@dataclass(kw_only=True)
class Options:
    """CPU time a key frame, by how many there were."""

    capture: tyro.conf.Positional[Path]
    views: int = 1000
    weights: tuple[str, ...] = ("none", "packaged")
    frames: str = "0:300"
    every: int = 2
    long_side: int = 240
    json: Path | None = None


class Clock(Outbox):
    """Adds up what prediction takes of the process's CPU time."""

    def __init__(self) -> None:
        self.predict = 0.0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        if stage == "predict":
            self.predict += time.process_time() - began


@dataclass(frozen=True, slots=True)
class Mark:
    """After a batch, since the beginning."""

    keyframes: int
    cpu_s: float
    predict_s: float
    resident_mb: float
    splats: int
    state_mb: float


def walk(frames: list[Frame], weights: str, views: int) -> list[Mark]:
    """A mark for every batch, the first before any."""
    clock = Clock()
    config = EngineConfig(refine_enabled=False)
    engine = Engine(config, clock, model=default_model(weights))
    engine.warm_up(*frames[0].image.shape[:2])
    stride = float(np.ptp([pose(frame)[0, 3] for frame in frames])) + 5.0
    marks = [Mark(0, 0.0, 0.0, resident_mb(), 0, engine.model_state.nbytes / 1e6)]
    clock.predict = cpu = 0.0
    place = seq = 0
    while len(engine.keyframes) < views:
        before = len(engine.keyframes)
        for start in range(0, len(frames), config.batch):
            batch = [
                shifted(frame, seq + i, stride * place)
                for i, frame in enumerate(frames[start : start + config.batch])
            ]
            began = time.process_time()
            engine.process(batch)
            cpu += time.process_time() - began
            seq += len(batch)
            mark = Mark(
                len(engine.keyframes),
                cpu,
                clock.predict,
                resident_mb(),
                engine.map.count,
                engine.model_state.nbytes / 1e6,
            )
            marks.append(mark)
        if len(engine.keyframes) == before:
            raise SystemExit("no frame of the capture becomes a key frame")
        place += 1
        print(f"{weights}: {len(engine.keyframes)} key frames, {cpu:.0f} CPU-s", flush=True)
    engine.close()
    return marks


def resident_mb() -> float:
    """Of this process; NaN where the system does not tell."""
    stats = process_stats(os.getpid())
    return float("nan") if stats is None else stats.resident_bytes / 1e6


def rows(marks: list[Mark]) -> list[dict[str, Any]]:
    """By number of key frames, each over the later half of them."""
    found = []
    for views in (v for v in SHOWN if v <= marks[-1].keyframes):
        last = next(mark for mark in marks if mark.keyframes >= views)
        first = next(mark for mark in reversed(marks) if mark.keyframes <= views // 2)
        count = last.keyframes - first.keyframes
        found.append(
            {
                "views": views,
                "cpu_ms_per_view": round(1e3 * (last.cpu_s - first.cpu_s) / count, 1),
                "model_cpu_ms_per_view": round(1e3 * (last.predict_s - first.predict_s) / count, 1),
                "resident_mb": round(last.resident_mb, 1),
                "splats": last.splats,
                "state_mb": round(last.state_mb, 2),
            }
        )
    return found


def main(options: Options) -> None:
    capture = open_capture(options.capture)
    chosen = capture.frames[slice(*parse_range(options.frames))][:: options.every]
    frames = [
        load_frame(capture, entry, seq=0, long_side=options.long_side, with_depth=False)
        for entry in chosen
    ]
    height, width = frames[0].image.shape[:2]
    report: dict[str, Any] = {
        "hardware": hardware(),
        "capture": capture.name,
        "frames_a_round": len(frames),
        "size": f"{width}x{height}",
        "rows": {},
    }
    for weights in options.weights:
        report["rows"][Path(weights).stem] = rows(walk(frames, weights, options.views))
    print(json.dumps(report, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

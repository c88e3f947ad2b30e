"""A stream without an end: what stays in memory, what goes to the disk, and what comes back.

    python benchmarks/endless.py [--rounds 20] [--resident 30000] [--json FILE] [--keep-in-memory]

The demo's pictures again and again, every round in a place of its own, then the first place once
more, in one engine with a saved state now and then, as a session has it. Every eighth frame is held
out: renders of the published map in the first place are compared with them after the first round,
before the return, and after it. With `--keep-in-memory` there is no disk, and the map is thinned
out to the same resident budget.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from streamer.demo import CAPTURE
from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.held_out import HeldOut
from streamer.process_stats import process_stats
from streamer.scoring import WorldSplats, score
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.settings import EngineConfig
from streamer.session.spill_files import SPILLED, SpillFolder
from streamer.session.state_files import Cursor
from streamer.session.storage import save_state
from streamer.sources import load_frame, open_capture
from ttt_core import default_model


@dataclass(kw_only=True)
class Options:
    rounds: int = 20
    """Through the pictures, each in a place of its own, before the return to the first."""
    long_side: int = 128
    resident: int = 30_000
    """Splats held ready."""
    published: int = 120_000
    """Splats of the map that readers see."""
    steps: int = 4
    """Refinement steps after each batch."""
    save_every: int = 60
    """Batches between two saved states."""
    keep_in_memory: bool = False
    weights: str = "packaged"
    json: Path | None = None


def main(options: Options) -> None:
    capture = open_capture(CAPTURE)
    given, kept = capture.hold_out(8)
    held_out = HeldOut.load(capture, given, kept, long_side=options.long_side)
    frames = [
        load_frame(capture, entry, seq=0, long_side=options.long_side, with_depth=False)
        for entry in given
    ]
    stride = float(np.ptp([pose(frame)[0, 3] for frame in frames])) + 5.0
    config = EngineConfig(
        resident_budget=options.resident,
        map_budget=options.published,
        chunk_budget=2000,
        refine_steps=options.steps,
    )
    engine = Engine(config, model=default_model(options.weights))
    engine.warm_up(*frames[0].image.shape[:2])
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        if not options.keep_in_memory:
            engine.spill_to(SpillFolder(folder / SPILLED, kept=True))
        rows: list[dict[str, Any]] = []
        quality: dict[str, Any] = {}
        seq = batches = 0
        for number in [*range(options.rounds), 0]:
            if rows and number == 0:
                quality["before the return"] = psnr(engine, held_out)
            moved = [shifted(frame, seq + i, stride * number) for i, frame in enumerate(frames)]
            spent: list[float] = []
            for start in range(0, len(moved), config.batch):
                began = time.perf_counter()
                engine.process(moved[start : start + config.batch])
                spent.append(time.perf_counter() - began)
                batches += 1
                if not options.keep_in_memory and batches % options.save_every == 0:
                    cursor = Cursor(epoch=1, next_seq=seq + start, settings={})
                    save_state(engine_state(engine), folder, cursor)
            seq += len(moved)
            rows.append(row(engine, folder, number, seq, spent))
            if len(rows) == 1:
                quality["after the first round"] = psnr(engine, held_out)
            elif number == 0:
                quality["after the return"] = psnr(engine, held_out)
            print(json.dumps(rows[-1]), flush=True)
            write(options, rows, quality)
    engine.close()
    print(json.dumps(quality, indent=1))


def write(options: Options, rows: list[dict[str, Any]], quality: dict[str, Any]) -> None:
    """All so far, after every round: a run may be ended early."""
    if options.json is None:
        return
    result = {
        "hardware": hardware(),
        "options": {k: v for k, v in dataclasses.asdict(options).items() if k != "json"},
        "psnr_of_the_first_place": quality,
        "rounds": rows,
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")


def shifted(frame: Frame, seq: int, along: float) -> Frame:
    c2w = pose(frame).copy()
    c2w[0, 3] += along
    return dataclasses.replace(frame, seq=seq, stamp_ns=seq * 10**8, c2w=c2w)


def pose(frame: Frame) -> np.ndarray:
    assert frame.c2w is not None
    return frame.c2w


def row(
    engine: Engine, folder: Path, place: int, frames: int, spent: list[float]
) -> dict[str, Any]:
    status, stats = engine.status(), process_stats(os.getpid())
    return {
        "place": place,
        "frames": frames,
        "resident_mb": None if stats is None else round(stats.resident_bytes / 1e6, 1),
        "splats_ready": status.splats_ready,
        "splats_on_disk": status.splats_on_disk,
        "splats_published": engine.map.count,
        "views_ready": len(engine.refiner.views),
        "chunks_on_disk": len(engine.residence.resting),
        "disk_mb": round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 1),
        "submaps": 1 + len(engine.model_state.left),
        "load": round(os.getloadavg()[0], 1),
        "batch_ms_median": round(1e3 * float(np.median(spent)), 1),
        "batch_ms_p95": round(1e3 * float(np.quantile(spent, 0.95)), 1),
    }


def psnr(engine: Engine, held_out: HeldOut) -> dict[str, float | None]:
    """Of the published map where the stream began, plain and with the neighbours' exposure, dB."""
    origin = np.zeros(3)
    world = WorldSplats(engine.map.splats_world(origin=origin), origin)
    scores = score(world, held_out.views, held_out.neighbours, engine.refiner.background)
    return {name: scores.mean(name) for name in ("psnr", "psnr_gain")}


if __name__ == "__main__":
    main(tyro.cli(Options))

"""What saving a session's state costs its thread, at the size that a full map has by default.

    python benchmarks/save_state.py [--splats 120000] [--published 600000] [--frames 10000]
        [--views 1024] [--repeats 9] [--json FILE]

So many splats are under refinement, the others that are published rest on the disk. Printed are the
CPU milliseconds that the session's own thread spends, which is how long a batch waits on a machine
that has a core for it: for the copy of the state; for what SAVE does besides, which first publishes
what refinement changed, here every splat, in portions between which batches are taken: for all of
them, and for the longest. Then the wall time of the write in the thread beside it,
down to the disk, and the longest time for which the session's thread, which does nothing but look
at the clock, got no turn meanwhile, and in as long a time before without any write.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from splat_map import chunk_meta, random_splats

from gs_decoder.refine import RefineView
from streamer.hardware import hardware
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.outbox import Keyframe
from streamer.session.settings import EngineConfig
from streamer.session.spill_files import SPILLED, SpillFolder
from streamer.session.state_files import Cursor
from streamer.session.storage import save_state

_CHUNK = 3000


def full_engine(folder: Path, splats: int, published: int, frames: int, views: int) -> Engine:
    """An engine that holds so much, of nothing that was ever seen."""
    engine = Engine(EngineConfig(map_budget=published, resident_budget=splats))
    engine.spill_to(SpillFolder(folder / SPILLED, kept=True))
    generator = torch.Generator().manual_seed(0)
    for frame in range(frames):
        engine.trajectory.add(frame, frame, np.eye(4))
    for number in range(published // _CHUNK):
        some = random_splats(_CHUNK, generator).with_sh_degree(engine.config.refine.sh_degree)
        engine.residence.see([], {})
        engine.make_room(_CHUNK)
        chunk = engine.map.add(chunk_meta(number), some)
        engine.refiner.add_splats(chunk, some)
        engine.residence.add(chunk, some)
        engine.chunk_of_seq[number] = chunk
        engine.selector.add(number, np.eye(4))
        engine.keyframes.add(
            Keyframe(
                seq=number,
                stamp_ns=number,
                camera="",
                chunk=chunk,
                c2w=np.eye(4),
                thumbnail=bytes(4000),
            )
        )
    nothing = np.zeros((1, 1, 3), np.uint8)
    for key in range(views):
        engine.refiner.add_view(RefineView(key=key, image=nothing, K=np.eye(3), c2w=np.eye(4)))
    engine.publish()
    return engine


def cpu_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of this thread, and what came out."""
    began = time.thread_time()
    result = work()
    return 1e3 * (time.thread_time() - began), result


def longest_wait_ms(goes_on: Callable[[], bool]) -> float:
    """How long this thread got no turn at most."""
    longest = 0.0
    last = time.perf_counter()
    while goes_on():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return 1e3 * longest


def once(engine: Engine, folder: Path, frames: int) -> dict[str, float]:
    """Save."""
    count = engine.refiner.parameters.count
    engine.refiner._touched[:count] = True
    asked, left = cpu_ms(engine.publication.changed)
    portions = [asked]
    while left:
        spent, left = cpu_ms(lambda some=left: engine.publication.portion(some))
        portions.append(spent)
    began = time.perf_counter()
    copy, state = cpu_ms(lambda: engine_state(engine))
    copy_wall = 1e3 * (time.perf_counter() - began)
    cursor = Cursor(epoch=1, next_seq=frames, settings={})
    work = threading.Thread(target=save_state, args=(state, folder, cursor))
    began = time.perf_counter()
    work.start()
    held_up = longest_wait_ms(work.is_alive)
    work.join()
    took = time.perf_counter() - began
    until = time.perf_counter() + took
    alone = longest_wait_ms(lambda: time.perf_counter() < until)
    return {
        "copy_cpu_ms": copy,
        "copy_wall_ms": copy_wall,
        "publish_cpu_ms": sum(portions),
        "portion_cpu_ms": max(portions),
        "write_wall_ms": 1e3 * took,
        "longest_wait_ms": held_up,
        "longest_wait_without_ms": alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splats", type=int, default=120_000)
    parser.add_argument("--published", type=int, default=600_000)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = full_engine(
            folder, options.splats, options.published, options.frames, options.views
        )
        found = [once(engine, folder, options.frames) for _ in range(options.repeats)]
        states = sorted((folder / "state").iterdir())
        size = sum(path.stat().st_size for path in states[-1].iterdir())
        engine.close()
    figures = {
        key: {
            "median": round(statistics.median(row[key] for row in found), 1),
            "least": round(min(row[key] for row in found), 1),
            "most": round(max(row[key] for row in found), 1),
        }
        for key in found[0]
    }
    report = {
        "hardware": hardware(),
        "load_after": round(os.getloadavg()[0], 1),
        "splats": {"ready": engine.refiner.parameters.count, "published": engine.map.count},
        "frames": options.frames,
        "views": len(engine.refiner.views),
        "repeats": options.repeats,
        "state_mb": round(size / 1e6, 1),
        **figures,
    }
    print(json.dumps(report, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

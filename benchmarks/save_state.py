"""What saving a session's state costs its thread, at the size that a full map has by default.

    python benchmarks/save_state.py [--splats 200000] [--published 600000] [--frames 10000]
        [--views 1024] [--repeats 9] [--json FILE]

So many splats may be under refinement, the others that are published rest on the disk. A SAVE comes
when refinement has changed every splat, and the session's thread does nothing but serve it, and
look at the clock. Printed are wall and CPU milliseconds of what it does in one piece, between which
batches, frames and corrections are taken: the longest portion that is published, and the copy of
the state, into memory that was touched beforehand; by turns with it the same copy into fresh
memory. `room_ms` is for how long SAVE had to wait for that memory when all was published,
`write_wall_ms` from the copy until SAVE could be answered. Then the longest time for which the
session's thread got no turn from SAVE to its answer, and in as long a time without any of it.
`longest_hold_ms`, the longest of these, is what a batch waits at most because of a save.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from splat_map import chunk_meta, random_splats

from gs_decoder.refine import RefineView
from streamer.hardware import hardware
from streamer.keep import Keep
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.outbox import Keyframe
from streamer.session.saving import Saving
from streamer.session.settings import EngineConfig
from streamer.session.spill_files import SPILLED, SpillFolder
from streamer.session.state_files import Cursor

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


class Clock:
    """Milliseconds that this thread's work takes, and the longest time that it had no turn."""

    def __init__(self) -> None:
        self.lost_ms = 0.0
        self._last = time.perf_counter()

    def measure(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Wall and CPU milliseconds of one piece of work."""
        began, cpu = self.look(), time.thread_time()
        work()
        self._last = time.perf_counter()
        return 1e3 * (self._last - began), 1e3 * (time.thread_time() - cpu)

    def look(self) -> float:
        """What the time is, in seconds."""
        now = time.perf_counter()
        self.lost_ms, self._last = max(self.lost_ms, 1e3 * (now - self._last)), now
        return now


def once(engine: Engine, folder: Path, frames: int) -> dict[str, float]:
    """Save."""
    fresh = Clock().measure(lambda: engine_state(engine))
    cursor = Cursor(epoch=1, next_seq=frames, settings={})
    saving = Saving(engine, folder, Keep(), lambda: cursor, every=0)
    engine.refiner._touched[: engine.refiner.parameters.count] = True
    clock = Clock()
    began = clock.look()
    portions = [clock.measure(lambda: saving.order(1))]
    while saving.publishing:
        portions.append(clock.measure(saving.go_on))
    published = clock.look()
    copy = (0.0, 0.0)
    while saving.ordered:
        copy = clock.measure(saving.go_on)
    copied = clock.look()
    while not (answers := saving.collect()):
        clock.look()
    written = clock.look()
    assert answers[0].error is None, answers[0].error
    while saving._writer.busy:
        clock.look()
    saving.finish(last=False)
    idle = Clock()
    until = time.perf_counter() + written - began
    while idle.look() < until:
        pass
    longest = max(wall for wall, _ in portions)
    return {
        "fresh_copy_wall_ms": fresh[0],
        "fresh_copy_cpu_ms": fresh[1],
        "copy_wall_ms": copy[0],
        "copy_cpu_ms": copy[1],
        "room_ms": 1e3 * (copied - published) - copy[0],
        "publish_cpu_ms": sum(cpu for _, cpu in portions),
        "portion_wall_ms": longest,
        "portion_cpu_ms": max(cpu for _, cpu in portions),
        "write_wall_ms": 1e3 * (written - copied),
        "longest_wait_ms": clock.lost_ms,
        "longest_wait_without_ms": idle.lost_ms,
        "longest_hold_ms": max(longest, copy[0], clock.lost_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splats", type=int, default=200_000)
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

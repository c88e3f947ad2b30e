"""What saving a session's state costs, at the size that a full map has by default.

    .venv/bin/python benchmarks/save_state.py [--splats 120000] [--frames 10000] [--views 1024]

Prints milliseconds of wall time: the copy, for which a batch waits (and its CPU time); the write in
the thread beside it, down to the disk; and the longest time for which the other thread, which does
nothing but look at the clock, was held up meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from splat_map import chunk_meta, random_splats

from gs_decoder.refine import RefineView
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.outbox import Keyframe
from streamer.session.settings import EngineConfig
from streamer.session.state_files import Cursor
from streamer.session.storage import save_state

_CHUNK = 3000


def full_engine(splats: int, frames: int, views: int) -> Engine:
    """An engine that holds so much, of nothing that was ever seen."""
    engine = Engine(EngineConfig(map_budget=splats, resident_budget=splats))
    generator = torch.Generator().manual_seed(0)
    for frame in range(frames):
        engine.trajectory.add(frame, frame, np.eye(4))
    for number in range(splats // _CHUNK):
        some = random_splats(_CHUNK, generator)
        meta = chunk_meta(number)
        chunk = engine.map.add(meta, some)
        engine.refiner.add_splats(chunk, some)
        picture = bytes(4000)
        engine.keyframes.add(
            Keyframe(
                seq=number,
                stamp_ns=number,
                camera="",
                chunk=chunk,
                c2w=np.eye(4),
                thumbnail=picture,
            )
        )
    nothing = np.zeros((1, 1, 3), np.uint8)
    for key in range(views):
        engine.refiner.add_view(RefineView(key=key, image=nothing, K=np.eye(3), c2w=np.eye(4)))
    return engine


def longest_wait(work: threading.Thread) -> float:
    """Seconds for which this thread got no turn while `work` ran."""
    longest = 0.0
    work.start()
    last = time.perf_counter()
    while work.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    work.join()
    return longest


def main() -> None:
    """Run all of it five times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splats", type=int, default=120_000)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=1024)
    options = parser.parse_args()
    engine = full_engine(options.splats, options.frames, options.views)
    with tempfile.TemporaryDirectory() as name:
        for _ in range(5):
            began, used = time.perf_counter(), time.thread_time()
            state = engine_state(engine)
            copied, used = time.perf_counter(), time.thread_time() - used
            cursor = Cursor(epoch=1, next_seq=options.frames, settings={})
            work = threading.Thread(target=save_state, args=(state, Path(name), cursor))
            held_up = longest_wait(work)
            written = time.perf_counter()
            size = sum(p.stat().st_size for p in Path(name).rglob("*") if p.is_file())
            print(
                f"copy {1e3 * (copied - began):6.1f} ms (CPU {1e3 * used:5.1f}), "
                f"write {1e3 * (written - copied):7.1f} ms, "
                f"longest wait {1e3 * held_up:6.1f} ms, folder {size / 1e6:.1f} MB"
            )
    engine.close()


if __name__ == "__main__":
    main()

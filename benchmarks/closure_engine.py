"""What each step of a loop closure costs one engine; `loop_closure.py stages` runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import cv2
import numpy as np
from bent_walk import Options, bent, figures, lenses, walk

from streamer.frames import Frame
from streamer.load import Material
from streamer.session.engine import Engine
from streamer.session.outbox import Outbox
from streamer.session.settings import EngineConfig
from ttt_core import default_model


@dataclass(kw_only=True)
class Stages(Options):
    """One engine, step by step."""


class Stopwatch:
    """Milliseconds that calls took, by name: of wall time, and of this thread's CPU time, which
    others on the machine change less. What is called within another counts there too."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = {}
        self.worked: dict[str, list[float]] = {}

    @contextmanager
    def watching(self, name: str) -> Iterator[None]:
        began, worked = time.perf_counter(), time.thread_time()
        yield
        self.took.setdefault(name, []).append(1e3 * (time.perf_counter() - began))
        self.worked.setdefault(name, []).append(1e3 * (time.thread_time() - worked))

    def watch(self, owner: object, method: str, name: str) -> None:
        """From now on."""
        inner: Callable[..., Any] = getattr(owner, method)

        def watched(*args: Any, **options: Any) -> Any:
            with self.watching(name):
                return inner(*args, **options)

        setattr(owner, method, watched)


def filled(options: Options, what: Material) -> Engine:
    """An engine that walked until it held so many key frames."""
    config = EngineConfig(
        chunk_budget=options.chunk_budget,
        map_budget=options.chunk_budget * options.keyframes,
        resident_budget=options.chunk_budget * options.keyframes,
        refine_enabled=False,
    )
    engine = Engine(config, model=default_model("packaged"))
    pictures = [
        cv2.cvtColor(cv2.imdecode(np.frombuffer(f.jpeg, np.uint8), 1), cv2.COLOR_BGR2RGB)
        for f in what.frames
    ]
    engine.warm_up(*pictures[0].shape[:2])
    cameras = lenses(what)
    seqs = count()
    while len(engine.map.chunks) < options.keyframes:
        frames = []
        for _ in range(config.batch):
            seq = next(seqs)
            shown = what.frames[seq % len(what.frames)]
            fx, fy, cx, cy = cameras[shown.camera].fxfycxcy
            frames.append(
                Frame(
                    seq=seq,
                    stamp_ns=seq * 10**8,
                    camera=shown.camera,
                    image=pictures[seq % len(pictures)],
                    K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
                    c2w=what.pose(seq),
                )
            )
        engine.process(frames)
    return engine


def stages(options: Stages) -> dict[str, Any]:
    """What each step of `Engine.apply_poses` takes."""
    engine = filled(options, walk(options.long_side))
    engine.outbox = Outbox()
    watch = Stopwatch()
    watch.watch(engine.trajectory, "revise", "trajectory.revise")
    watch.watch(engine.map, "move", "map.move")
    watch.watch(engine.publication, "send", "publish")
    # All that readers wait for.
    watch.watch(engine, "announce_poses", "announced")
    watch.watch(engine.refiner, "move_chunks", "refiner.move_chunks")
    watch.watch(engine.refiner, "move_views", "refiner.move_views")
    watch.watch(engine.selector, "move", "selector.move")
    watch.watch(engine.model, "move", "model.move")
    poses = {seq: engine.trajectory.pose(seq) for seq in engine.chunk_of_seq}
    for revision in range(options.repeats):
        # Only the first of the two publications has anything to send.
        for noted in (watch.took, watch.worked):
            noted["publish"] = noted.get("publish", [])[:revision]
        with watch.watching("all"):
            moved = engine.apply_poses(
                revision, bent(poses, 0.05 * (revision + 1)), by="seq", upto=None
            ).moved
        assert moved >= options.keyframes - 1, "the first frame alone stays where it was"
    result = {
        "frames": engine.frames_done,
        "keyframes": len(engine.keyframes),
        "chunks": len(engine.map.chunks),
        "splats": engine.map.count,
        "ms": {name: figures(took[: options.repeats]) for name, took in watch.took.items()},
        "cpu_ms": {name: figures(took[: options.repeats]) for name, took in watch.worked.items()},
    }
    engine.close()
    return result

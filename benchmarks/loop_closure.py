"""What a loop closure costs: thousands of key frames corrected at once, while frames come in.

    python benchmarks/loop_closure.py stages [--keyframes 2000] [--repeats 7] [--json FILE]
    python benchmarks/loop_closure.py daemon [--keyframes 2000] [--repeats 7] [--json FILE]

Both walk through the demo's pictures, every round in a place of its own, until so many key frames
have a chunk, and then bend the whole walk again and again, each time a little further. `stages`
does it to one engine in this process and says what each of its steps takes. `daemon` does it to a
daemon, from a `poses` client, while a camera goes on sending --fps frames a second and refinement
takes the rest: from before the call of `send_poses` to the moment when a subscriber has applied
the `move`, and to the call's answer. Milliseconds of wall time, and of CPU time for `stages`; the
least of all repeats says what the program needs, the median what the machine made of it. With
--json the figures are put into a file, beside the other command's.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray

from streamer import Client, PoseClient, Requests, Subscriber
from streamer.camera import CameraModel
from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.demo import CAPTURE
from streamer.frames import Frame
from streamer.garbage import settle
from streamer.hardware import hardware
from streamer.load import Material, material
from streamer.requests import RequestRefused
from streamer.session.engine import Engine
from streamer.session.outbox import Outbox
from streamer.session.settings import EngineConfig
from streamer.sources import open_capture
from ttt_core import default_model

Float64 = NDArray[np.float64]
SESSION = "walk"
LIMIT_S = 600.0


@dataclass(kw_only=True)
class Options:
    """How large the map is."""

    keyframes: int = 2000
    """Key frames with a chunk."""
    long_side: int = 64
    """Of the pictures, pixels: the walk is to be long, not beautiful."""
    chunk_budget: int = 60
    """Splats of a key frame at most: 2000 of them fill the default map."""
    repeats: int = 7
    """Corrections, one after the other."""
    json: Path | None = None
    """Put the figures into this file."""


@dataclass(kw_only=True)
class Stages(Options):
    """One engine, step by step."""


@dataclass(kw_only=True)
class Daemon(Options):
    """A daemon with everybody around it."""

    fps: float = 2.0
    """Frames a second that come in meanwhile."""
    sessions: Path | None = None
    """Folder for the daemon's session, so that the next run finds it filled."""


def walk(long_side: int) -> Material:
    """The demo's pictures, to be sent over and over."""
    return material(open_capture(CAPTURE), long_side=long_side)


def bent(poses: Mapping[int, Float64], amount: float) -> dict[int, Float64]:
    """A walk that had drifted: turned about the world's z, more and more towards its end."""
    last = max(poses)
    corrected = {}
    for seq, pose in poses.items():
        angle = amount * seq / last
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        corrected[seq] = turn @ pose
    return corrected


def figures(values: list[float]) -> dict[str, float]:
    """Milliseconds: the least, the middle and the most."""
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"min": round(low, 2), "median": round(middle, 2), "max": round(high, 2)}


# ---- one engine ----


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
    engine = Engine(config, model=default_model())
    pictures = [
        cv2.cvtColor(cv2.imdecode(np.frombuffer(f.jpeg, np.uint8), 1), cv2.COLOR_BGR2RGB)
        for f in what.frames
    ]
    engine.warm_up(*pictures[0].shape[:2])
    lenses = {
        name: CameraModel(c.model, c.width, c.height, tuple(c.params))
        for name, c in what.cameras.items()
    }
    seqs = count()
    while len(engine.map.chunks) < options.keyframes:
        frames = []
        for _ in range(config.batch):
            seq = next(seqs)
            shown = what.frames[seq % len(what.frames)]
            fx, fy, cx, cy = lenses[shown.camera].fxfycxcy
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


# ---- a daemon ----


class Watcher:
    """A subscriber that notes when it has applied which kind of change."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self.moves: list[tuple[float, int]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            for change in self.subscriber.poll(0.1):
                if change.kind == "move":
                    self.moves.append((time.perf_counter(), len(change.chunks)))

    def close(self) -> None:
        self._end.set()
        self._thread.join()


class Camera:
    """Sends frame after frame; once told to, no faster than a camera would."""

    def __init__(self, client: Client, what: Material) -> None:
        self._client, self._what = client, what
        self._seqs = count(client.acked + 1)
        self.resumed = client.acked >= 0
        self._end = threading.Event()

    def send(self) -> None:
        seq = next(self._seqs)
        frame = self._what.frames[seq % len(self._what.frames)]
        self._client.send(
            frame.jpeg, self._what.pose(seq), camera=frame.camera, stamp_ns=seq * 10**8
        )

    @contextmanager
    def filming(self, fps: float) -> Iterator[None]:
        """In a thread."""

        def film() -> None:
            while not self._end.wait(1.0 / fps):
                self.send()

        thread = threading.Thread(target=film, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {LIMIT_S:g} s for {what}")
        time.sleep(0.01)


@contextmanager
def daemon(options: Daemon, folder: Path, *, refine: bool) -> Iterator[DaemonProcess]:
    """`splatstream serve` with this folder of sessions."""
    free = "tcp://127.0.0.1:*"
    session = SessionConfig(
        long_side=options.long_side,
        chunk_budget=options.chunk_budget,
        # What comes in while poses are corrected needs room too.
        map_budget=options.chunk_budget * options.keyframes * 2,
        resident_budget=options.chunk_budget * options.keyframes * 2,
        refine=refine,
    )
    config = ServeConfig(
        ingest=free,
        updates=free,
        requests=free,
        session_dir=folder,
        session=session,
        viewer=ViewerConfig(enabled=False),
    )
    with DaemonProcess(config) as process:
        yield process


@contextmanager
def camera(process: DaemonProcess, what: Material) -> Iterator[Camera]:
    """One that goes on where the session stands."""
    lenses = {
        name: CameraModel(c.model, c.width, c.height, tuple(c.params))
        for name, c in what.cameras.items()
    }
    with Client(
        process.addresses["ingest"],
        session=SESSION,
        cameras=lenses,
        convention="opencv",
        clock="walk",
        client="camera",
        resume=True,
    ) as client:
        yield Camera(client, what)


def watching(process: DaemonProcess) -> Subscriber:
    """A mirror of the walk."""
    return Subscriber(process.addresses["updates"], process.addresses["requests"], SESSION)


def nothing_waits(asking: Requests) -> bool:
    """Whether the session is there, and has done all that was sent."""
    try:
        return asking.status(SESSION).frames_waiting == 0
    except RequestRefused as error:
        if error.code != "busy":
            raise
        return False


def through_a_daemon(options: Daemon) -> dict[str, Any]:
    """From the call of `send_poses` to a subscriber's map."""
    what = walk(options.long_side)
    with tempfile.TemporaryDirectory() as name:
        folder = options.sessions or Path(name)
        with (
            daemon(options, folder, refine=False) as process,
            watching(process) as reader,
            camera(process, what) as filling,
        ):
            until(lambda: (reader.poll(0.1), not filling.resumed or reader.synced)[1], "the map")
            while len(reader.mirror.chunks) < options.keyframes:
                reader.poll()
                filling.send()
        # The same session goes on, now as it usually runs.
        with (
            daemon(options, folder, refine=True) as process,
            watching(process) as reader,
            Requests(process.addresses["requests"], timeout=30) as asking,
            camera(process, what) as filming,
        ):
            until(lambda: (reader.poll(0.1), reader.synced)[1], "the session to come back")
            until(lambda: nothing_waits(asking), "the frames that waited")
            return _corrected(options, process, reader, asking, filming)


def _corrected(
    options: Daemon,
    process: DaemonProcess,
    reader: Subscriber,
    asking: Requests,
    filming: Camera,
) -> dict[str, Any]:
    key_frames = [k for k in asking.keyframes(SESSION) if k.chunk is not None]
    poses = {k.seq: k.c2w for k in key_frames}
    to_move, to_answer = [], []
    # Above those of earlier runs with the same session.
    first = int(time.time())
    # As a process may that others wait for: Python's search for garbage would look at all of torch.
    settle()
    watcher = Watcher(reader)
    with (
        filming.filming(options.fps),
        PoseClient(
            process.addresses["ingest"], SESSION, convention="opencv", timeout_s=60
        ) as back_end,
    ):
        for revision in range(options.repeats):
            time.sleep(1.0)
            corrected = bent(poses, 0.05 * (revision + 1))
            seen = len(watcher.moves)
            began = time.perf_counter()
            answer = back_end.send_poses(first + revision, corrected, upto=max(corrected))
            to_answer.append(1e3 * (time.perf_counter() - began))
            until(lambda n=seen: len(watcher.moves) > n, "the move")
            (arrived, chunks), *more = watcher.moves[seen:]
            # A chunk with refined splats that the publisher was too busy for goes with them.
            assert chunks <= answer.moved and not more, "a correction is one move, of all chunks"
            to_move.append(1e3 * (arrived - began))
        status = asking.status(SESSION)
    watcher.close()
    return {
        "frames": status.frames_in,
        "keyframes": status.keyframes,
        "splats": status.splats,
        "corrected": len(poses),
        "chunks_moved": answer.moved,
        "fps_meanwhile": options.fps,
        "batch_ms": round(status.batch_ms, 1),
        "ms": {"to_move": figures(to_move), "to_answer": figures(to_answer)},
    }


def main() -> None:
    """One of the commands."""
    options = tyro.extras.subcommand_cli_from_dict({"stages": Stages, "daemon": Daemon})
    if isinstance(options, Stages):
        name, result = "stages", stages(options)
    else:
        name, result = "daemon", through_a_daemon(options)
    # Of the minute before: what else runs on the machine makes every figure larger.
    load = round(os.getloadavg()[0], 1)
    result = {"machine": hardware(), "load": load, **result}
    print(json.dumps(result, indent=1))
    if options.json is not None:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps({**known, name: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

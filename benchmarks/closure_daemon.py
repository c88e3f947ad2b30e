"""How long a loop closure takes through a daemon; `loop_closure.py daemon` runs it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from bent_walk import Options, bent, figures, lenses, walk
from prometheus_client.parser import text_string_to_metric_families

from streamer import Client, PoseClient, Requests, Subscriber
from streamer.config import MetricsConfig, ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.garbage import begin
from streamer.load import Material
from streamer.protocol.update_headers import MoveHeader, topic
from streamer.requests import RequestRefused

SESSION = "walk"
LIMIT_S = 600.0
TIMES = ("correct", "correction", "to_published", "to_applied", "to_answer")
"""Two stages of the session's, then what is measured from outside."""


@dataclass(kw_only=True)
class Daemon(Options):
    """A daemon with everybody around it."""

    fps: float = 2.0
    """Frames a second that come in meanwhile."""
    sessions: Path | None = None
    """Folder for the daemon's session, so that the next run finds it filled."""


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


class Listener:
    """Notes when a `move` has come to a subscriber's socket, in a process of its own."""

    def __init__(self, address: str) -> None:
        self.moves: list[float] = []
        script = Path(__file__).with_name("closure_listener.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), address, topic(SESSION, MoveHeader.KIND).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.moves.append(float(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._thread.join()


def stage_ms(process: DaemonProcess, stage: str) -> float:
    """All that the session spent on a stage so far, by the page for Prometheus."""
    with urllib.request.urlopen(process.addresses["metrics"]) as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = (sample for family in families for sample in family.samples)
    wanted = {"session": SESSION, "stage": stage}
    return 1e3 * sum(
        sample.value
        for sample in samples
        if sample.name == "splatstream_session_stage_seconds_sum" and sample.labels == wanted
    )


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
        weights=Path("packaged"),  # whose memory is corrected too
    )
    config = ServeConfig(
        ingest=free,
        updates=free,
        requests=free,
        session_dir=folder,
        session=session,
        viewer=ViewerConfig(enabled=False),
        metrics=MetricsConfig(port=0),
    )
    with DaemonProcess(config) as process:
        yield process


@contextmanager
def camera(process: DaemonProcess, what: Material) -> Iterator[Camera]:
    """One that goes on where the session stands."""
    with Client(
        process.addresses["ingest"],
        session=SESSION,
        cameras=lenses(what),
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
    took: dict[str, list[float]] = {name: [] for name in TIMES}
    # Above those of earlier runs with the same session.
    first = int(time.time())
    # As a process may that others wait for: Python's search for garbage would look at all of torch.
    begin()
    watcher, listener = Watcher(reader), Listener(process.addresses["updates"])
    with (
        filming.filming(options.fps),
        PoseClient(
            process.addresses["ingest"], SESSION, convention="opencv", timeout_s=60
        ) as back_end,
    ):
        for revision in range(options.repeats):
            time.sleep(1.0)
            corrected = bent(poses, 0.05 * (revision + 1))
            spent = {stage: stage_ms(process, stage) for stage in ("correction", "correct")}
            seen, heard = len(watcher.moves), len(listener.moves)
            began = time.perf_counter()
            answer = back_end.send_poses(first + revision, corrected, upto=max(corrected))
            took["to_answer"].append(1e3 * (time.perf_counter() - began))
            until(lambda n=seen: len(watcher.moves) > n, "the move")
            until(lambda n=heard: len(listener.moves) > n, "the move elsewhere")
            (arrived, chunks), *more = watcher.moves[seen:]
            # A chunk with refined splats that the publisher was too busy for goes with them.
            assert chunks <= answer.moved and not more, "a correction is one move, of all chunks"
            took["to_published"].append(1e3 * (listener.moves[heard] - began))
            took["to_applied"].append(1e3 * (arrived - began))
            for stage, before in spent.items():
                took[stage].append(stage_ms(process, stage) - before)
        status = asking.status(SESSION)
    watcher.close()
    listener.close()
    return {
        "frames": status.frames_in,
        "keyframes": status.keyframes,
        "splats": status.splats,
        "corrected": len(poses),
        "chunks_moved": answer.moved,
        "fps_meanwhile": options.fps,
        "batch_ms": round(status.batch_ms, 1),
        "ms": {name: figures(values) for name, values in took.items()},
    }

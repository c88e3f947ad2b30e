"""A real daemon as a user starts it, and a look at its processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import numpy as np
import zmq
from daemon_children import alive, children

LIMIT_S = 120.0


def wait_until(condition: Callable[[], object], what: str, limit: float = LIMIT_S) -> None:
    """Until ``condition()``, or fail."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit} s for: {what}"
        time.sleep(0.05)


def serve_command(session_dir: Path, *options: str) -> list[str]:
    """`splatstream serve` on free ports, with a page unless ``--no-viewer`` says otherwise."""
    free = "tcp://127.0.0.1:*"
    command = [sys.executable, "-c", "from streamer.cli import main; main()", "serve"]
    command += ["--ingest", free, "--updates", free, "--requests", free]
    return [*command, "--session-dir", str(session_dir), *options]


def daemon_environment(temporary: Path) -> dict[str, str]:
    """Own run folders, and no more threads than a test needs."""
    return {
        **os.environ,
        "TMPDIR": str(temporary),
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "2",
        "NUMBA_NUM_THREADS": "2",
    }


def run_serve(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A daemon that is to end by itself."""
    return subprocess.run(
        serve_command(tmp_path / "sessions", "--no-viewer", *options),
        capture_output=True,
        text=True,
        timeout=60,
        env=daemon_environment(tmp_path),
        check=False,
    )


class Daemon:
    """A running `splatstream serve` that does not refine: that takes every core between frames."""

    def __init__(self, *options: str) -> None:
        # Short, because ipc paths must be.
        self.folder = Path(tempfile.mkdtemp(prefix="sst-"))
        self.session_dir = self.folder / "sessions"
        self.log = (self.folder / "log").open("w")
        settings = self.folder / "serve.yaml"
        settings.write_text("{session: {refine: false}}")
        self.process = subprocess.Popen(
            serve_command(self.session_dir, "--config", str(settings), *options),
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=daemon_environment(self.folder),
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        assert self.ready_line.startswith("ready "), self.log_text()
        self.addresses = dict(
            re.findall(r"(ingest|updates|requests|viewer) (\S+)", self.ready_line)
        )

    def log_text(self) -> str:
        return (self.folder / "log").read_text()

    def children(self) -> dict[str, list[int]]:
        """Pids by module name."""
        return children(self.process.pid)

    def run_dirs(self) -> list[Path]:
        return sorted(self.folder.glob("splatstream-*"))

    def kill(self, role: str) -> None:
        """SIGKILL to the only process of a role, and wait until another one plays it."""
        (pid,) = self.children()[role]
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: self.children().get(role, [pid]) != [pid] and not alive(pid),
            f"another {role}",
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        shutil.rmtree(self.folder)


@contextmanager
def running_daemon(*options: str) -> Iterator[Daemon]:
    """A daemon for the time of a block."""
    daemon = Daemon(*options)
    try:
        yield daemon
    finally:
        daemon.close()


class Sender:
    """The wire protocol's sender in its shortest form."""

    def __init__(self, address: str, session: str) -> None:
        self.session, self.seq = session, 0
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def hello(self, *, resume: bool = False) -> dict[str, object]:
        """Say HELLO; the answer's header with its kind under `kind`."""
        camera = {"model": "PINHOLE", "width": 64, "height": 48, "params": [60, 60, 32, 24]}
        header = {
            "proto": [1, 0],
            "session": self.session,
            "client": "test",
            "cameras": {"front": camera},
            "convention": "opencv",
            "resume": resume,
        }
        self.socket.send_multipart([b"HELLO", msgpack.packb(header)])
        return self.answer({"WELCOME", "ERROR"})

    def send(self) -> None:
        """One frame of a textured scene, from a camera that moves to the right."""
        pose = np.eye(4)
        pose[0, 3] = 0.05 * self.seq
        rng = np.random.default_rng(0)
        texture = rng.integers(0, 255, (48, 128, 3), dtype=np.uint8)
        image = np.ascontiguousarray(texture[:, 2 * self.seq : 2 * self.seq + 64])
        header = {
            "seq": self.seq,
            "stamp_ns": 1_000_000_000 + self.seq,
            "camera": "front",
            "encoding": "rgb8",
            "width": 64,
            "height": 48,
            "pose": pose.reshape(-1).tolist(),
        }
        self.socket.send_multipart([b"FRAME", msgpack.packb(header), image.tobytes()])
        self.seq += 1

    def answer(self, kinds: set[str], limit: float = 30.0) -> dict[str, object]:
        """The next message of one of ``kinds``."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if self.socket.poll(100):
                kind, header = self.socket.recv_multipart()
                if kind.decode() in kinds:
                    return {"kind": kind.decode(), **msgpack.unpackb(header)}
        raise AssertionError(f"none of {kinds} in {limit} s")

    def close(self) -> None:
        self.socket.close()

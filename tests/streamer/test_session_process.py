"""The session's loop between sockets that play ingest and publisher: orders and corrections."""

from __future__ import annotations

import resource
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq
from engine_helpers import make_engine, office

from streamer.config import ServeConfig
from streamer.frames import Frame
from streamer.protocol import Message, decode, encode
from streamer.protocol.internal import Batch, BatchFrame, Counts, PosesDone, PosesForward
from streamer.protocol.limits import MAX_INTERNAL_PARTS
from streamer.protocol.links import Control, ControlDone
from streamer.session.corrections import rigid
from streamer.session.process import SessionProcess

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(300)

NAME = b"office"
LIMIT_MS = 120_000


class Daemon:
    """A session process in a thread, and the two ends it talks to."""

    def __init__(self, folder: Path, run_dir: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.ingest = self._bound(run_dir / "batches")
        self.publisher = self._bound(run_dir / "publish")
        self.engine, _ = make_engine(refine_enabled=False)
        config = ServeConfig(session_dir=folder)
        self.folder = folder / "office"
        self.process = SessionProcess(run_dir, config, "office", self.engine)
        self.thread = threading.Thread(target=self.process.run, daemon=True)
        self.thread.start()
        self.orders = 0

    def _bound(self, path: Path) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(f"ipc://{path}")
        return socket

    def until(self, socket: zmq.Socket[bytes], kind: bytes) -> Message:
        """The next message of a kind; others are passed over."""
        while True:
            assert socket.poll(LIMIT_MS), f"no {kind!r} came"
            message = decode(socket.recv_multipart()[1:], max_parts=MAX_INTERNAL_PARTS)
            if message.kind == kind:
                return message

    def order(self, op: str) -> ControlDone:
        self.orders += 1
        self.publisher.send_multipart([NAME, *encode(Control(op=op, id=self.orders))])
        done = self.until(self.publisher, ControlDone.KIND).read(ControlDone)
        assert done.id == self.orders
        return done

    def batch(self, frames: list[Frame]) -> None:
        entries = [
            BatchFrame(
                seq=frame.seq,
                stamp_ns=frame.stamp_ns,
                camera=frame.camera,
                width=frame.image.shape[1],
                height=frame.image.shape[0],
                K=frame.K.reshape(-1).tolist(),
                c2w=np.asarray(frame.c2w).reshape(-1).tolist(),
                received_ns=frame.received_ns,
            )
            for frame in frames
        ]
        header = Batch(epoch=1, frames=entries, counts=Counts(frames_in=len(frames)))
        images = [frame.image.tobytes() for frame in frames]
        self.ingest.send_multipart([NAME, *encode(header, *images)])

    def correct(self, correction: PosesForward) -> PosesDone:
        self.ingest.send_multipart([NAME, *encode(correction)])
        return self.until(self.ingest, PosesDone.KIND).read(PosesDone)

    def close(self) -> None:
        self.process.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.context.destroy(linger=0)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    # The path of an ipc socket may have 107 bytes.
    with tempfile.TemporaryDirectory() as run_dir:
        running = Daemon(tmp_path, Path(run_dir))
        for socket in (running.ingest, running.publisher):
            assert socket.poll(LIMIT_MS)
        yield running
        running.close()


def test_a_save_that_finds_a_full_disk_is_refused_and_the_session_lives(daemon: Daemon) -> None:
    daemon.batch(office(0, 2))
    assert daemon.order("save").ok
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        refused = daemon.order("save")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not refused.ok
    assert refused.code == "internal"
    assert refused.reason is not None
    assert "could not be written" in refused.reason
    assert daemon.order("save").ok
    assert sorted(path.name for path in (daemon.folder / "state").iterdir()) == ["0", "1"]


def test_waiting_frames_of_synchronised_cameras_follow_the_first_of_their_stamp(
    daemon: Daemon,
) -> None:
    stamps, cameras = [0, 0, 10, 10], ["left", "right"] * 2
    frames = [
        replace(frame, stamp_ns=stamp, camera=camera)
        for frame, stamp, camera in zip(office(0, 4), stamps, cameras)
    ]
    assert daemon.order("pause").ok
    daemon.batch(frames)
    motions = {}
    for stamp, seq in ((0, 0), (10, 2)):
        motion = np.eye(4)
        motion[:3, 3] = 1.0 + seq, -2.0, 0.5
        motions[stamp] = motion
    named = [(s, (motions[s] @ frames[q].c2w).reshape(-1).tolist()) for s, q in ((0, 0), (10, 2))]
    done = daemon.correct(
        PosesForward(revision=1, client="slam", entries=named, by="stamp", received_upto=3)
    )
    assert (done.code, done.unknown) == (None, [])
    assert daemon.order("resume").ok
    assert daemon.order("save").ok
    for frame in frames:
        pose = daemon.engine.trajectory.pose(frame.seq)
        assert np.allclose(rigid(pose), motions[frame.stamp_ns] @ frame.c2w, atol=1e-9)

"""A real ingest process, and the ends of its sockets: clients, a session and a supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from raw_client import WAIT_S, RawClient

from streamer.access.daemon import hand_out_own_keys
from streamer.config import ServeConfig
from streamer.config_files import config_from_mapping, write_run_config
from streamer.protocol import Header, Message, decode, encode
from streamer.protocol.internal import (
    Batch,
    NeedSession,
    PosesDone,
    PosesForward,
    Ready,
    ResetDone,
    SessionRefused,
    SessionStarted,
    State,
)
from streamer.protocol.limits import MAX_INTERNAL_PARTS
from streamer.protocol.links import EndSession

TELL_EVERY_S = 0.5
"""A session says what it wants again and again."""


@dataclass
class FakeSession:
    """The session's end of `batches`: a real DEALER that speaks the internal protocol."""

    address: str
    name: str = "kitchen"
    epoch: int = 1
    life: int = 1
    frames: list[dict[str, Any]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    parts: list[tuple[bytes, ...]] = field(default_factory=list)
    next_seq: int = 0
    socket: Any = None

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        """As a session's process does when it starts."""
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, self.name.encode())
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(self.address)

    def close(self) -> None:
        self.socket.close()

    def say(self, header: Header) -> None:
        self.socket.send_multipart(encode(header))

    def want(self, count: int, *, busy: bool = False) -> None:
        """STATE with this want."""
        self.say(
            State(
                session=self.name,
                epoch=self.epoch,
                life=self.life,
                next_seq=self.next_seq,
                want=count,
                batch=count or 4,
                done=0,
                busy=busy,
            )
        )

    def receive(self, *kinds: bytes, timeout_s: float = WAIT_S) -> Message:
        """The next message of these kinds; batches are noted."""
        until = time.monotonic() + timeout_s
        while self.socket.poll(max(0, int((until - time.monotonic()) * 1000))):
            message = decode(self.socket.recv_multipart(), max_parts=MAX_INTERNAL_PARTS)
            if message.kind == Batch.KIND:
                self._note(message)
            if message.kind in kinds:
                return message
        raise TimeoutError(f"no {kinds} within {timeout_s} s")

    def _note(self, message: Message) -> None:
        batch = message.read(Batch)
        self.batches.append(batch)
        self.parts.append(tuple(bytes(part) for part in message.parts))
        self.frames += [{"seq": f.seq, "c2w": f.c2w, "frame": f} for f in batch.frames]
        if batch.frames:
            self.next_seq = batch.frames[-1].seq + 1

    @property
    def seqs(self) -> list[int]:
        """Of all frames received so far."""
        return [entry["seq"] for entry in self.frames]

    def batch(self, count: int, timeout_s: float = WAIT_S) -> Batch:
        """Ask for `count` frames, as often as a session does, and take the batch that comes."""
        until = time.monotonic() + timeout_s
        while True:
            self.want(count)
            try:
                return self.receive(Batch.KIND, timeout_s=TELL_EVERY_S).read(Batch)
            except TimeoutError:
                if time.monotonic() >= until:
                    raise

    def take_until(self, seq: int) -> list[int]:
        """Take batches until the frame `seq` came; all seqs so far."""
        until = time.monotonic() + WAIT_S
        while seq not in self.seqs:
            assert time.monotonic() < until, f"frame {seq} never came, only {self.seqs}"
            self.batch(8)
        return self.seqs

    def answer_poses(
        self,
        moved: int,
        unknown: list[int] | None = None,
        timeout_s: float = WAIT_S,
        before: int | None = None,
    ) -> PosesForward:
        """Take a correction and say it is done, while the batch of frame `before` waits."""
        forward = self.receive(PosesForward.KIND, timeout_s=timeout_s).read(PosesForward)
        self.say(
            PosesDone(
                revision=forward.revision,
                client=forward.client,
                moved=moved,
                unknown=unknown or [],
                before=before,
            )
        )
        return forward

    def reset(self) -> None:
        """As after a RESET request."""
        self.epoch += 1
        self.next_seq = 0
        self.say(ResetDone(session=self.name, epoch=self.epoch))


class IngestHarness:
    """The process under test, with a supervisor's ROUTER beside it."""

    def __init__(self, run_dir: Path, config: ServeConfig) -> None:
        self.run_dir = run_dir
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.command = [sys.executable, "-m", "streamer.ingest"]
        self._peer = b""
        self._log = open(run_dir / "log.txt", "ab")  # noqa: SIM115
        self._control = zmq.Context.instance().socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 0)
        self._control.bind(f"ipc://{run_dir}/control")

    @property
    def batches(self) -> str:
        """Where sessions connect."""
        return f"ipc://{self.run_dir}/batches"

    @property
    def log(self) -> str:
        """What the process wrote so far."""
        return (self.run_dir / "log.txt").read_text()

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        write_run_config(self.config, self.run_dir)
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            [*self.command, "--run-dir", str(self.run_dir)],
            stdout=self._log,
            stderr=self._log,
            env=environment,
        )
        ready = self.order(Ready.KIND).read(Ready)
        self.address = ready.addresses["ingest"]
        # A successor binds the same port, as under the supervisor.
        self.config.ingest = self.address

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S)

    def stop(self) -> None:
        """SIGTERM, and the clean exit that must follow."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(WAIT_S) == 0, self.log
        self._log.close()
        self._control.close()

    def session_needed(self, name: str, timeout_s: float = WAIT_S) -> None:
        """Wait until the ingest asks for this session's process."""
        while self.order(NeedSession.KIND, timeout_s).read(NeedSession).session != name:
            pass

    def say(self, header: Header) -> None:
        """An order to the ingest."""
        self._control.send_multipart([self._peer, *encode(header)])

    def start_session(self, name: str = "kitchen", timeout_s: float = WAIT_S) -> FakeSession:
        """Grant the session that the ingest asks for."""
        self.session_needed(name, timeout_s)
        self.say(SessionStarted(session=name))
        return FakeSession(self.batches, name)

    def refuse_session(self, name: str = "kitchen") -> None:
        """Answer the request with `busy`."""
        self.session_needed(name)
        self.say(SessionRefused(session=name, code="busy", reason="4 sessions run already"))

    def session_ends(self, name: str = "kitchen", timeout_s: float = WAIT_S) -> None:
        """Wait until the ingest wants this session to end."""
        while self.order(EndSession.KIND, timeout_s).read(EndSession).session != name:
            pass

    def client(self) -> RawClient:
        return RawClient(self.address)

    def order(self, kind: bytes, timeout_s: float = WAIT_S) -> Message:
        """The next message of this kind to the supervisor; others are passed over."""
        until = time.monotonic() + timeout_s
        while self._control.poll(max(0, int((until - time.monotonic()) * 1000))):
            self._peer, *frames = self._control.recv_multipart()
            message = decode(frames)
            if message.kind == kind:
                return message
        raise TimeoutError(f"the ingest never said {kind.decode()}: {self.log}")


@contextmanager
def running_ingest(
    run_dir: Path,
    *,
    max_sessions: int = 4,
    keys: Path | None = None,
    journal: bool = True,
    session_idle_s: float = 0.0,
    segment_mb: int = 64,
    long_side: int = 64,
    command: Sequence[str] = (),
    **queue: Any,
) -> Iterator[IngestHarness]:
    """A started ingest on a free port; `queue` changes its settings, `keys` is a daemon's folder
    of keys, `command` takes the place of `python -m streamer.ingest` at the first start."""
    config = config_from_mapping(
        {
            "ingest": "tcp://127.0.0.1:*",
            "max_sessions": max_sessions,
            "session_idle_s": session_idle_s,
            "session_dir": str(run_dir / "sessions"),
            "journal": {"enabled": journal, "segment_mb": segment_mb},
            "ingest_queue": queue,
            "keys": None if keys is None else str(keys),
            "session": {"long_side": long_side},
        }
    )
    harness = IngestHarness(run_dir, config)
    usual, harness.command = harness.command, list(command) or harness.command
    if keys is not None:
        hand_out_own_keys(keys, run_dir)
    try:
        harness.start()
        harness.command = usual
        yield harness
    finally:
        harness.stop()

"""Many synthetic clients against a daemon: real encoded frames with poses, sent on time.

One thread drives all clients, each a socket and a session of its own, by the wire protocol as any
program would. A frame is due at its time whatever became of those before it, so that a daemon
which is too slow shows as frames that are late or skipped, never as a slower clock.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import zmq

from streamer.access import ClientKeys
from streamer.access.handshakes import HandshakeWatch
from streamer.addresses import connect
from streamer.client.errors import ConnectionLostError, refusal
from streamer.protocol import PROTO_VERSION, Header, decode, encode
from streamer.protocol.messages import (
    Ack,
    Bye,
    CameraHeader,
    Error,
    FrameHeader,
    Hello,
    Policy,
    Reject,
    Welcome,
)
from streamer.sources import Capture, CaptureError

WELCOME_S = 10.0
SETTLE_S = 10.0
"""After the last frame so long is waited for verdicts."""
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 90]


@dataclass(frozen=True, slots=True)
class LoadFrame:
    """A picture as it is sent: JPEG bytes of one camera, and its pose (4, 4), OpenCV axes."""

    jpeg: bytes
    camera: str
    width: int
    height: int
    c2w: np.ndarray


@dataclass(frozen=True, slots=True)
class Material:
    """What all clients send, over and over."""

    frames: Sequence[LoadFrame]
    cameras: dict[str, CameraHeader]

    def pose(self, number: int) -> np.ndarray:
        """(4, 4) of the client's frame `number`: every round through the pictures is made in a
        place of its own, so that the map and its key frames go on growing.
        """
        round_, index = divmod(number, len(self.frames))
        places = np.array([frame.c2w[:3, 3] for frame in self.frames])
        pose = self.frames[index].c2w.copy()
        pose[0, 3] += round_ * (np.ptp(places[:, 0]) + 5.0)
        return pose


@dataclass(slots=True)
class ClientResult:
    """What became of one client's frames; `ack_ms` runs from a frame's sending to its ACK."""

    session: str
    due: int = 0
    sent: int = 0
    late: int = 0
    """Sent more than one frame time after they were due: the credit had run out."""
    skipped: int = 0
    """Live policy: never sent, because a newer one was due when there was credit again."""
    acked: int = 0
    dropped: int = 0
    """Live policy: discarded by the daemon."""
    rejected: Counter[str] = field(default_factory=Counter)
    ack_ms: list[float] = field(default_factory=list)


def material(capture: Capture, *, count: int = 60, long_side: int | None = None) -> Material:
    """The first `count` pictures of a capture as JPEGs, scaled to a long side where one is given.

    Raises:
        CaptureError: a capture whose every frame has intrinsics of its own.
    """
    frames: list[LoadFrame] = []
    cameras: dict[str, CameraHeader] = {}
    for frame in [frame for frame in capture.frames if frame.params is None][:count]:
        image = cv2.imread(str(frame.image_path), cv2.IMREAD_COLOR)
        if image is None:
            raise CaptureError(f"{frame.image_path}: does not decode as an image")
        if long_side is not None:
            scale = long_side / max(image.shape[:2])
            image = cv2.resize(image, None, fx=scale, fy=scale)
        height, width = image.shape[:2]
        jpeg = cv2.imencode(".jpg", image, _QUALITY)[1].tobytes()
        frames.append(LoadFrame(jpeg, frame.camera, width, height, frame.c2w))
        camera = capture.cameras[frame.camera].scaled(width, height)
        cameras.setdefault(frame.camera, CameraHeader(**camera.to_header()))
    if not frames:
        raise CaptureError(f"{capture.name}: no frame has the intrinsics of its camera")
    return Material(frames, cameras)


class LoadClient:
    """One client: greets, sends what is due within its credit, notes the verdicts."""

    def __init__(
        self,
        address: str,
        session: str,
        what: Material,
        *,
        fps: float,
        policy: Policy,
        dropped_before: int = 0,
        keys: ClientKeys | None = None,
    ) -> None:
        self.result = ClientResult(session)
        self._material = what
        self._period = 1.0 / fps
        self._live = policy == "live"
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 500)
        self._watch = HandshakeWatch(self.socket, keys)
        connect(self.socket, address, keys)
        self._say(
            Hello(
                proto=PROTO_VERSION,
                session=session,
                client=session,
                cameras=what.cameras,
                convention="opencv",
                policy=policy,
                # A second run goes on in the sessions of the first: a daemon ends none.
                resume=True,
            )
        )
        self.welcome: Welcome | None = None
        self._next, self._limit = 0, -1
        self._dropped_before = dropped_before
        self._numbers: deque[int] = deque()
        self._sent: dict[int, tuple[int, float]] = {}
        self._again: deque[int] = deque()

    @property
    def settled(self) -> bool:
        """Whether every frame that was sent has its verdict."""
        return not self._sent

    @property
    def refused(self) -> bool:
        """Whether the daemon does not let this client in at all."""
        return self._watch.refused()

    @property
    def trouble(self) -> str | None:
        """Why the handshake fails and what to check, where that is known."""
        return self._watch.trouble()

    def pump(self, elapsed: float) -> None:
        """Send what is due `elapsed` seconds into the run."""
        while self.result.due * self._period <= elapsed:
            self._numbers.append(self.result.due)
            self.result.due += 1
        while self._live and len(self._numbers) > 1:
            self._numbers.popleft()
            self.result.skipped += 1
        while self._next <= self._limit and (self._again or self._numbers):
            number = self._again.popleft() if self._again else self._numbers.popleft()
            if elapsed > (number + 1) * self._period:
                self.result.late += 1
            self._send(number)

    def receive(self) -> None:
        """Take what the daemon said.

        Raises:
            RefusedError: the daemon does not take this client, or no longer.
        """
        while True:
            try:
                message = decode(self.socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            if message.kind == Welcome.KIND:
                self.welcome = message.read(Welcome)
                self._next = self.welcome.next_seq
                self._limit = self._next - 1 + self.welcome.credit
            elif message.kind == Ack.KIND:
                self._acked(message.read(Ack))
            elif message.kind == Reject.KIND:
                self._rejected(message.read(Reject))
            elif message.kind == Error.KIND:
                error = message.read(Error)
                raise refusal(error.code, error.reason)

    def close(self) -> None:
        """Say BYE."""
        self._say(Bye())
        self._watch.close()
        self.socket.close()

    def _send(self, number: int) -> None:
        frame = self._material.frames[number % len(self._material.frames)]
        header = FrameHeader(
            seq=self._next,
            stamp_ns=time.time_ns(),
            camera=frame.camera,
            encoding="jpeg",
            width=frame.width,
            height=frame.height,
            pose=self._material.pose(number).reshape(-1).tolist(),
        )
        self.socket.send_multipart(encode(header, frame.jpeg))
        self._sent[self._next] = (number, time.perf_counter())
        self._next += 1
        self.result.sent += 1

    def _acked(self, ack: Ack) -> None:
        now = time.perf_counter()
        for seq in [seq for seq in self._sent if seq <= ack.seq]:
            self.result.ack_ms.append((now - self._sent.pop(seq)[1]) * 1e3)
            self.result.acked += 1
        self._limit = ack.seq + ack.credit
        self.result.dropped = ack.dropped - self._dropped_before

    def _rejected(self, reject: Reject) -> None:
        self.result.rejected[reject.code] += 1
        number, _ = self._sent.pop(reject.seq, (None, 0.0))
        if reject.code in ("no_credit", "busy") and number is not None:
            # Not settled: the same seq once more, and with it all behind it.
            behind = [seq for seq in sorted(self._sent) if seq > reject.seq]
            self._again.extend([number, *(self._sent.pop(seq)[0] for seq in behind)])
            self.result.sent -= 1 + len(behind)
            self._next, self._limit = reject.seq, reject.seq - 1

    def _say(self, header: Header) -> None:
        # Who was refused has nobody to send to; what it lacks shows as a greeting that stays away.
        self._watch.send(encode(header))


def run_load(clients: Sequence[LoadClient], *, seconds: float, address: str) -> float:
    """Drive all clients for a time, then wait for their verdicts; returns the seconds until the
    last one was in.

    Raises:
        ConnectionLostError: the daemon does not greet all of them.
        RefusedError: it refuses one.
    """
    poller = zmq.Poller()
    for client in clients:
        poller.register(client.socket, zmq.POLLIN)

    def turn(timeout_s: float) -> None:
        poller.poll(max(0, int(timeout_s * 1e3)))
        for client in clients:
            client.receive()

    until = time.perf_counter() + WELCOME_S
    while not all(map(_greeted, clients)):
        if time.perf_counter() > until or any(client.refused for client in clients):
            raise ConnectionLostError(
                f"the daemon at {address} greeted {sum(map(_greeted, clients))} of "
                f"{len(clients)} clients: {_what_to_check(clients)}"
            )
        turn(0.1)
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for client in clients:
            client.pump(elapsed)
        turn(0.005)
    while time.perf_counter() - start < seconds + SETTLE_S:
        if all(client.settled for client in clients):
            break
        turn(0.02)
    return time.perf_counter() - start


def _greeted(client: LoadClient) -> bool:
    return client.welcome is not None


def _what_to_check(clients: Sequence[LoadClient]) -> str:
    troubles = [trouble for client in clients if (trouble := client.trouble)]
    if troubles:
        return troubles[0]
    return f"nothing came within {WELCOME_S:g} s: is it running, and is this its ingest address?"

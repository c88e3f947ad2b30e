"""A sender written with pyzmq and msgpack alone, and the messages that it sends."""

from __future__ import annotations

import time
from typing import Any

import cv2
import msgpack
import numpy as np
import zmq

WAIT_S = 20.0
WIDTH, HEIGHT = 64, 48
CAMERA = {"model": "PINHOLE", "width": WIDTH, "height": HEIGHT, "params": [50.0, 50.0, 32.0, 24.0]}
EYE = np.eye(4).reshape(-1).tolist()


def picture(seq: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(H, W, 3) uint8, another one for every seq."""
    ramp = np.linspace(0, 200, width, dtype=np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()
    image[..., 2] = seq * 20 % 250
    return image


def jpeg(seq: int = 0, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG of `picture`."""
    bgr = np.ascontiguousarray(picture(seq, width, height)[..., ::-1])
    return cv2.imencode(".jpg", bgr)[1].tobytes()


def hello(session: str = "kitchen", client: str = "robot", **changes: Any) -> dict[str, Any]:
    """A good HELLO header; a change to None removes the key."""
    header = {
        "proto": [1, 0],
        "session": session,
        "client": client,
        "cameras": {"front": CAMERA},
        "convention": "opencv",
        **changes,
    }
    return {key: value for key, value in header.items() if value is not None}


def frame(seq: int, **changes: Any) -> dict[str, Any]:
    """A good FRAME header; a change to None removes the key."""
    header = {
        "seq": seq,
        "stamp_ns": 1_700_000_000_000_000_000 + seq * 33_000_000,
        "camera": "front",
        "encoding": "jpeg",
        "width": WIDTH,
        "height": HEIGHT,
        "pose": EYE,
        **changes,
    }
    return {key: value for key, value in header.items() if value is not None}


class RawClient:
    """pyzmq and msgpack, nothing of ours: what another program would be."""

    def __init__(self, address: str, curve: tuple[bytes, bytes, bytes] | None = None) -> None:
        """`curve`: own public and secret key, and the daemon's public one."""
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if curve is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = curve[:2]
            self.socket.curve_serverkey = curve[2]
        self.socket.connect(address)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, kind: str, header: dict[str, Any] | bytes | None = None, *parts: bytes) -> None:
        """`header` as bytes is sent as it is."""
        packed = header if isinstance(header, bytes) else msgpack.packb(header or {})
        self.socket.send_multipart([kind.encode(), packed, *parts])

    def receive(self, *kinds: str, timeout_s: float = WAIT_S) -> tuple[str, dict[str, Any]]:
        """The next message, or the next one of these kinds."""
        until = time.monotonic() + timeout_s
        while self.socket.poll(max(0, int((until - time.monotonic()) * 1000))):
            kind, header, *_ = self.socket.recv_multipart()
            if not kinds or kind.decode() in kinds:
                return kind.decode(), msgpack.unpackb(header)
        raise TimeoutError(f"no {kinds or 'message'} within {timeout_s} s")

    def silent(self, timeout_s: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        return not self.socket.poll(int(timeout_s * 1000))

    def greet(self, **changes: Any) -> dict[str, Any]:
        """HELLO, and the WELCOME that must answer it."""
        self.send("HELLO", hello(**changes))
        kind, header = self.receive("WELCOME", "ERROR")
        assert kind == "WELCOME", header
        return header

    def refused(self, **changes: Any) -> dict[str, Any]:
        """HELLO, and the ERROR that must answer it."""
        self.send("HELLO", hello(**changes))
        kind, header = self.receive("WELCOME", "ERROR")
        assert kind == "ERROR", (kind, header)
        return header

    def send_frame(self, seq: int, part: bytes | None = None, **changes: Any) -> None:
        """A good FRAME but for `changes`."""
        self.send("FRAME", frame(seq, **changes), jpeg(seq) if part is None else part)

    def acked(self, seq: int) -> dict[str, Any]:
        """Wait until everything up to `seq` is settled."""
        while True:
            kind, header = self.receive("ACK", "ERROR")
            assert kind == "ACK", header
            if header["seq"] >= seq:
                return header

"""A real publisher process, and a session's voice that feeds it over the internal link."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zmq

from gs_decoder import Update
from streamer.control import PUBLISH, ipc_address
from streamer.protocol import Header, Message, decode, encode
from streamer.protocol.links import (
    Control,
    ControlDone,
    Keyframes,
    Resync,
    SessionHello,
    SyncBegin,
    SyncEnd,
)
from streamer.protocol.requests import KeyframeEntry
from streamer.protocol.update_headers import LatencyMs, StatusHeader
from streamer.protocol.updates import encode_update


class SessionVoice:
    """Says what a session says. Call `pump` often enough to answer the publisher."""

    def __init__(self, run_dir: Path, session: str) -> None:
        self.session = session
        self.epoch = 0
        self.seq = 0
        self.orders: list[str] = []
        self.status: dict[str, object] = {}
        self.replay: Callable[[], Sequence[Update]] = list
        self._keyframes: list[tuple[KeyframeEntry, bytes]] = []
        self._said_hello = 0.0
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, session.encode())
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(ipc_address(run_dir, PUBLISH))

    def begin(self, replay: Callable[[], Sequence[Update]]) -> None:
        """A new epoch; `replay` gives the updates of the whole map when they are asked for."""
        self.epoch, self.seq, self.replay = self.epoch + 1, 0, replay
        self._keyframes.clear()
        self.say_status(state="waiting")
        self._hello()

    def publish(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self.seq += 1
            self._socket.send_multipart(
                encode_update(update, session=self.session, epoch=self.epoch, seq=self.seq)
            )
        self.pump()

    def say_keyframe(self, seq: int, c2w: np.ndarray, chunk: int | None, thumbnail: bytes) -> None:
        entry = KeyframeEntry(
            seq=seq,
            stamp_ns=seq * 100_000_000,
            camera="front",
            chunk=chunk,
            c2w=c2w.ravel().tolist(),
        )
        self._keyframes.append((entry, thumbnail))
        self._send(Keyframes(add=[entry]), thumbnail)

    def say_status(self, **fields: object) -> None:
        self.status = {"latency_ms": LatencyMs(p50=412.0, p95=803.0), "batch_ms": 310.0, **fields}
        self._send_status()

    def pump(self, seconds: float = 0.0) -> None:
        """Answer what the publisher wants, for so long."""
        end = time.monotonic() + seconds
        while True:
            if time.monotonic() - self._said_hello > 0.5:
                self._hello()
                self._send_status()
            while self._socket.poll(20 if time.monotonic() < end else 0):
                self._answer(decode(self._socket.recv_multipart()))
            if time.monotonic() >= end:
                return

    def close(self) -> None:
        self._socket.close()

    def _answer(self, message: Message) -> None:
        if message.kind == Resync.KIND:
            self._send(SyncBegin(seq=self.seq))
            for entry, thumbnail in self._keyframes:
                self._send(Keyframes(add=[entry]), thumbnail)
            for update in self.replay():
                self._socket.send_multipart(
                    encode_update(update, session=self.session, epoch=self.epoch, seq=self.seq)
                )
            self._send(SyncEnd(seq=self.seq))
            self._send_status()
        elif message.kind == Control.KIND:
            control = message.read(Control)
            self.orders.append(control.op)
            if control.op in ("pause", "resume"):
                self.status["state"] = "paused" if control.op == "pause" else "streaming"
                self._send_status()
            self._send(ControlDone(id=control.id, ok=True))

    def _hello(self) -> None:
        self._said_hello = time.monotonic()
        self._send(SessionHello(session=self.session, epoch=self.epoch, seq=self.seq))

    def _send_status(self) -> None:
        if self.epoch:
            self._send(
                StatusHeader(session=self.session, epoch=self.epoch, seq=self.seq, **self.status)
            )

    def _send(self, header: Header, *parts: bytes) -> None:
        self._socket.send_multipart(encode(header, *parts))

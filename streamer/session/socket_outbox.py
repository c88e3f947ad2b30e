"""An engine's results on their way to the publisher, numbered as the wire protocol says."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from gs_decoder import ChunkUpdate, ResetUpdate, Update
from streamer.metrics.instruments import SessionInstruments
from streamer.protocol.internal import Counts
from streamer.protocol.links import (
    Keyframes,
    KeyframesMoved,
    SessionHello,
    SyncBegin,
    SyncEnd,
)
from streamer.protocol.requests import KeyframeEntry
from streamer.protocol.update_headers import LatencyMs, StatusHeader
from streamer.protocol.updates import encode_update
from streamer.protocol.wire import Buffer, encode
from streamer.session.engine import Engine
from streamer.session.outbox import Keyframe, Outbox, SessionStatus

log = logging.getLogger(__name__)
Float64 = NDArray[np.float64]

_KEYFRAMES_AT_ONCE = 1024
"""Key frames in one message: a header has its limit."""


class SocketOutbox(Outbox):
    """Sends an engine's results to the publisher, numbering them (wire protocol, section 2)."""

    def __init__(self, socket: zmq.Socket[bytes], session: str, epoch: int) -> None:
        self._socket = socket
        self._session = session
        self.epoch = epoch
        self.seq = 0
        self._instruments = SessionInstruments(session)

    def updates(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self.seq += 1
            self.send(self._encode(update))

    def keyframes(self, added: Sequence[Keyframe]) -> None:
        for start in range(0, len(added), _KEYFRAMES_AT_ONCE):
            some = added[start : start + _KEYFRAMES_AT_ONCE]
            entries = [
                KeyframeEntry(
                    seq=frame.seq,
                    stamp_ns=frame.stamp_ns,
                    camera=frame.camera,
                    chunk=frame.chunk,
                    c2w=_flat(frame.c2w),
                )
                for frame in some
            ]
            self.send(encode(Keyframes(add=entries), *[frame.thumbnail for frame in some]))

    def keyframes_moved(self, poses: Mapping[int, Float64]) -> None:
        self.send(encode(KeyframesMoved(c2w=[(s, _flat(pose)) for s, pose in poses.items()])))

    def took(self, stage: str, seconds: float) -> None:
        self._instruments.took(stage, seconds)

    def latency(self, seconds: float) -> None:
        self._instruments.latency(seconds)

    def hello(self) -> None:
        self.send(encode(SessionHello(session=self._session, epoch=self.epoch, seq=self.seq)))

    def status(self, status: SessionStatus, counts: Counts, state: str) -> None:
        """Figures of the session; whatever is not done yet waits in the ingest."""
        latency = status.latency_ms
        header = StatusHeader(
            session=self._session,
            epoch=self.epoch,
            seq=self.seq,
            frames_in=counts.frames_in,
            frames_done=max(0, counts.frames_in - counts.waiting - counts.dropped),
            frames_waiting=counts.waiting,
            frames_dropped=counts.dropped,
            frames_rejected=counts.rejected,
            keyframes=status.keyframes,
            splats=status.splats,
            splats_ready=status.splats_ready,
            splats_on_disk=status.splats_on_disk,
            batch_ms=status.batch_ms,
            latency_ms=None if latency is None else LatencyMs(p50=latency[0], p95=latency[1]),
            psnr=status.psnr,
            state=state,
            durable=counts.durable,
            model=status.model,
        )
        self.send(encode(header))

    def begin(self, epoch: int) -> None:
        """A new epoch: whoever listens forgets everything."""
        self.epoch, self.seq = epoch, 0
        self.hello()
        self.updates([ResetUpdate()])

    def go_on(self, seq: int) -> None:
        """Another process of the same epoch: whoever listens finds out what it lacks."""
        self.seq = seq
        self.hello()

    def everything(self, engine: Engine) -> None:
        """Key frames and chunks whole, for a publisher that lost them."""
        self.hello()
        self.send(encode(SyncBegin(seq=self.seq)))
        self.keyframes(list(engine.keyframes.values()))
        updates = engine.map.snapshot()
        for update in updates:
            assert isinstance(update, ChunkUpdate), "a snapshot for nobody's `have` holds chunks"
            self.send(self._encode(update))
        self.send(encode(SyncEnd(seq=self.seq, chunks=len(updates))))

    def send(self, message: Sequence[Buffer]) -> None:
        try:
            self._socket.send_multipart(message, zmq.DONTWAIT, copy=False)
        except zmq.Again:
            # The publisher is away or far behind; it sees the gap and asks for everything.
            log.debug("the publisher takes nothing at the moment")

    def _encode(self, update: Update) -> Sequence[Buffer]:
        return encode_update(update, session=self._session, epoch=self.epoch, seq=self.seq)


def publish_socket(
    context: zmq.Context[zmq.Socket[bytes]], run_dir: Path, session: str
) -> zmq.Socket[bytes]:
    """A session's socket to the publisher of the daemon that owns `run_dir`."""
    return dealer(context, f"ipc://{run_dir}/publish", session)


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: str, session: str
) -> zmq.Socket[bytes]:
    """A session's socket to one of the daemon's processes: it has the session's name."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, session.encode())
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.SNDHWM, 4000)
    socket.setsockopt(zmq.RCVHWM, 4000)
    socket.connect(address)
    return socket


def _flat(matrix: Float64) -> list[float]:
    return matrix.reshape(-1).tolist()

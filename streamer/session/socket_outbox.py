"""An engine's results on their way to the publisher, numbered as the wire protocol says."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from gs_decoder import ChunkUpdate, DropUpdate, MoveUpdate, ResetUpdate, Update
from streamer.control import PUBLISH_HWM
from streamer.metrics.instruments import SessionInstruments
from streamer.protocol.internal import Counts
from streamer.protocol.limits import ENTRIES_PER_MESSAGE
from streamer.protocol.links import (
    Keyframes,
    KeyframesMoved,
    SessionHello,
    SyncBegin,
    SyncEnd,
)
from streamer.protocol.update_headers import LatencyMs, StatusHeader
from streamer.protocol.updates import encode_update
from streamer.protocol.wire import Buffer, encode
from streamer.session.engine import Engine
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.outbox import Keyframe, Outbox, SessionStatus

log = logging.getLogger(__name__)
Float64 = NDArray[np.float64]

_KEYFRAMES_AT_ONCE = 1024
"""Key frames in one message: a header has its limit."""
_MOST_WAITING = 4096
"""Messages, drains of the map and the like that wait for a publisher which takes nothing."""


class SocketOutbox(Outbox):
    """Sends an engine's results to the publisher, numbering them (wire protocol, section 2)."""

    def __init__(self, socket: zmq.Socket[bytes], session: str, epoch: int) -> None:
        self._socket = socket
        self._session = session
        self.epoch = epoch
        self.seq = 0
        self._waiting: deque[Iterator[Sequence[Buffer]]] = deque()
        self._refused: Sequence[Buffer] | None = None
        """A message that the socket did not take; it goes first."""
        self._syncing = False
        self._instruments = SessionInstruments(session)

    @property
    def ready(self) -> bool:
        """Whether everything has gone to the publisher; tries to send what has not."""
        while (message := self._next()) is not None:
            try:
                self._socket.send_multipart(message, zmq.DONTWAIT, copy=False)
            except zmq.Again:
                self._refused = message
                return False
        return True

    def flush(self, seconds: float) -> None:
        """Wait until everything has gone, but no longer than that."""
        until = time.monotonic() + seconds
        while not self.ready and (left := until - time.monotonic()) > 0:
            self._socket.poll(int(1e3 * left) + 1, zmq.POLLOUT)

    def updates(self, updates: Sequence[Update]) -> None:
        first, pieces = self.seq + 1, list(_in_pieces(updates))
        self.seq += len(pieces)
        self._queue(self._encode(update, first + place) for place, update in enumerate(pieces))

    def keyframes(self, added: Sequence[Keyframe]) -> None:
        self._queue(_described(added))

    def keyframes_moved(self, poses: Mapping[int, Float64]) -> None:
        moved = [(seq, pose.reshape(-1).tolist()) for seq, pose in poses.items()]
        for start in range(0, len(moved), ENTRIES_PER_MESSAGE):
            self.send(encode(KeyframesMoved(c2w=moved[start : start + ENTRIES_PER_MESSAGE])))

    def took(self, stage: str, seconds: float) -> None:
        self._instruments.took(stage, seconds)

    def latency(self, seconds: float) -> None:
        self._instruments.latency(seconds)

    def hello(self) -> None:
        """Where the session stands; said again soon, so that it need not wait behind others."""
        if self.ready:
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
            keyframe_side=status.keyframe_side,
            batch_ms=status.batch_ms,
            latency_ms=None if latency is None else LatencyMs(p50=latency[0], p95=latency[1]),
            psnr=status.psnr,
            state=state,
            durable=counts.durable,
            model=status.model,
        )
        if self.ready:
            # Figures that come late are of no use.
            self.send(encode(header))

    def begin(self, epoch: int) -> None:
        """A new epoch: whoever listens forgets everything."""
        self._forget()
        self.epoch, self.seq = epoch, 0
        self.hello()
        self.updates([ResetUpdate()])

    def go_on(self, seq: int) -> None:
        """Another process of the same epoch: whoever listens finds out what it lacks."""
        self.seq = seq
        self.hello()

    def everything(self, engine: Engine) -> None:
        """Key frames and chunks whole, for a publisher that lost them."""
        if self._syncing:
            return
        self.hello()
        self._syncing = True
        self._queue(self._sync(engine.keyframes.copy(), engine.map.snapshot(), self.seq))

    def send(self, message: Sequence[Buffer]) -> None:
        """One message, behind those that wait."""
        self._queue([message])

    def _sync(
        self, keyframes: KeyframeTable, updates: Sequence[Update], seq: int
    ) -> Iterator[Sequence[Buffer]]:
        yield encode(SyncBegin(seq=seq))
        for start in range(0, len(keyframes), _KEYFRAMES_AT_ONCE):
            yield from _described(keyframes.slice(start, start + _KEYFRAMES_AT_ONCE))
        for update in updates:
            assert isinstance(update, ChunkUpdate), "a snapshot for nobody's `have` holds chunks"
            yield self._encode(update, seq)
        self._syncing = False
        yield encode(SyncEnd(seq=seq, chunks=len(updates)))

    def _queue(self, messages: Iterable[Sequence[Buffer]]) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            # A publisher that is away for so long is told everything when it is back: it sees a
            # number that is missing, and asks.
            log.warning("the publisher takes nothing: it will be told everything later")
            self._forget()
            self.seq += 1
        self._waiting.append(iter(messages))
        # Sends what can be.
        _ = self.ready

    def _next(self) -> Sequence[Buffer] | None:
        message, self._refused = self._refused, None
        while message is None and self._waiting:
            message = next(self._waiting[0], None)
            if message is None:
                self._waiting.popleft()
        return message

    def _forget(self) -> None:
        self._waiting.clear()
        self._refused, self._syncing = None, False

    def _encode(self, update: Update, seq: int) -> Sequence[Buffer]:
        return encode_update(update, session=self._session, epoch=self.epoch, seq=seq)


def _in_pieces(updates: Iterable[Update]) -> Iterator[Update]:
    """A header has its limit."""
    for update in updates:
        if isinstance(update, MoveUpdate):
            for start in range(0, len(update.moves), ENTRIES_PER_MESSAGE):
                yield MoveUpdate(update.moves[start : start + ENTRIES_PER_MESSAGE])
        elif isinstance(update, DropUpdate):
            for start in range(0, len(update.chunks), ENTRIES_PER_MESSAGE):
                yield DropUpdate(update.chunks[start : start + ENTRIES_PER_MESSAGE])
        else:
            yield update


def _described(keyframes: Sequence[Keyframe]) -> Iterator[Sequence[Buffer]]:
    for start in range(0, len(keyframes), _KEYFRAMES_AT_ONCE):
        some = keyframes[start : start + _KEYFRAMES_AT_ONCE]
        entries = [frame.entry() for frame in some]
        yield encode(Keyframes(add=entries), *[frame.thumbnail for frame in some])


def publish_socket(
    context: zmq.Context[zmq.Socket[bytes]], run_dir: Path, session: str
) -> zmq.Socket[bytes]:
    """A session's socket to the publisher of the daemon that owns `run_dir`."""
    return dealer(context, f"ipc://{run_dir}/publish", session, hwm=PUBLISH_HWM)


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: str, session: str, *, hwm: int = 4000
) -> zmq.Socket[bytes]:
    """A session's socket to one of the daemon's processes: it has the session's name."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, session.encode())
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.connect(address)
    return socket

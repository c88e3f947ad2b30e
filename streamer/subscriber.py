"""A live copy of a session's map.

The Clone pattern of the ZeroMQ guide: subscribe, ask for a snapshot with what one has, apply it,
then apply the updates after its ``seq``. A step in ``seq`` means that something was missed (a slow
reader, a broken line), and the same repairs it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy.typing as npt
import zmq

from gs_decoder import (
    ChunkUpdate,
    DropUpdate,
    MapMirror,
    MoveUpdate,
    ResetUpdate,
    Splats,
    Update,
)
from streamer.access import ClientKeys
from streamer.access.handshakes import HandshakeWatch
from streamer.addresses import connect, neighbour
from streamer.protocol import Buffer, ProtocolError
from streamer.protocol.requests import Have
from streamer.protocol.update_headers import (
    COUNTED,
    DAEMON_HEARTBEAT_TOPIC,
    StatusHeader,
    UpdateHeader,
)
from streamer.protocol.updates import UpdateMessage, decode_update
from streamer.requests import DEFAULT_REQUESTS, KeyFrame, Requests
from streamer.snapshots import SnapshotReader

if TYPE_CHECKING:
    from gs_decoder import Render

logger = logging.getLogger(__name__)

DEFAULT_UPDATES = "tcp://127.0.0.1:5556"
MAX_HELD_BYTES = 64 << 20
"""Of updates kept while a snapshot is on its way; more show as a gap and are repaired again."""
AWAY_S = 4.0
"""Silence after which the daemon counts as away: it says something every second."""
CONNECT_AGAIN_S = 2.0
_BURST = 256

_NAMES: dict[type, str] = {
    ChunkUpdate: "chunk",
    MoveUpdate: "move",
    DropUpdate: "drop",
    ResetUpdate: "reset",
}


@dataclass(frozen=True, slots=True)
class Change:
    """Something that :meth:`Subscriber.poll` applied."""

    kind: str
    """``chunk``, ``move``, ``drop``, ``reset``, or ``status`` for new counters."""
    chunks: frozenset[int] = frozenset()
    """Ids of the chunks that it added, changed or removed."""


class Subscriber:
    """Keeps :attr:`mirror` equal to a session's map. One thread; a context manager.

    Args:
        updates: the daemon's updates address.
        requests: its requests address; None: one port above the updates address.
        session: name of the session; None: the first one that is heard of.
        max_splats: snapshots are cut to so many splats, and :meth:`splats_world` is.
        codec: ``f32``, exact, or ``f16``, half the bytes for snapshots.
        hwm: updates that may wait in the socket between two polls.
        keys: for a daemon that has keys.
    """

    def __init__(
        self,
        updates: str = DEFAULT_UPDATES,
        requests: str | None = None,
        session: str | None = None,
        *,
        max_splats: int | None = None,
        codec: str = "f32",
        hwm: int = 256,
        keys: ClientKeys | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        if codec not in ("f32", "f16"):
            raise ValueError(f"codec: {codec!r} is not 'f32' or 'f16'")
        if requests is None:
            requests = DEFAULT_REQUESTS if updates == DEFAULT_UPDATES else neighbour(updates, 1)
        self.updates = updates
        self.requests = requests
        self.session = session
        self.max_splats = max_splats
        self.mirror = MapMirror()
        self.epoch = 0
        self.seq = 0
        self.synced = False
        """Whether the mirror holds everything that the daemon is known to have published."""
        self.snapshots = 0
        """How many were applied: one for joining late, one for every gap."""
        self.status: StatusHeader | None = None
        self._held: list[tuple[UpdateMessage, int]] = []
        self._held_bytes = 0
        self._last_heard = float("-inf")
        context = context or zmq.Context.instance()
        self._context = context
        self._keys = keys
        self._reader = SnapshotReader(
            requests, context, codec=codec, max_splats=max_splats, keys=keys
        )
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, hwm)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        prefix = b"/" if session is None else f"/{session}/".encode()
        for subscription in (prefix, DAEMON_HEARTBEAT_TOPIC):
            self._socket.setsockopt(zmq.SUBSCRIBE, subscription)
        self.trouble: str | None = None
        """Why the daemon is not heard and what to check, where that is known (keys)."""
        self._watch = HandshakeWatch(self._socket, keys)
        self._connect_again_at = math.inf
        connect(self._socket, updates, keys)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)

    @property
    def connected(self) -> bool:
        """Whether the daemon was heard in the last seconds (only :meth:`poll` listens)."""
        return time.monotonic() - self._last_heard < AWAY_S

    def poll(self, timeout: float = 0.0) -> list[Change]:
        """Wait up to ``timeout`` seconds for news, apply what there is, say what changed."""
        deadline = time.monotonic() + timeout
        while True:
            changes = self._advance()
            left = deadline - time.monotonic()
            if changes or left <= 0:
                return changes
            # Woken now and then for the snapshot that is to be asked for, or asked for again.
            self._wait(min(left, 0.1))

    def splats_world(self, *, origin: npt.ArrayLike | None = None) -> Splats:
        """The map in the sender's world, at most ``max_splats`` of it; see MapMirror."""
        return self.mirror.splats_world(origin=origin, max_splats=self.max_splats)

    def keyframes(self, *, thumbnails: bool = False) -> list[KeyFrame]:
        """The session's key frames, asked of the daemon; empty before a session is known."""
        if self.session is None:
            return []
        with Requests(self.requests, keys=self._keys, context=self._context) as requests:
            return requests.keyframes(self.session, thumbnails=thumbnails)

    def render(self, c2w: npt.ArrayLike, K: npt.ArrayLike, width: int, height: int) -> Render:
        """The mirrored map seen from ``c2w`` (4, 4), OpenCV axes, by a pinhole ``K`` (3, 3)."""
        from streamer.render import render_chunks

        return render_chunks(list(self.mirror.chunks.values()), c2w, K, width, height)

    def close(self) -> None:
        """Disconnect; the mirror stays usable."""
        self._watch.close()
        self._socket.close()
        self._reader.close()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, seconds: float) -> None:
        answers = self._reader.socket
        if answers is not None:
            self._poller.register(answers, zmq.POLLIN)
        try:
            self._poller.poll(math.ceil(seconds * 1000))
        finally:
            if answers is not None:
                self._poller.unregister(answers)

    def _advance(self) -> list[Change]:
        changes: list[Change] = []
        for _ in range(_BURST):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._last_heard = time.monotonic()
            self._take(frames, changes)
        self._look_for_trouble()
        if self.session is not None and not self.synced:
            self._repair(self.session, changes)
        return changes

    def _look_for_trouble(self) -> None:
        trouble, before = self._watch.trouble(), self.trouble
        self.trouble = trouble
        if trouble is not None and trouble != before:
            logger.warning("%s: %s", self.updates, trouble)
        # A refused socket does not try again by itself, and what was wrong may be put right.
        now = time.monotonic()
        if not self._watch.refused():
            self._connect_again_at = math.inf
        elif self._connect_again_at == math.inf:
            self._connect_again_at = now + CONNECT_AGAIN_S
        elif now >= self._connect_again_at:
            self._connect_again_at = now + CONNECT_AGAIN_S
            self._socket.disconnect(self.updates)
            connect(self._socket, self.updates)

    def _take(self, frames: Sequence[Buffer], changes: list[Change]) -> None:
        topic = bytes(frames[0])
        if topic == DAEMON_HEARTBEAT_TOPIC:
            return
        kind = topic.rpartition(b"/")[2]
        try:
            message = decode_update([kind, *frames[1:]])
        except ProtocolError as error:
            logger.warning("%s: %s", topic.decode("ascii", "replace"), error)
            return
        header = message.header
        if self.session is None:
            self._adopt(header.session)
        if header.session != self.session or header.epoch < self.epoch:
            return
        if header.epoch > self.epoch:
            self._begin(header, changes)
        if isinstance(header, StatusHeader):
            self.status = header
            changes.append(Change("status"))
        if message.update is not None:
            self._counted(message, sum(len(frame) for frame in frames), changes)
        elif self.synced and header.seq > self.seq:
            self.synced = False

    def _adopt(self, session: str) -> None:
        self.session = session
        self._socket.setsockopt(zmq.SUBSCRIBE, f"/{session}/".encode())
        self._socket.setsockopt(zmq.UNSUBSCRIBE, b"/")

    def _begin(self, header: UpdateHeader, changes: list[Change]) -> None:
        gone = frozenset(self.mirror.chunks)
        self.mirror.clear()
        self.epoch, self.seq = header.epoch, 0
        self._held.clear()
        self._held_bytes = 0
        # What was asked for belongs to the epoch before.
        self._reader.abandon()
        # An epoch begins empty: who hears its first change, or that there is none, is up to date.
        self.synced = header.seq == int(header.KIND in COUNTED)
        changes.append(Change("reset", gone))

    def _counted(self, message: UpdateMessage, nbytes: int, changes: list[Change]) -> None:
        seq = message.header.seq
        if self.synced and seq > self.seq + 1:
            self.synced = False
        if not self.synced:
            # In order, without a hole: behind what was left out everything shows as a gap.
            if self._held_bytes < MAX_HELD_BYTES:
                self._held.append((message, nbytes))
            self._held_bytes += nbytes
            return
        if seq == self.seq + 1:
            self.seq = seq
            assert message.update is not None
            self._apply(message.update, changes)

    def _apply(self, update: Update, changes: list[Change]) -> None:
        touched = self.mirror.apply(update)
        changes.append(Change(_NAMES[type(update)], frozenset(touched)))

    def _repair(self, session: str, changes: list[Change]) -> None:
        have: Iterable[Have] = self.mirror.have()
        snapshot = self._reader.advance(session, have, self.epoch)
        if snapshot is None or snapshot.epoch < self.epoch:
            return
        self._last_heard = time.monotonic()
        if snapshot.epoch > self.epoch:
            changes.append(Change("reset", frozenset(self.mirror.chunks)))
            self.mirror.clear()
            self.epoch = snapshot.epoch
        for update in snapshot.updates:
            self._apply(update, changes)
        self.seq = snapshot.seq
        self.synced = True
        self.snapshots += 1
        held, self._held, self._held_bytes = self._held, [], 0
        for message, nbytes in held:
            if message.header.epoch == self.epoch:
                self._counted(message, nbytes, changes)

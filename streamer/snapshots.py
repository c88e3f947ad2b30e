"""A snapshot that arrives while its reader goes on with other things."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable

import zmq

from gs_decoder import Have, Update
from streamer.access import ClientKeys
from streamer.addresses import connect
from streamer.protocol import Message, ProtocolError, decode, encode
from streamer.protocol.requests import RequestError, SnapshotDone, SnapshotRequest
from streamer.protocol.update_headers import UPDATE_HEADERS
from streamer.protocol.updates import read_update
from streamer.requests import MAX_ANSWER_PARTS, Snapshot

logger = logging.getLogger(__name__)

SILENCE_S = 5.0
"""A snapshot of which nothing came for so long is asked for anew."""
RETRY_S = 0.3
_BURST = 256


class SnapshotReader:
    """Asks for snapshots, one at a time, and collects them without blocking."""

    def __init__(
        self,
        address: str,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        codec: str,
        max_splats: int | None,
        keys: ClientKeys | None = None,
    ) -> None:
        self._address = address
        self._keys = keys
        self._context = context
        self._codec = codec
        self._max_splats = max_splats
        self._numbers = itertools.count(1)
        self._asked: int | None = None
        self._updates: list[Update] = []
        self._heard = 0.0
        self._not_before = 0.0
        self.socket: zmq.Socket[bytes] | None = None
        """The connection; another one after every failure, None in between."""

    def advance(self, session: str, have: Iterable[Have], epoch: int) -> Snapshot | None:
        """Ask where nothing is asked yet; the snapshot once all of it has come."""
        now = time.monotonic()
        if self._asked is None:
            if now >= self._not_before:
                self._ask(session, have, epoch)
            return None
        assert self.socket is not None
        for _ in range(_BURST):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._heard = now
            try:
                snapshot = self._take(decode(frames, max_parts=MAX_ANSWER_PARTS))
            except ProtocolError as error:
                logger.warning("snapshot of %s: %s", session, error)
                self.abandon()
                return None
            if snapshot is not None or self._asked is None:
                return snapshot
        if now - self._heard > SILENCE_S:
            self.abandon()
        return None

    def abandon(self) -> None:
        """Forget what was asked; a new socket makes sure that no rest of it arrives."""
        self._asked = None
        self._updates = []
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def close(self) -> None:
        """Disconnect."""
        self.abandon()

    def _ask(self, session: str, have: Iterable[Have], epoch: int) -> None:
        if self.socket is None:
            self.socket = self._context.socket(zmq.DEALER)
            self.socket.setsockopt(zmq.LINGER, 0)
            connect(self.socket, self._address, self._keys)
        self._asked = next(self._numbers)
        self._heard = time.monotonic()
        self._not_before = self._heard + RETRY_S
        request = SnapshotRequest(
            id=self._asked,
            session=session,
            have=list(have),
            epoch=epoch,
            codec=self._codec,
            max_splats=self._max_splats,
        )
        try:
            self.socket.send_multipart(encode(request), zmq.NOBLOCK)
        except zmq.Again:
            # The daemon refused this socket's key: it has nobody to send to.
            self.abandon()

    def _take(self, message: Message) -> Snapshot | None:
        if message.kind in UPDATE_HEADERS:
            update = read_update(message).update
            if update is not None:
                self._updates.append(update)
            return None
        if message.kind == RequestError.KIND:
            error = message.read(RequestError)
            # Not there yet, or on its way to the publisher: it is asked for again soon.
            if error.code not in ("busy", "bad_session"):
                logger.warning("snapshot refused: %s: %s", error.code, error.reason)
            self._asked = None
            self._updates = []
            self._not_before = time.monotonic() + RETRY_S
            return None
        done = message.read(SnapshotDone)
        updates, self._updates, self._asked = self._updates, [], None
        if done.messages != len(updates):
            raise ProtocolError(
                "bad_part", f"{len(updates)} messages came of a snapshot of {done.messages}"
            )
        return Snapshot(done.epoch, done.seq, updates)

"""What comes in on a session's sockets, each message when its time has come.

While a batch is under way only some kinds are of use. Of each socket the first one of another kind
waits until the batch is done, and with it all that come behind it: nothing overtakes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import zmq

from streamer.protocol import limits
from streamer.protocol.errors import ProtocolError
from streamer.protocol.wire import Message, decode

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]


class Inbox:
    """Reads these sockets. A loop over its messages may be left after any of them."""

    def __init__(self, *sockets: Socket) -> None:
        self._sockets = sockets
        self._held: dict[Socket, Message] = {}
        self._wake_fd, self._wake_write = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(self._wake_write, False)

    def messages(self, patience_ms: int) -> Iterator[Message]:
        """All that is there, after waiting for so long at most."""
        ready = self._ready(self._sockets, 0 if self._held else patience_ms)
        for socket in self._sockets:
            if socket in ready or socket in self._held:
                while (message := self._next(socket)) is not None:
                    yield message

    def meanwhile(
        self, under_way: Future[Any] | None, kinds: Collection[bytes]
    ) -> Iterator[Message]:
        """Messages of these kinds until something is done; None: those that are there."""
        if under_way is not None:
            under_way.add_done_callback(lambda _: self._wake())
        while True:
            done = under_way is None or under_way.done()
            for socket in self._ready(self._open, 0 if done else None):
                while socket not in self._held and (message := self._next(socket)) is not None:
                    if message.kind in kinds:
                        yield message
                    else:
                        self._held[socket] = message
            if done:
                return

    def close(self) -> None:
        """Let go of what wakes it; the sockets are somebody else's."""
        os.close(self._wake_fd)
        os.close(self._wake_write)

    @property
    def _open(self) -> list[Socket]:
        return [socket for socket in self._sockets if socket not in self._held]

    def _ready(self, sockets: Sequence[Socket], patience_ms: int | None) -> list[Socket]:
        """Of these sockets, the ones that can be read; a wake-up ends the wait as well."""
        poller = zmq.Poller()
        for waitable in (*sockets, self._wake_fd):
            poller.register(waitable, zmq.POLLIN)
        found = [waitable for waitable, _ in poller.poll(patience_ms)]
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_fd, 64):
                pass
        return [socket for socket in sockets if socket in found]

    def _next(self, socket: Socket) -> Message | None:
        """The next message of a socket, if it is there; what nobody can read is logged."""
        if socket in self._held:
            return self._held.pop(socket)
        while True:
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return None
            try:
                return decode(frames, max_parts=limits.MAX_INTERNAL_PARTS)
            except ProtocolError as error:
                log.error("a message of the daemon's own was refused: %s", error)

    def _wake(self) -> None:
        # A full pipe wakes as well.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

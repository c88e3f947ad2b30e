"""Answers on a ROUTER that lose nothing and wait for nobody.

A ROUTER drops without a word what a slow reader cannot take. With ``ROUTER_MANDATORY`` it says so
instead, and what did not fit waits here, per reader, until its socket takes more.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import zmq

from streamer.protocol import Buffer

logger = logging.getLogger(__name__)

MAX_RUNS = 64
"""Answers that may wait for one reader."""
MAX_BYTES = 64 << 20
"""Bytes of these; one answer is made whatever its size."""
STALLED_S = 120.0
"""A reader that took nothing for so long has given up."""
BURST = 32
"""Messages to one reader before the others, and the fan-out, have their turn."""


@dataclass(slots=True)
class _Run:
    messages: Iterator[list[Buffer]]
    nbytes: int


@dataclass(slots=True)
class _Queue:
    runs: deque[_Run] = field(default_factory=deque)
    nbytes: int = 0
    refused: list[Buffer] | None = None
    """A message that the socket did not take; it goes first."""
    progress: float = field(default_factory=time.monotonic)


class Outbox:
    """Sends runs of messages to the readers of one ROUTER, in order for each of them."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket = socket
        self._queues: dict[bytes, _Queue] = {}

    @property
    def waiting(self) -> bool:
        """Whether something could not be sent yet."""
        return bool(self._queues)

    @property
    def readers(self) -> int:
        """For how many readers something waits."""
        return len(self._queues)

    def full(self, reader: bytes) -> bool:
        """Whether a reader has so many answers waiting that it gets no more."""
        queue = self._queues.get(reader)
        return queue is not None and (len(queue.runs) >= MAX_RUNS or queue.nbytes >= MAX_BYTES)

    def send(self, reader: bytes, messages: Iterable[list[Buffer]], nbytes: int = 0) -> None:
        """Queue a run of messages; it is taken from lazily, when there is room for it.

        Args:
            nbytes: what it keeps in memory; where the messages are there already, it is known.
        """
        if isinstance(messages, list):
            nbytes = sum(len(part) for message in messages for part in message)
        queue = self._queues.setdefault(reader, _Queue())
        queue.runs.append(_Run(iter(messages), nbytes))
        queue.nbytes += nbytes

    def pump(self) -> None:
        """Send what the sockets take now."""
        for reader in list(self._queues):
            queue = self._queues[reader]
            if not self._advance(reader, queue):
                del self._queues[reader]
            elif time.monotonic() - queue.progress > STALLED_S:
                logger.warning("a reader took nothing for %d s: its answers are gone", STALLED_S)
                del self._queues[reader]

    def _advance(self, reader: bytes, queue: _Queue) -> bool:
        """Send up to a burst; False when the queue is empty or nobody reads it any more."""
        for _ in range(BURST):
            message = queue.refused if queue.refused is not None else self._next(queue)
            if message is None:
                return False
            try:
                # Routing id and body are one message: zmq takes all of it or nothing.
                self._socket.send_multipart([reader, *message], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                queue.refused = message
                return True
            except zmq.ZMQError as error:
                if error.errno == zmq.EHOSTUNREACH:
                    return False
                raise
            queue.refused = None
            queue.progress = time.monotonic()
        return True

    @staticmethod
    def _next(queue: _Queue) -> list[Buffer] | None:
        while queue.runs:
            message = next(queue.runs[0].messages, None)
            if message is not None:
                return message
            queue.nbytes -= queue.runs.popleft().nbytes
        return None

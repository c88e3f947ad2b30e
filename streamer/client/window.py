"""What a sender has on its way: frames not sent yet, frames not settled yet, and its credit.

No sockets and no threads in here.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from streamer.client.errors import Rejection
from streamer.protocol import RETRY_CODES, Buffer
from streamer.protocol.messages import FrameHeader

HOLD_S = {"no_credit": 0.5, "busy": 1.0}
"""How long a refused frame waits if no ACK calls for it earlier."""

MAX_REJECTIONS = 4096
"""Rejections that are remembered, the latest."""
MAX_UNSETTLED_BYTES = 256 << 20
"""Of frames that wait for their verdict, and may have to be sent again; one passes alone."""


@dataclass(slots=True)
class Outgoing:
    """A frame on its way. Its number may still change while it is unsettled: the daemon counts
    anew after a reset or a restart."""

    header: FrameHeader
    parts: tuple[Buffer, ...]
    seq: int
    sent: bool = False
    """Whether it has been on the wire under this number."""

    @property
    def nbytes(self) -> int:
        """Of its parts."""
        return sum(len(part) for part in self.parts)


@dataclass(slots=True)
class Window:
    """See the module's docstring."""

    unsent: deque[Outgoing] = field(default_factory=deque)
    sent: deque[Outgoing] = field(default_factory=deque)
    base: int = 0
    """Number of the next new frame while none is on its way."""
    limit: int = -1
    acked: int = -1
    dropped_by_daemon: int = 0
    dropped_here: int = 0
    hold_until: float = 0.0
    rejected: deque[Rejection] = field(default_factory=lambda: deque(maxlen=MAX_REJECTIONS))
    renumbered: int = 0
    """How often the daemon counted anew."""
    max_bytes: int = MAX_UNSETTLED_BYTES

    @property
    def full(self) -> bool:
        """Whether what is on its way takes all the memory that it may."""
        return sum(frame.nbytes for frame in (*self.sent, *self.unsent)) >= self.max_bytes

    @property
    def empty(self) -> bool:
        """Whether everything is settled."""
        return not self.unsent and not self.sent

    def add(self, header: FrameHeader, parts: tuple[Buffer, ...]) -> int:
        """Queue a frame; returns its number."""
        last = self.unsent or self.sent
        seq = last[-1].seq + 1 if last else self.base
        self.unsent.append(Outgoing(header, parts, seq))
        return seq

    def drop_oldest_unsent(self) -> None:
        """Make room for a newer frame; those behind it move up."""
        first = self.unsent.popleft()
        self._number(first.seq)
        self.dropped_here += 1

    def next_frame(self, now: float) -> Outgoing | None:
        """The frame that may be sent now, if any."""
        if not self.unsent or now < self.hold_until or self.unsent[0].seq > self.limit:
            return None
        return self.unsent[0]

    def mark_sent(self) -> None:
        """The frame of `next_frame` is on the wire."""
        frame = self.unsent.popleft()
        frame.sent = True
        self.sent.append(frame)

    def ack(self, seq: int, credit: int, dropped: int) -> None:
        """Everything up to `seq` is settled."""
        self._settle(seq)
        self.limit = seq + credit
        self.dropped_by_daemon = max(self.dropped_by_daemon, dropped)
        self.hold_until = 0.0

    def reject(self, seq: int, code: str, reason: str, now: float) -> Rejection | None:
        """One frame was not taken; a Rejection if that is final."""
        if code in RETRY_CODES:
            while self.sent and self.sent[-1].seq >= seq:
                self.unsent.appendleft(self.sent.pop())
            self.hold_until = now + HOLD_S[code]
            return None
        found = [frame for frame in (*self.sent, *self.unsent) if frame.seq == seq]
        stamp_ns = found[0].header.stamp_ns if found else 0
        self._settle(seq)
        rejection = Rejection(seq, stamp_ns, code, reason)
        self.rejected.append(rejection)
        return rejection

    def welcome(self, next_seq: int, credit: int) -> None:
        """A connection begins: what the daemon has not settled is sent again."""
        self.unsent.extendleft(reversed(self.sent))
        self.sent.clear()
        self._settle(next_seq - 1)
        if self.acked >= next_seq or (self.unsent and self.unsent[0].seq != next_seq):
            self.renumbered += 1
        self._number(next_seq)
        self.base = next_seq
        self.acked = next_seq - 1
        self.limit = next_seq - 1 + credit
        self.hold_until = 0.0

    def _number(self, first: int) -> None:
        for seq, frame in zip(itertools.count(first), self.unsent):
            if frame.seq != seq:
                frame.seq = seq
                frame.sent = False

    def _settle(self, seq: int) -> None:
        while self.sent and self.sent[0].seq <= seq:
            self.sent.popleft()
        # Those that are to be sent again may be settled by what was received the first time.
        while self.unsent and self.unsent[0].sent and self.unsent[0].seq <= seq:
            self.unsent.popleft()
        self.acked = max(self.acked, seq)
        self.base = max(self.base, seq + 1)

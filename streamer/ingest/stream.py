"""The frames of one session between the door and its process: order, verdicts, credit, memory.

No sockets, no threads, no clock in here. Seqs run through these regions, in this order:

    settled ... `settled` | pending (received, being decoded) ... `received` | granted ... `limit`

A frame's verdict is handed out when all before it have theirs, and, where the session has a
journal, when it is on the disk. Accepted frames wait until the session takes them. What was granted
is never taken back: the frames that wait, those being decoded and those still allowed to come fit
together into the bounds.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from streamer.frames import Frame
from streamer.protocol import ProtocolError
from streamer.protocol.internal import Counts
from streamer.protocol.messages import Ack, Policy, Reject


class Offer(enum.Enum):
    """What becomes of a FRAME by its number alone."""

    TAKE = enum.auto()
    REPEAT = enum.auto()
    NO_CREDIT = enum.auto()
    GAP = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How much of a session may lie in the ingest."""

    max_waiting: int = 64
    """Frames, being decoded or waiting for the session."""
    live_waiting: int = 8
    """The same under the live policy."""
    max_bytes: int = 256 << 20
    """Bytes of these frames: as they came, and as decoded. One that is larger passes alone."""


@dataclass(slots=True)
class Pending:
    """A frame without a verdict, or whose verdict was not handed out yet."""

    seq: int
    nbytes: int
    verdict: Frame | ProtocolError | None = None
    source: object = None
    """What the verdict was reached on, for the journal."""
    number: int | None = None
    """Of the journal's entry; 0 where it needs none."""
    durable: bool = False


@dataclass(slots=True, kw_only=True)
class Stream:
    """See the module's docstring."""

    limits: StreamLimits
    policy: Policy = "lossless"
    expected_bytes: int = 1
    """What a frame of this sender will take, until some have been seen."""
    settled: int = -1
    received: int = -1
    limit: int = -1
    accepted: int = 0
    dropped: int = 0
    rejected: int = 0
    held_bytes: int = 0
    waiting: deque[Frame] = field(default_factory=deque)
    pending: deque[Pending] = field(default_factory=deque)
    recording: bool = False
    """Whether verdicts wait until the journal holds them."""
    stalled: bool = False
    """The journal cannot be written: under the lossless policy nothing more is granted."""
    replaying: int = 0
    """Frames that wait in the journal, not here, for a session that lost them."""
    newly_dropped: list[int] = field(default_factory=list)
    """Seqs that the live policy discarded since the journal was told."""
    drop_reasons: Counter[str] = field(default_factory=Counter)
    """What was discarded since the metrics were told: for `newer` frames, for want of `memory`, or
    `lost` with an ingest that was killed."""
    _refused: int = -1
    _retry_bytes: int | None = None
    _seen_bytes: int = 0
    _answered: Ack | None = None

    @property
    def credit(self) -> int:
        """Frames that may come after the last settled one."""
        return max(0, self.limit - self.settled)

    @property
    def counts(self) -> Counts:
        """What the session is told."""
        return Counts(
            frames_in=self.accepted,
            waiting=len(self.waiting) + self.replaying,
            dropped=self.dropped,
            rejected=self.rejected,
            durable=self.recording and not self.stalled,
        )

    def ack(self) -> Ack:
        """The current ACK, which also answers repeats."""
        self._answered = Ack(seq=self.settled, credit=self.credit, dropped=self.dropped)
        return self._answered

    def open(self, policy: Policy, expected_bytes: int) -> None:
        """A sender begins, or comes back: nothing is on its way from it."""
        self.policy = policy
        self.expected_bytes = max(1, expected_bytes)
        self._seen_bytes = 0
        self._refused = -1
        self._retry_bytes = None
        self.limit = self.received
        self.grant()

    def offer(self, seq: int, nbytes: int) -> Offer:
        """Place a FRAME by its number; TAKE makes it pending.

        Args:
            nbytes: that it takes here until it has its verdict, what it becomes included.
        """
        if seq <= self.received:
            return Offer.REPEAT
        if seq > self.received + 1:
            # The frames behind a refused one were sent before the refusal arrived.
            if self.received < self._refused and seq <= self._refused + 1:
                self._refused = max(self._refused, seq)
                return Offer.NO_CREDIT
            return Offer.GAP
        if self.policy == "live":
            while self.waiting and self.held_bytes + nbytes > self.limits.max_bytes:
                self._drop_oldest("memory")
        full = self.held_bytes > 0 and self.held_bytes + nbytes > self.limits.max_bytes
        if seq > self.limit or full:
            self._refused = seq
            self._retry_bytes = nbytes if seq <= self.limit else None
            return Offer.NO_CREDIT
        self._refused = -1
        self._retry_bytes = None
        self.received = seq
        self.held_bytes += nbytes
        self._seen_bytes = max(self._seen_bytes, nbytes)
        self.pending.append(Pending(seq, nbytes))
        return Offer.TAKE

    def decide(self, seq: int, verdict: Frame | ProtocolError, source: object = None) -> None:
        """The verdict on a pending frame; unknown numbers (of before a reset) are ignored."""
        for entry in self.pending:
            if entry.seq == seq:
                entry.verdict, entry.source = verdict, source
                return

    @property
    def ready(self) -> bool:
        """Whether the verdict on the oldest pending frame may be handed out."""
        if not self.pending or self.pending[0].verdict is None:
            return False
        return self.pending[0].durable or not self.recording

    @property
    def wants_in(self) -> bool:
        """Whether the next verdict is an acceptance."""
        return bool(self.pending) and isinstance(self.pending[0].verdict, Frame)

    def unrecorded(self) -> Iterator[Pending]:
        """Frames whose verdict the journal does not know yet, in order of seq."""
        for entry in self.pending:
            if entry.verdict is None:
                return
            if entry.number is None:
                yield entry

    def recorded(self, number: int) -> None:
        """The journal's entries up to this one are on the disk."""
        for entry in self.pending:
            if entry.number is None:
                return
            if entry.number <= number:
                entry.durable = True
                entry.source = None

    def stop_recording(self) -> None:
        """Go on without the journal."""
        self.recording = False
        for entry in self.pending:
            entry.number = None

    def settle(self, *, accepting: bool = True) -> list[Reject | Ack]:
        """Hand out the verdicts that are due, in order of seq, as the messages to send.

        Args:
            accepting: whether acceptances may go out; else they and all behind them stay pending.
        """
        messages: list[Reject | Ack] = []
        unsaid = False
        while self.ready and (accepting or not self.wants_in):
            entry = self.pending.popleft()
            self.held_bytes -= entry.nbytes
            if isinstance(entry.verdict, ProtocolError):
                if unsaid:
                    messages.append(self.ack())
                    unsaid = False
                self.settled = entry.seq
                self.rejected += 1
                messages.append(
                    Reject(seq=entry.seq, code=entry.verdict.code, reason=entry.verdict.reason)
                )
            else:
                assert entry.verdict is not None
                self.settled = entry.seq
                self._accept(entry.verdict)
                unsaid = True
        self.grant()
        current = Ack(seq=self.settled, credit=self.credit, dropped=self.dropped)
        if current != self._answered or self._may_retry():
            self._retry_bytes = None
            messages.append(self.ack())
        return messages

    def refuse_pending(self, code: str, reason: str) -> list[Reject | Ack]:
        """Give all unsettled frames back to their sender, which may send them again."""
        messages: list[Reject | Ack] = [
            Reject(seq=entry.seq, code=code, reason=reason) for entry in self.pending
        ]
        if self.pending:
            self._refused = self.received
        self.held_bytes -= sum(entry.nbytes for entry in self.pending)
        self.pending.clear()
        self.received = self.settled
        return messages

    def take(self, count: int) -> list[Frame]:
        """The oldest waiting frames, for the session."""
        frames = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        self.held_bytes -= sum(frame.nbytes for frame in frames)
        return frames

    def put_back(self, frames: list[Frame]) -> None:
        """Undo `take`: the session was not there, or is to be given more together with them."""
        self.waiting.extendleft(reversed(frames))
        self.held_bytes += sum(frame.nbytes for frame in frames)

    def restore(self, counts: Counts, next_seq: int) -> None:
        """Go on where an ingest that was killed stood; what waited in it alone is lost, and
        counted."""
        self.settled = self.received = self.limit = next_seq - 1
        self.accepted, self.rejected = counts.frames_in, counts.rejected
        self.dropped = counts.dropped + counts.waiting
        self.drop_reasons["lost"] += counts.waiting

    def grant(self) -> None:
        """Extend the window by what would fit now."""
        if self.policy == "live":
            self.limit = max(self.limit, self.settled + self.limits.live_waiting)
            return
        if self.stalled:
            return
        held = len(self.waiting) + len(self.pending)
        each = self._seen_bytes or self.expected_bytes
        room = min(
            self.limits.max_waiting - held,
            (self.limits.max_bytes - self.held_bytes) // each,
        )
        if held == 0:
            room = max(room, 1)
        self.limit = max(self.limit, self.received + max(0, room))

    def _accept(self, frame: Frame) -> None:
        self.accepted += 1
        self.waiting.append(frame)
        self.held_bytes += frame.nbytes
        self._seen_bytes = max(self._seen_bytes, frame.nbytes)
        if self.policy == "live":
            while len(self.waiting) > self.limits.live_waiting:
                self._drop_oldest("newer")

    def _may_retry(self) -> bool:
        """Whether a frame that was refused for want of memory would be taken now."""
        return self._retry_bytes is not None and (
            self.held_bytes == 0 or self.held_bytes + self._retry_bytes <= self.limits.max_bytes
        )

    def _drop_oldest(self, reason: str) -> None:
        frame = self.waiting.popleft()
        self.held_bytes -= frame.nbytes
        self.dropped += 1
        self.drop_reasons[reason] += 1
        if self.recording:
            self.newly_dropped.append(frame.seq)

"""The frames of one session between the door and its process: order, verdicts, credit, memory.

No sockets, no threads, no clock in here. Seqs run through these regions, in this order:

    settled ... `settled` | pending (received, being decoded) ... `received` | granted ... `limit`

A frame's verdict is handed out when all before it have theirs, and, where the session has a
journal, when it is on the disk. Accepted frames wait until the session takes them. What was granted
is never taken back: the frames that wait, those being decoded and those still allowed to come fit
together into the bounds.

Under the live policy a frame is decoded when the session wants one soon; until then it may be
superseded by newer ones, which costs nothing but its receipt.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from streamer.frames import Frame
from streamer.ingest.decoder import Job
from streamer.protocol import ProtocolError
from streamer.protocol.internal import Counts
from streamer.protocol.messages import Ack, Policy, Reject

FRESH_NS = 500_000_000
"""Live: what is so much older than the newest frame is not taken while newer ones can be."""
LATE_NS = 1_000_000_000
"""Live: a frame that nothing newer has taken the place of for so long is decoded in any case, so
that its sender gets its verdict."""


class Superseded(enum.Enum):
    """The verdict on a frame that the live policy dropped before it was decoded."""

    NEWER = "newer"
    MEMORY = "memory"


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
    """The same under the live policy, where as many more may wait to be decoded."""
    max_bytes: int = 256 << 20
    """Bytes of these frames: as they came, and as decoded. One that is larger passes alone."""


@dataclass(slots=True)
class Pending:
    """A frame without a verdict, or whose verdict was not handed out yet."""

    seq: int
    nbytes: int
    verdict: Frame | ProtocolError | Superseded | None = None
    job: Job | None = None
    """What the verdict is reached on, for the decoder and the journal."""
    undecoded: bool = False
    """Whether the decoder has not been handed it yet."""
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
    def most_waiting(self) -> int:
        """Frames that may wait for the session."""
        return self.limits.live_waiting if self.policy == "live" else self.limits.max_waiting

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
            while self.held_bytes + nbytes > self.limits.max_bytes:
                if self.waiting:
                    self._drop_oldest("memory")
                elif (oldest := next(self._undecoded(), None)) is not None:
                    self._supersede(oldest, Superseded.MEMORY)
                else:
                    break
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

    def hold(self, job: Job) -> None:
        """What the newest pending frame is to be decoded from; see `to_decode`."""
        self.pending[-1].job, self.pending[-1].undecoded = job, True
        if self.policy == "live":
            held = list(self._undecoded())
            for entry in held[: -self.limits.live_waiting]:
                self._supersede(entry, Superseded.NEWER)

    def to_decode(self, now_ns: int, ahead: int) -> list[Job]:
        """What is to be handed to the decoder now, oldest first; each frame is told once.

        Args:
            ahead: frames that are decoded before the session wants them, under the live policy.
        """
        room = len(self.pending)
        if self.policy == "live":
            room = min(ahead, self.limits.live_waiting) - len(self.waiting) - self._in_work
        jobs = []
        for entry in self._undecoded():
            assert entry.job is not None
            if room > 0 or now_ns - entry.job.received_ns >= LATE_NS:
                jobs.append(entry.job)
                entry.undecoded = False
                room -= 1
        return jobs

    def freshen(self) -> None:
        """The session is about to take frames: of more than may wait, those that are not fresh any
        more go, so that newer ones are decoded in their place."""
        newer = list(self._undecoded())
        if not newer or self._in_work:
            return
        assert newer[-1].job is not None
        newest_ns = newer[-1].job.received_ns
        for _ in range(len(self.waiting) + len(newer) - self.most_waiting):
            if self.waiting and newest_ns - self.waiting[0].received_ns > FRESH_NS:
                self._drop_oldest("newer")

    def decide(self, seq: int, verdict: Frame | ProtocolError) -> None:
        """The verdict on a pending frame; unknown numbers (of before a reset) are ignored."""
        for entry in self.pending:
            if entry.seq == seq:
                entry.verdict = verdict
                return

    @property
    def ready(self) -> bool:
        """Whether the verdict on the oldest pending frame may be handed out."""
        if not self.pending or self.pending[0].verdict is None:
            return False
        return self.pending[0].durable or not self.recording

    @property
    def wants_in(self) -> bool:
        """Whether the next verdict counts as an acceptance, be it of a frame that was dropped."""
        return bool(self.pending) and isinstance(self.pending[0].verdict, Frame | Superseded)

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
                entry.job = None

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
            elif isinstance(entry.verdict, Superseded):
                self.settled = entry.seq
                self.accepted += 1
                self._count_drop(entry.verdict.value)
                unsaid = True
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
            # As many in the decoder, and as many that wait for it and hold nobody up.
            self.limit = max(self.limit, self.settled + 2 * self.limits.live_waiting)
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
        self._count_drop(reason)
        if self.recording:
            self.newly_dropped.append(frame.seq)

    def _count_drop(self, reason: str) -> None:
        self.dropped += 1
        self.drop_reasons[reason] += 1

    def _supersede(self, entry: Pending, why: Superseded) -> None:
        entry.verdict, entry.job, entry.undecoded = why, None, False
        self.held_bytes -= entry.nbytes
        entry.nbytes = 0

    def _undecoded(self) -> Iterator[Pending]:
        return (entry for entry in self.pending if entry.undecoded)

    @property
    def _in_work(self) -> int:
        """Frames in the decoder, or decoded and not accepted yet."""
        begun = (entry.verdict for entry in self.pending if not entry.undecoded)
        return sum(verdict is None or isinstance(verdict, Frame) for verdict in begun)

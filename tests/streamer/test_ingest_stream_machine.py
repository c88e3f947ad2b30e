"""Any order of frames, verdicts and takings that there may be, under both policies."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stream_helpers import LIMITS, a_frame, a_job

from streamer.ingest.stream import FRESH_NS, LATE_NS, Offer, Stream, Superseded
from streamer.protocol import ProtocolError
from streamer.protocol.messages import Ack, Reject


class SendingAndTaking(RuleBasedStateMachine):
    """Any order of frames coming, being decoded, settled and taken, under both policies."""

    policy: Any = "lossless"

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream(limits=LIMITS)
        self.stream.open(self.policy, 300)
        self.now = 0
        self.came: dict[int, int] = {}
        """When each came, by seq."""
        self.undecoded: dict[int, int] = {}
        """Pixels that each may have at most, by seq."""
        self.undecided: dict[int, int] = {}
        """The same of those that the decoder has."""
        self.superseded: list[int] = []
        self.accepted: list[int] = []
        self.taken: list[int] = []
        self.rejected: list[int] = []
        self.last_limit = -1
        self.acked = -1

    @rule(packed=st.integers(1, 900), pixels=st.integers(1, 200))
    def next_frame_comes(self, packed: int, pixels: int) -> None:
        nbytes = packed + 3 * pixels
        seq = self.stream.received + 1
        granted = seq <= self.stream.limit
        offer = self.stream.offer(seq, nbytes)
        if offer is Offer.TAKE:
            assert granted
            self.came[seq] = self.now
            self.undecoded[seq] = pixels
            self.stream.hold(a_job(seq, self.now))
            self.note_superseded()
        else:
            self.note_superseded()
            assert offer is Offer.NO_CREDIT
            assert not granted or self.stream.held_bytes + nbytes > LIMITS.max_bytes

    @rule(back=st.integers(0, 5))
    def a_repeat_comes(self, back: int) -> None:
        before = (self.stream.received, self.stream.held_bytes)
        if self.stream.received - back >= 0:
            assert self.stream.offer(self.stream.received - back, 10) is Offer.REPEAT
        assert (self.stream.received, self.stream.held_bytes) == before

    def note_superseded(self) -> None:
        """The oldest of those that wait for the decoder, and only under the live policy."""
        dropped = [e.seq for e in self.stream.pending if isinstance(e.verdict, Superseded)]
        new = [seq for seq in dropped if seq in self.undecoded]
        for seq in new:
            del self.undecoded[seq]
        assert not new or self.stream.policy == "live"
        assert all(seq < min(self.undecoded, default=seq + 1) for seq in new)
        self.superseded += new

    @rule(seconds=st.sampled_from([0.01, 0.2, 0.6]))
    def time_passes(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)

    @rule(ahead=st.integers(1, 5))
    def the_decoder_is_handed_frames(self, ahead: int) -> None:
        seqs = [job.header.seq for job in self.stream.to_decode(self.now, ahead)]
        assert seqs == sorted(self.undecoded)[: len(seqs)], "the oldest first, and each once"
        for seq in seqs:
            self.undecided[seq] = self.undecoded.pop(seq)
        if self.stream.policy == "lossless":
            assert not self.undecoded
            return
        assert all(self.now - self.came[seq] < LATE_NS for seq in self.undecoded)
        decoded = [seq for seq in self.accepted if seq > self.stream.settled]
        ready = len(self.stream.waiting) + len(self.undecided) + len(decoded)
        assert not self.undecoded or ready >= min(ahead, LIMITS.live_waiting)

    @rule()
    def the_session_is_about_to_take(self) -> None:
        before = [frame.seq for frame in self.stream.waiting]
        dropped = self.stream.dropped
        self.stream.freshen()
        after = [frame.seq for frame in self.stream.waiting]
        gone = before[: len(before) - len(after)]
        assert before == gone + after
        assert self.stream.dropped == dropped + len(gone)
        if gone:
            assert len(after) + len(self.undecoded) >= LIMITS.live_waiting
            newest = self.came[max(self.undecoded)]
            assert all(newest - self.came[seq] > FRESH_NS for seq in gone)

    @precondition(lambda self: self.undecided)
    @rule(data=st.data(), good=st.booleans())
    def a_verdict_is_reached(self, data: st.DataObject, good: bool) -> None:
        seq = data.draw(st.sampled_from(sorted(self.undecided)))
        pixels = data.draw(st.integers(1, self.undecided.pop(seq)))
        verdict = (
            a_frame(seq, pixels, self.came[seq])
            if good
            else ProtocolError("bad_image", "no picture")
        )
        (self.accepted if good else self.rejected).append(seq)
        self.stream.decide(seq, verdict)

    @rule()
    def verdicts_go_out(self) -> None:
        for message in self.stream.settle():
            if isinstance(message, Reject):
                assert message.seq == self.acked + 1 or message.seq > self.acked
                assert message.seq in self.rejected
                self.acked = message.seq
            else:
                assert isinstance(message, Ack)
                assert message.seq >= self.acked
                self.acked = message.seq
        assert self.acked == self.stream.settled or not self.stream.ready

    @rule()
    def refusals_alone_go_out(self) -> None:
        accepted = self.stream.accepted
        for message in self.stream.settle(accepting=False):
            if isinstance(message, Reject):
                assert message.seq in self.rejected
            assert message.seq >= self.acked
            self.acked = message.seq
        assert self.stream.accepted == accepted

    @rule(count=st.integers(1, 5))
    def the_session_takes(self, count: int) -> None:
        self.taken += [frame.seq for frame in self.stream.take(count)]

    @invariant()
    def order_and_counts_hold(self) -> None:
        stream = self.stream
        assert self.taken == sorted(self.taken)
        assert stream.settled <= stream.received
        assert len(stream.waiting) == stream.accepted - stream.dropped - len(self.taken)
        settled_good = [seq for seq in self.accepted if seq <= stream.settled]
        settled_unseen = [seq for seq in self.superseded if seq <= stream.settled]
        assert stream.accepted == len(settled_good) + len(settled_unseen)
        assert stream.rejected == len([seq for seq in self.rejected if seq <= stream.settled])

    @invariant()
    def what_was_granted_is_never_taken_back(self) -> None:
        assert self.stream.limit >= self.last_limit
        self.last_limit = self.stream.limit

    @invariant()
    def memory_is_bounded(self) -> None:
        stream = self.stream
        held = sum(e.nbytes for e in stream.pending) + sum(f.nbytes for f in stream.waiting)
        assert stream.held_bytes == held
        assert held <= LIMITS.max_bytes
        assert sum(stream.drop_reasons.values()) == stream.dropped
        most = LIMITS.max_waiting if stream.policy == "lossless" else 3 * LIMITS.live_waiting
        assert len(stream.waiting) + len(stream.pending) <= most


class SendingLive(SendingAndTaking):
    policy = "live"

    @invariant()
    def the_window_stays_open(self) -> None:
        self.stream.grant()
        assert self.stream.credit >= LIMITS.live_waiting

    @invariant()
    def only_the_newest_wait_for_the_decoder(self) -> None:
        assert len(self.undecoded) <= LIMITS.live_waiting


SendingAndTaking.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
SendingLive.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLossless = SendingAndTaking.TestCase
TestLive = SendingLive.TestCase

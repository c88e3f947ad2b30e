"""The order of frames, verdicts and credit, with no process around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamer.camera import CameraModel
from streamer.frames import Frame
from streamer.ingest.decoder import Job
from streamer.ingest.stream import FRESH_NS, LATE_NS, Offer, Stream, StreamLimits, Superseded
from streamer.protocol import ProtocolError
from streamer.protocol.internal import Counts
from streamer.protocol.messages import Ack, FrameHeader, Reject

LIMITS = StreamLimits(max_waiting=6, live_waiting=3, max_bytes=4000)


def a_frame(seq: int, pixels: int = 100, received_ns: int = 0) -> Frame:
    image = np.zeros((1, pixels, 3), np.uint8)
    return Frame(
        seq=seq, stamp_ns=seq, camera="c", image=image, K=np.eye(3), c2w=np.eye(4),
        received_ns=received_ns,
    )  # fmt: skip


def a_job(seq: int, received_ns: int = 0) -> Job:
    return Job(
        session="s",
        generation=0,
        header=FrameHeader(seq=seq, stamp_ns=seq, camera="c", encoding="mono8", width=1, height=1),
        parts=(b"x",),
        camera=CameraModel("PINHOLE", 1, 1, (1.0, 1.0, 0.5, 0.5)),
        convention="opencv",
        c2w=np.eye(4),
        received_ns=received_ns,
    )


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


def opened(policy: Any = "lossless") -> Stream:
    stream = Stream(limits=LIMITS)
    stream.open(policy, 1)
    return stream


def accept(stream: Stream, seq: int) -> list[Reject | Ack]:
    assert stream.offer(seq, 10) is Offer.TAKE
    stream.decide(seq, a_frame(seq))
    return stream.settle()


def test_verdicts_wait_for_those_before_them() -> None:
    stream = opened()
    for seq in range(3):
        stream.offer(seq, 10)
    stream.decide(2, a_frame(2))
    stream.decide(1, ProtocolError("bad_image", "x"))
    assert not [m for m in stream.settle() if isinstance(m, Reject) or m.seq >= 0]
    stream.decide(0, a_frame(0))
    kinds = [(type(message), message.seq) for message in stream.settle()]
    assert kinds == [(Ack, 0), (Reject, 1), (Ack, 2)]


def test_an_acceptance_waits_where_none_may_go_out() -> None:
    stream = opened()
    for seq in range(3):
        stream.offer(seq, 10)
    stream.decide(1, a_frame(1))
    stream.decide(2, ProtocolError("bad_image", "x"))
    stream.decide(0, ProtocolError("bad_image", "x"))
    assert [type(m) for m in stream.settle(accepting=False) if m.seq >= 0][:1] == [Reject]
    assert (stream.settled, stream.accepted, stream.wants_in) == (0, 0, True)
    kinds = [(type(message), message.seq) for message in stream.settle()]
    assert kinds == [(Ack, 1), (Reject, 2), (Ack, 2)]


def test_lossless_credit_runs_out_and_comes_back() -> None:
    stream = opened()
    for seq in range(6):
        accept(stream, seq)
    assert stream.credit == 0
    assert stream.offer(6, 10) is Offer.NO_CREDIT
    stream.take(2)
    assert stream.settle() == [Ack(seq=5, credit=2, dropped=0)]
    assert stream.offer(6, 10) is Offer.TAKE


def test_frames_behind_a_refused_one_are_refused_and_no_gap() -> None:
    stream = opened()
    for seq in range(6):
        accept(stream, seq)
    assert stream.offer(6, 10) is Offer.NO_CREDIT
    assert stream.offer(7, 10) is Offer.NO_CREDIT
    assert stream.offer(8, 10) is Offer.NO_CREDIT
    assert stream.offer(10, 10) is Offer.GAP


def test_a_gap_is_a_gap() -> None:
    assert opened().offer(1, 10) is Offer.GAP


def test_live_keeps_the_newest() -> None:
    stream = opened("live")
    for seq in range(10):
        accept(stream, seq)
    assert [frame.seq for frame in stream.take(9)] == [7, 8, 9]
    assert stream.counts == Counts(frames_in=10, waiting=0, dropped=7, rejected=0)


def come(stream: Stream, seq: int, received_ns: int = 0) -> None:
    assert stream.offer(seq, 10) is Offer.TAKE
    stream.hold(a_job(seq, received_ns))


def seqs(jobs: list[Job]) -> list[int]:
    return [job.header.seq for job in jobs]


def test_lossless_decodes_what_comes() -> None:
    stream = opened()
    for seq in range(4):
        come(stream, seq)
    assert seqs(stream.to_decode(0, ahead=1)) == [0, 1, 2, 3]
    assert stream.to_decode(LATE_NS, ahead=1) == []


def test_live_frames_are_superseded_before_they_are_decoded() -> None:
    stream = opened("live")
    come(stream, 0)
    assert seqs(stream.to_decode(0, ahead=2)) == [0]
    for seq in range(1, 6):
        come(stream, seq)
    assert seqs(stream.to_decode(0, ahead=2)) == [3]
    stream.decide(0, a_frame(0))
    # Two frames were never looked at: settled all the same, and counted as what they are.
    assert stream.settle() == [Ack(seq=2, credit=6, dropped=2)]
    assert stream.counts == Counts(frames_in=3, waiting=1, dropped=2, rejected=0)
    assert stream.drop_reasons == {"newer": 2}
    assert stream.newly_dropped == []


def test_what_is_not_fresh_makes_room_for_what_is_when_the_session_takes() -> None:
    stream = opened("live")
    for seq in range(2):
        come(stream, seq)
        stream.to_decode(0, ahead=2)
        stream.decide(seq, a_frame(seq))
    stream.settle()
    for seq in range(2, 5):
        come(stream, seq, FRESH_NS)
    stream.freshen()
    assert [frame.seq for frame in stream.waiting] == [0, 1], "they are fresh enough"
    come(stream, 5, FRESH_NS + 1)
    stream.freshen()
    # Three may wait: the newest three do.
    assert not stream.waiting
    assert seqs(stream.to_decode(FRESH_NS + 1, ahead=2)) == [3, 4]


def test_a_live_frame_that_nothing_supersedes_is_decoded_in_the_end() -> None:
    stream = opened("live")
    for seq in range(3):
        come(stream, seq)
    assert seqs(stream.to_decode(0, ahead=1)) == [0]
    assert stream.to_decode(LATE_NS - 1, ahead=1) == []
    assert seqs(stream.to_decode(LATE_NS, ahead=1)) == [1, 2]


def test_bytes_count_as_well_as_frames() -> None:
    stream = opened()
    accept(stream, 0)
    assert stream.offer(1, 3900) is Offer.NO_CREDIT
    assert not stream.settle()
    stream.take(1)
    assert isinstance(stream.settle()[-1], Ack)
    assert stream.offer(1, 3900) is Offer.TAKE


def test_a_frame_larger_than_the_bound_passes_alone() -> None:
    assert opened().offer(0, 10 * LIMITS.max_bytes) is Offer.TAKE


def test_what_a_frame_becomes_counts_before_it_is_decoded() -> None:
    """64 small JPEGs of a large picture must not become more than may be held."""
    stream = opened()
    for seq in range(3):
        assert stream.offer(seq, 10 + 3 * 400) is Offer.TAKE
    assert stream.offer(3, 10 + 3 * 400) is Offer.NO_CREDIT
    for seq in range(3):
        stream.decide(seq, a_frame(seq, pixels=400))
    stream.settle()
    assert stream.held_bytes == 3 * 3 * 400


def test_drops_have_reasons() -> None:
    stream = opened("live")
    for seq in range(5):
        accept(stream, seq)
    assert stream.drop_reasons == {"newer": 2}
    assert stream.offer(5, LIMITS.max_bytes - 700) is Offer.TAKE
    assert stream.drop_reasons == {"newer": 2, "memory": 1}
    later = Stream(limits=LIMITS)
    later.restore(Counts(frames_in=9, waiting=4, dropped=3, rejected=0), 9)
    assert (later.dropped, later.drop_reasons) == (7, {"lost": 4})


def test_busy_gives_unsettled_frames_back() -> None:
    stream = opened()
    for seq in range(3):
        assert stream.offer(seq, 10) is Offer.TAKE
    answers = stream.refuse_pending("busy", "later")
    assert [(a.seq, a.code) for a in answers if isinstance(a, Reject)] == [
        (0, "busy"),
        (1, "busy"),
        (2, "busy"),
    ]
    assert stream.held_bytes == 0
    assert stream.offer(3, 10) is Offer.NO_CREDIT
    assert stream.offer(0, 10) is Offer.TAKE


@given(frames_in=st.integers(0, 50), waiting=st.integers(0, 20))
def test_a_successor_counts_what_waited_as_dropped(frames_in: int, waiting: int) -> None:
    waiting = min(waiting, frames_in)
    stream = Stream(limits=LIMITS)
    counts = Counts(frames_in=frames_in, waiting=waiting, dropped=0, rejected=2)
    stream.restore(counts, next_seq=frames_in + 2)
    stream.open("lossless", 1)
    assert stream.settled + 1 == frames_in + 2
    assert stream.counts == Counts(frames_in=frames_in, waiting=0, dropped=waiting, rejected=2)
    accept(stream, frames_in + 2)

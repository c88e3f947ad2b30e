"""The order of frames, verdicts and credit, with no process around it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from stream_helpers import LIMITS, a_frame, a_job

from streamer.ingest.decoder import Job
from streamer.ingest.stream import FRESH_NS, LATE_NS, Offer, Stream
from streamer.protocol import ProtocolError
from streamer.protocol.internal import Counts
from streamer.protocol.messages import Ack, Reject


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

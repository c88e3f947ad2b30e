"""A sender's window against the ingest's stream: whatever is lost between them, every frame
arrives once and in order."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamer.client.window import Window
from streamer.frames import Frame
from streamer.ingest.stream import Offer, Stream, StreamLimits
from streamer.protocol import ProtocolError
from streamer.protocol.messages import Ack, FrameHeader, Reject


def header(stamp_ns: int) -> FrameHeader:
    return FrameHeader(seq=0, stamp_ns=stamp_ns, camera="c", encoding="jpeg", width=1, height=1)


class BothEnds(RuleBasedStateMachine):
    """A frame's stamp is what it is known by, and equals its number while nothing is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self.stream = Stream(limits=StreamLimits(max_waiting=4, live_waiting=2, max_bytes=3000))
        self.to_daemon: deque[tuple[int, int]] = deque()
        self.to_client: deque[Ack | Reject] = deque()
        self.decoding: list[tuple[int, int]] = []
        self.made = 0
        self.taken: list[int] = []
        self.bad: list[int] = []
        self.now = 0.0
        self.connect()

    def connect(self) -> None:
        self.to_daemon.clear()
        self.to_client.clear()
        self.stream.open("lossless", 300)
        self.window.welcome(self.stream.settled + 1, self.stream.credit)

    @rule()
    def the_program_has_a_frame(self) -> None:
        self.window.add(header(self.made), ())
        self.made += 1

    @rule()
    def the_client_sends(self) -> None:
        self.now += 1.0
        frame = self.window.next_frame(self.now)
        if frame is not None:
            self.to_daemon.append((frame.seq, frame.header.stamp_ns))
            self.window.mark_sent()

    @rule(nbytes=st.integers(1, 1400))
    def the_daemon_receives(self, nbytes: int) -> None:
        if not self.to_daemon:
            return
        seq, stamp = self.to_daemon.popleft()
        offer = self.stream.offer(seq, nbytes)
        if offer is Offer.TAKE:
            self.decoding.append((seq, stamp))
        elif offer is Offer.REPEAT:
            self.to_client.append(self.stream.ack())
        elif offer is Offer.NO_CREDIT:
            self.to_client.append(Reject(seq=seq, code="no_credit", reason="later"))
        else:
            raise AssertionError(f"the client left a gap before {seq}")

    @precondition(lambda self: self.decoding)
    @rule(data=st.data(), good=st.booleans())
    def a_frame_is_decoded(self, data: st.DataObject, good: bool) -> None:
        seq, stamp = self.decoding.pop(data.draw(st.integers(0, len(self.decoding) - 1)))
        image = np.zeros((1, 100, 3), np.uint8)
        frame = Frame(seq=seq, stamp_ns=stamp, camera="c", image=image, K=np.eye(3), c2w=None)
        if not good:
            self.bad.append(stamp)
        self.stream.decide(seq, frame if good else ProtocolError("bad_image", "x"))
        self.to_client += self.stream.settle()

    @rule()
    def the_daemon_is_full(self) -> None:
        given_back = {entry.seq for entry in self.stream.pending}
        refused = self.stream.refuse_pending("busy", "later")
        self.decoding.clear()
        self.bad = [stamp for stamp in self.bad if stamp not in given_back]
        self.to_client += refused

    @rule(count=st.integers(1, 4))
    def the_session_takes(self, count: int) -> None:
        self.taken += [frame.stamp_ns for frame in self.stream.take(count)]
        self.to_client += self.stream.settle()

    @rule()
    def the_client_receives(self) -> None:
        if not self.to_client:
            return
        message = self.to_client.popleft()
        if isinstance(message, Ack):
            self.window.ack(message.seq, message.credit, message.dropped)
        else:
            self.window.reject(message.seq, message.code, message.reason, self.now)

    @rule()
    def the_connection_breaks(self) -> None:
        self.connect()

    @invariant()
    def numbers_run_without_gaps(self) -> None:
        seqs = [frame.seq for frame in (*self.window.sent, *self.window.unsent)]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))) if seqs else True

    def teardown(self) -> None:
        for _ in range(4 * self.made + 20):
            if self.window.empty and not self.stream.waiting:
                break
            self.the_client_sends()
            self.the_daemon_receives(10)
            while self.decoding:
                seq, stamp = self.decoding.pop(0)
                image = np.zeros((1, 1, 3), np.uint8)
                self.stream.decide(
                    seq,
                    Frame(seq=seq, stamp_ns=stamp, camera="c", image=image, K=np.eye(3), c2w=None),
                )
                self.to_client += self.stream.settle()
            self.the_session_takes(4)
            while self.to_client:
                self.the_client_receives()
        assert self.window.empty, "something was never settled"
        assert self.taken == sorted(self.taken)
        assert sorted([*self.taken, *self.bad]) == list(range(self.made))
        assert {r.stamp_ns for r in self.window.rejected} <= set(self.bad)


BothEnds.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBothEnds = BothEnds.TestCase


def opened(credit: int = 4, next_seq: int = 0) -> Window:
    window = Window()
    window.welcome(next_seq, credit)
    return window


def send_all(window: Window) -> list[int]:
    seqs = []
    while (frame := window.next_frame(0.0)) is not None:
        seqs.append(frame.seq)
        window.mark_sent()
    return seqs


def test_nothing_is_sent_beyond_the_credit() -> None:
    window = opened(credit=2)
    for stamp in range(4):
        window.add(header(stamp), ())
    assert send_all(window) == [0, 1]
    window.ack(0, 2, 0)
    assert send_all(window) == [2]


def test_what_was_not_settled_is_sent_again() -> None:
    window = opened()
    for stamp in range(3):
        window.add(header(stamp), ())
    send_all(window)
    window.welcome(next_seq=1, credit=4)
    assert [(f.seq, f.header.stamp_ns) for f in window.unsent] == [(1, 1), (2, 2)]
    assert window.renumbered == 0


def test_a_daemon_that_counts_anew_gets_new_numbers() -> None:
    window = opened()
    for stamp in range(5):
        window.add(header(stamp), ())
    send_all(window)
    window.ack(2, 4, 0)
    window.welcome(next_seq=0, credit=4)
    assert [(f.seq, f.header.stamp_ns) for f in window.unsent] == [(0, 3), (1, 4)]
    assert window.add(header(9), ()) == 2
    assert window.renumbered == 1


def test_a_rejection_names_the_frame_and_settles_those_before() -> None:
    window = opened()
    for stamp in range(10, 13):
        window.add(header(stamp), ())
    send_all(window)
    rejection = window.reject(1, "bad_image", "no picture", 0.0)
    assert rejection is not None
    assert (rejection.seq, rejection.stamp_ns, window.acked) == (1, 11, 1)
    assert [frame.seq for frame in window.sent] == [2]


@pytest.mark.parametrize("code", ["no_credit", "busy"])
def test_a_refusal_that_settles_nothing_is_tried_again_later(code: str) -> None:
    window = opened()
    for stamp in range(3):
        window.add(header(stamp), ())
    send_all(window)
    assert window.reject(1, code, "later", now=0.0) is None
    assert window.reject(2, code, "later", now=0.0) is None
    assert window.next_frame(0.1) is None
    later = window.next_frame(5.0)
    assert later is not None and later.seq == 1
    window.ack(0, 4, 0)
    assert send_all(window) == [1, 2]
    assert not window.rejected


def test_the_live_policy_keeps_the_newest_frames() -> None:
    window = opened(credit=0, next_seq=5)
    for stamp in range(3):
        window.add(header(stamp), ())
    window.drop_oldest_unsent()
    assert [(f.seq, f.header.stamp_ns) for f in window.unsent] == [(5, 1), (6, 2)]
    assert window.dropped_here == 1


def test_what_waits_for_its_verdict_is_bounded_by_bytes() -> None:
    window = Window(max_bytes=100)
    window.welcome(0, 8)
    for stamp in range(3):
        assert not window.full
        window.add(header(stamp), (bytes(20), bytes(20)))
    assert window.full
    send_all(window)
    assert window.full, "what is on the wire may have to be sent again"
    window.ack(0, 8, 0)
    assert not window.full

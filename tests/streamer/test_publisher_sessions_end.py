"""Sessions end and come back as the publisher and its readers see it, over real sockets."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from journal_helpers import mixed
from publisher_helpers import LIMIT_S, Feed, repeating, running_publisher, serving, wait_for

from streamer.control import CONTROL, control_identity, ipc_address
from streamer.journal import Journal
from streamer.protocol import Header, decode, encode
from streamer.protocol.internal import SessionStarted
from streamer.protocol.links import SessionClosing, SessionEnded, SessionKept, SessionWanted
from streamer.protocol.requests import CloseRequest, RequestError
from streamer.requests import RequestRefused, Requests
from streamer.session.folder import begin_life, end_life
from streamer.subscriber import Subscriber


class Supervisor:
    """The other end of the publisher's control line."""

    def __init__(self, run_dir: Path) -> None:
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(ipc_address(run_dir, CONTROL))
        self._peer = control_identity("publisher", os.getpid())

    def say(self, header: Header) -> None:
        wait_for(lambda: self._said(header), "the publisher's line")

    def _said(self, header: Header) -> bool:
        try:
            self._socket.send_multipart([self._peer, *encode(header)])
        except zmq.ZMQError:
            return False
        return True

    def hears(self, kind: bytes) -> str:
        """The session that the next message of this kind names."""
        deadline = time.monotonic() + LIMIT_S
        while self._socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            message = decode(self._socket.recv_multipart()[1:])
            if message.kind == kind:
                return message.read(SessionWanted).session
        raise AssertionError(f"{kind!r} never came")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    there = Supervisor(tmp_path)
    yield there
    there.close()


@pytest.fixture
def addresses(tmp_path: Path, supervisor: Supervisor) -> Iterator[dict[str, str]]:
    folder = tmp_path / "sessions"
    with running_publisher(tmp_path, session_dir=folder, control=True) as bound:
        yield bound


@pytest.fixture
def requests(addresses: dict[str, str]) -> Iterator[Requests]:
    with Requests(addresses["requests"], timeout=LIMIT_S / 12) as asker:
        yield asker


def store(folder: Path, name: str) -> None:
    """A session as it lies on the disk when it has ended."""
    begin_life(folder / name, anew=False)
    journal = Journal.open(folder / name, name, 1)
    journal.write(mixed(4))
    journal.close()
    end_life(folder / name)


def start(supervisor: Supervisor, run_dir: Path, name: str, requests: Requests) -> Feed:
    """A session with one chunk."""
    supervisor.say(SessionStarted(session=name))
    feed = Feed(run_dir, name)
    feed.perform(("add", 1, 40))
    with serving(feed):
        wait_for(lambda: held(requests, name) == 1, f"the map of {name}")
    return feed


def held(requests: Requests, name: str) -> int:
    """Chunks that the publisher holds."""
    try:
        return len(requests.manifest(name).chunks)
    except RequestRefused:
        return 0


def test_an_end_is_told_and_a_reader_brings_the_session_back(
    tmp_path: Path, supervisor: Supervisor, addresses: dict[str, str], requests: Requests
) -> None:
    store(tmp_path / "sessions", "hall")
    feed = start(supervisor, tmp_path, "hall", requests)
    feed.say_status(frames_in=7, state="idle")
    (entry,) = listed(requests, frames_in=7)
    assert (entry.session, entry.state, entry.splats) == ("hall", "idle", 40)
    assert 0 <= entry.idle_s < LIMIT_S
    with Subscriber(addresses["updates"], addresses["requests"], "hall") as reader:
        wait_for(lambda: (reader.poll(0.05), reader.synced and reader.mirror.count)[1], "a mirror")
        supervisor.say(SessionEnded(session="hall"))
        ended = "the end to be told"
        wait_for(
            lambda: (reader.poll(0.05), reader.status and reader.status.state == "ended")[1], ended
        )
        assert reader.status is not None
        assert reader.status.frames_in == 7
        # The map stays with whoever has it, and nothing of it here; last words change nothing.
        assert reader.mirror.count == 40
        feed.say_status(frames_in=8, state="idle")
        assert requests.sessions() == []
        feed.close()

        with pytest.raises(RequestRefused, match="has ended") as refused:
            requests.status("hall")
        assert refused.value.code == "bad_session"
        with pytest.raises(RequestRefused, match="brought back") as refused:
            requests.manifest("hall")
        assert refused.value.code == "busy"
        assert supervisor.hears(SessionWanted.KIND) == "hall"
        supervisor.say(SessionKept(session="hall", code="busy", reason="4 sessions run already"))
        wait_for(lambda: "4 sessions" in refusal_of(requests, "hall"), "the reason")

        again = Feed(tmp_path, "hall")
        again.seq = 1 << 32
        again.perform(("add", 1, 40))
        again.perform(("add", 2, 30))
        supervisor.say(SessionStarted(session="hall"))

        def says_again_and_again() -> None:
            # The supervisor's word may come later than a session's own.
            again.hello()
            again.say_status(frames_in=9, state="idle")

        with serving(again), repeating(says_again_and_again, 0.1):
            requests.wake("hall")
            wait_for(lambda: (reader.poll(0.05), reader.mirror.count == 70)[1], "what is new")
        assert reader.epoch == 1
        again.close()


def listed(requests: Requests, frames_in: int) -> list[object]:
    wait_for(lambda: [e for e in requests.sessions() if e.frames_in == frames_in], "the listing")
    return list(requests.sessions())


def refusal_of(requests: Requests, name: str) -> str:
    try:
        requests.manifest(name)
    except RequestRefused as refused:
        return str(refused)
    return ""


def test_close_is_answered_when_the_session_has_ended_or_why_it_does_not(
    tmp_path: Path, supervisor: Supervisor, addresses: dict[str, str], requests: Requests
) -> None:
    store(tmp_path / "sessions", "hall")
    feed = start(supervisor, tmp_path, "hall", requests)
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(addresses["requests"])
    socket.send_multipart(encode(CloseRequest(session="hall", id=1)))
    assert supervisor.hears(SessionClosing.KIND) == "hall"
    supervisor.say(SessionKept(session="hall", code="busy", reason="client 'robot' sends"))
    assert socket.poll(int(LIMIT_S * 1000))
    error = decode(socket.recv_multipart()).read(RequestError)
    assert (error.id, error.code, error.reason) == (1, "busy", "client 'robot' sends")

    socket.send_multipart(encode(CloseRequest(session="hall", id=2)))
    assert supervisor.hears(SessionClosing.KIND) == "hall"
    # Not before it has ended.
    assert not socket.poll(300)
    supervisor.say(SessionEnded(session="hall"))
    assert socket.poll(int(LIMIT_S * 1000))
    answer = decode(socket.recv_multipart())
    assert answer.kind == CloseRequest.KIND
    # One that has ended is closed already; one that never was is not.
    requests.close_session("hall")
    with pytest.raises(RequestRefused, match="not known"):
        requests.close_session("nowhere")
    socket.close()
    feed.close()


def test_thirty_sessions_in_turn_leave_nothing_behind(
    tmp_path: Path, supervisor: Supervisor, requests: Requests
) -> None:
    for number in range(30):
        name = f"room{number}"
        feed = start(supervisor, tmp_path, name, requests)
        supervisor.say(SessionEnded(session=name))
        wait_for(lambda: requests.sessions() == [], "the table to be empty")
        feed.close()

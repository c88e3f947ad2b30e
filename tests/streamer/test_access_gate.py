"""The gate over real sockets: who gets in, who hears why not, and what a change does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq
from access_helpers import KeyFolder, descriptors, wait_for

from streamer.access.allowlist import AllowList
from streamer.access.daemon import ALLOWED, DAEMON
from streamer.access.gate import Domain, Gate
from streamer.access.handshakes import HandshakeWatch
from streamer.access.keys import ClientKeys, read_secret

SHORT_S = 0.4
Socket = zmq.Socket[bytes]


@dataclass
class Place:
    """A guarded ROUTER that answers every message with its sender's rights."""

    keys: KeyFolder
    gate: Gate
    address: str
    heard: list[bytes]


@contextmanager
def guarded(folder: Path, domain: Domain = "requests") -> Iterator[Place]:
    keys = KeyFolder(folder)
    context: zmq.Context[Socket] = zmq.Context()
    gate = Gate(context, read_secret(folder / f"{DAEMON}.key_secret"), AllowList(folder / ALLOWED))
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    gate.guard(router, domain)
    router.bind("tcp://127.0.0.1:*")
    place = Place(keys, gate, router.getsockopt_string(zmq.LAST_ENDPOINT), [])
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if not router.poll(20):
                continue
            identity, body = router.recv_multipart(copy=False)
            place.heard.append(body.bytes)
            answer = ",".join(sorted(right for right, _ in gate.rights(body).permissions)).encode()
            router.send_multipart([identity.bytes, answer])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield place
    finally:
        stop.set()
        thread.join()
        router.close()
        gate.close()
        context.term()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with guarded(tmp_path / "keys") as place:
        yield place


class Caller:
    """A DEALER that asks and listens to its handshakes."""

    def __init__(self, address: str, keys: ClientKeys | None) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if keys is not None:
            keys.apply(self.socket)
        self.watch = HandshakeWatch(self.socket, keys)
        self.socket.connect(address)

    def ask(self, question: bytes = b"?", seconds: float = 10.0) -> bytes | None:
        with suppress(zmq.Again):  # cut off before it could be asked: send would wait for ever
            self.socket.send(question, zmq.NOBLOCK)
        return self.socket.recv() if self.watch.readable(seconds) else None

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.close()
        self.socket.close()


def test_an_allowed_key_gets_in_with_its_rights(place: Place) -> None:
    both = place.keys.client("robot", "watch", "control")
    one = place.keys.client("phone", "control")
    wait_for(lambda: len(place.gate._allowed.grants) == 2, "the list to be read again")
    with Caller(place.address, both) as first, Caller(place.address, one) as second:
        assert first.ask() == b"control,watch"
        assert second.ask() == b"control"
        assert first.watch.trouble() is None


def test_who_is_not_on_the_list_is_told_at_once_and_not_heard(place: Place) -> None:
    with Caller(place.address, place.keys.stranger()) as caller:
        assert caller.ask(b"secret") is None
        assert caller.watch.refused()
        assert "does not allow this key" in str(caller.watch.trouble())
    assert place.heard == []


def test_a_right_to_another_socket_does_not_open_this_one(place: Place) -> None:
    keys = place.keys.client("robot", "ingest")
    wait_for(lambda: place.gate._allowed.grants, "the list to be read again")
    with Caller(place.address, keys) as caller:
        assert caller.ask() is None and caller.watch.refused()


def test_another_daemons_key_is_said(place: Place) -> None:
    with Caller(place.address, place.keys.deceived()) as caller:
        wait_for(caller.watch.trouble, "the handshake to fail")
        assert "is --server-key the present daemon.key" in str(caller.watch.trouble())
        assert caller.ask(seconds=SHORT_S) is None
    assert place.heard == []


def test_a_client_without_keys_is_told_that_there_are_some(place: Place) -> None:
    with Caller(place.address, None) as caller:
        wait_for(caller.watch.trouble, "the handshake to fail")
        assert "--key" in str(caller.watch.trouble())
        assert caller.ask(seconds=SHORT_S) is None
    assert place.heard == []


def test_a_client_with_keys_is_told_that_the_other_side_has_none(tmp_path: Path) -> None:
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:*")
    keys = KeyFolder(tmp_path / "keys").stranger()
    with router, Caller(router.getsockopt_string(zmq.LAST_ENDPOINT), keys) as caller:
        assert caller.ask() is None
        assert "has no keys" in str(caller.watch.trouble())


def test_rights_follow_the_folder_while_the_connection_stays(place: Place) -> None:
    keys = place.keys.client("robot", "watch", "control")
    wait_for(lambda: place.gate._allowed.grants, "the list to be read again")
    with Caller(place.address, keys) as caller:
        assert caller.ask() == b"control,watch"
        assert not place.gate.watchers_lost()
        place.keys.revoke("robot", "watch")
        wait_for(lambda: caller.ask() == b"control", "the right to go")
        wait_for(place.gate.watchers_lost, "the loss to be noticed")
        assert not place.gate.watchers_lost(), "said once"
        place.keys.revoke("robot", "control")
        wait_for(lambda: caller.ask() == b"", "all rights to go")
    with Caller(place.address, keys) as again:
        assert again.ask() is None and again.watch.refused()


def test_a_right_that_is_lost_while_that_is_asked_is_told_of_the_next_time(place: Place) -> None:
    class LostMeanwhile(threading.Event):
        def is_set(self) -> bool:
            before = super().is_set()
            self.set()
            return before

    place.gate._watchers_lost = LostMeanwhile()
    assert not place.gate.watchers_lost()
    assert place.gate.watchers_lost()


def test_without_its_gate_a_socket_lets_nobody_in(tmp_path: Path) -> None:
    """A thread that died must not open the door: libzmq alone would let every key in."""
    folder = KeyFolder(tmp_path / "keys")
    keys = folder.client("robot", "watch")
    context: zmq.Context[Socket] = zmq.Context()
    gate = Gate(
        context,
        read_secret(folder.folder / f"{DAEMON}.key_secret"),
        AllowList(folder.folder / ALLOWED),
    )
    with context.socket(zmq.ROUTER) as router:
        gate.guard(router, "requests")
        router.bind("tcp://127.0.0.1:*")
        address = router.getsockopt_string(zmq.LAST_ENDPOINT)
        with Caller(address, keys) as caller:
            caller.socket.send(b"?")
            assert router.poll(10_000), "an allowed key comes in while the gate is there"
            router.recv_multipart()
        gate.close()
        with Caller(address, keys) as caller:
            assert caller.ask(seconds=SHORT_S) is None
        assert not router.poll(0)
    context.term()


def test_a_gate_leaves_nothing_behind(tmp_path: Path) -> None:
    def open_and_close(name: str) -> None:
        with guarded(tmp_path / name) as place, Caller(place.address, place.keys.stranger()) as who:
            who.ask()

    open_and_close("first")
    # libzmq closes behind our back: what the first left may be gone a moment later.
    before = descriptors(os.getpid()), threading.active_count()
    for number in range(3):
        open_and_close(str(number))
    wait_for(lambda: descriptors(os.getpid()) <= before[0], "the descriptors to be given back")
    wait_for(lambda: threading.active_count() <= before[1], "the threads to end")

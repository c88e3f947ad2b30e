"""A session and a publisher that takes nothing for a while: nothing piles up, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import zmq
from map_strategies import random_splats
from publisher_helpers import wait_for

from gs_decoder import ChunkMeta, ChunkUpdate, MapMirror, SplatMap
from gs_decoder.updates import DropUpdate, MoveUpdate, Update
from streamer.protocol import Message, decode
from streamer.protocol.internal import Counts
from streamer.protocol.links import KeyframesMoved, SessionHello
from streamer.protocol.update_headers import UPDATE_HEADERS, ChunkHeader, StatusHeader
from streamer.protocol.updates import read_update
from streamer.publisher.mirror import SessionMirror, Verdict
from streamer.session import socket_outbox
from streamer.session.outbox import SessionStatus
from streamer.session.socket_outbox import SocketOutbox


@pytest.fixture
def ends() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    session, publisher = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    for socket in (session, publisher):
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 2)
        socket.setsockopt(zmq.RCVHWM, 2)
    publisher.bind("inproc://publish")
    session.connect("inproc://publish")
    yield session, publisher
    context.destroy()


def a_map(chunks: int) -> SplatMap:
    splat_map = SplatMap()
    for seq in range(chunks):
        meta = ChunkMeta(frame_seq=seq, stamp_ns=seq, camera="c", T_world_chunk=np.eye(4))
        splat_map.add(meta, random_splats(seq, 5, 0))
    return splat_map


def received(publisher: zmq.Socket[bytes], outbox: SocketOutbox) -> list[Message]:
    """Everything, as it is taken."""
    messages: list[Message] = []

    def take() -> bool:
        while publisher.poll(0):
            messages.append(decode(publisher.recv_multipart()))
        return outbox.ready and not publisher.poll(0)

    wait_for(take, "the rest")
    return messages


def changes(messages: list[Message]) -> list[Update]:
    updates = [read_update(m).update for m in messages if m.kind in UPDATE_HEADERS]
    return [update for update in updates if update is not None]


def test_what_does_not_go_waits_in_order(
    ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    session, publisher = ends
    outbox = SocketOutbox(session, "room", epoch=1)
    splat_map, mirror = a_map(20), MapMirror()
    outbox.updates(splat_map.drain_updates())
    assert not outbox.ready
    messages = received(publisher, outbox)
    seqs = [read_update(message).header.seq for message in messages]
    assert seqs == list(range(1, 21))
    for update in changes(messages):
        mirror.apply(update)
    assert mirror.equals(splat_map)


def test_a_publisher_that_asks_while_it_is_being_told_is_told_once(
    ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    session, publisher = ends
    outbox = SocketOutbox(session, "room", epoch=1)

    class Held:
        map = a_map(12)
        keyframes: dict[int, object] = {}  # noqa: RUF012

    for _ in range(3):
        outbox.everything(Held)  # type: ignore[arg-type]
    messages = received(publisher, outbox)
    kinds = [message.kind for message in messages]
    assert kinds.count(b"sync_begin") == kinds.count(b"sync_end") == 1
    assert sum(isinstance(update, ChunkUpdate) for update in changes(messages)) == 12
    outbox.everything(Held)  # type: ignore[arg-type]
    assert b"sync_end" in [message.kind for message in received(publisher, outbox)]


def test_a_publisher_that_is_away_too_long_asks_for_everything(
    ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_outbox, "_MOST_WAITING", 5)
    session, publisher = ends
    outbox = SocketOutbox(session, "room", epoch=1)
    outbox.begin(1)
    splat_map, mirror = a_map(3), SessionMirror("room")
    for message in received(publisher, outbox):
        mirror.receive(message)
    assert mirror.synced
    outbox.updates(splat_map.drain_updates())
    for number in range(20):
        splat_map.replace(0, random_splats(100 + number, 5, 0))
        outbox.updates(splat_map.drain_updates())
    verdicts = [mirror.receive(message) for message in received(publisher, outbox)]
    outbox.hello()
    verdicts += [mirror.receive(message) for message in received(publisher, outbox)]
    assert any(Verdict.RESYNC in verdict for verdict in verdicts)


def test_figures_that_would_come_late_are_left_out(
    ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    session, publisher = ends
    outbox = SocketOutbox(session, "room", epoch=1)
    figures = SessionStatus(
        keyframes=0,
        splats=0,
        splats_ready=0,
        splats_on_disk=0,
        keyframe_side=None,
        batch_ms=0.0,
        latency_ms=None,
        psnr=None,
        steps=0,
        model="",
    )

    def say() -> None:
        outbox.hello()
        outbox.status(figures, Counts(), "idle")

    outbox.updates(a_map(10).drain_updates())
    for _ in range(50):
        say()
    assert {message.kind for message in received(publisher, outbox)} == {ChunkHeader.KIND}
    say()
    kinds = [message.kind for message in received(publisher, outbox)]
    assert kinds == [SessionHello.KIND, StatusHeader.KIND]


def test_moves_beyond_what_a_header_holds_go_in_pieces(
    ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    session, publisher = ends
    outbox = SocketOutbox(session, "room", epoch=1)
    pose = np.eye(4)
    moves = [(chunk, 100_000 + chunk, pose) for chunk in range(25_000)]
    outbox.keyframes_moved(dict.fromkeys(range(25_000), pose))
    outbox.updates([MoveUpdate(moves), DropUpdate([(chunk, 1) for chunk in range(10_001)])])
    messages = received(publisher, outbox)
    assert [m.kind for m in messages].count(KeyframesMoved.KIND) == 3
    assert outbox.seq == 5
    moved = [move for u in changes(messages)[:3] if isinstance(u, MoveUpdate) for move in u.moves]
    assert [move[:2] for move in moved] == [move[:2] for move in moves]

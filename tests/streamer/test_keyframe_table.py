"""Key frames as a session remembers them, and as they reach the publisher's copy."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import zmq

from gs_decoder import MapConfig, SplatMap
from streamer.protocol import decode
from streamer.protocol.limits import MAX_INTERNAL_PARTS
from streamer.publisher.mirror import SessionMirror
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.outbox import Keyframe
from streamer.session.socket_outbox import SocketOutbox


def keyframe(seq: int, chunk: int | None = None) -> Keyframe:
    picture = f"picture {seq}".encode()
    return Keyframe(seq=seq, stamp_ns=seq, camera="", chunk=chunk, c2w=np.eye(4), thumbnail=picture)


def test_only_the_newest_keep_their_picture() -> None:
    table = KeyframeTable(pictured=3)
    for seq in range(5):
        table.add(keyframe(seq, chunk=seq))
        # One that moved is still as old as it was.
        table.move({0: np.eye(4)})
    assert [table[seq].thumbnail for seq in range(5)] == [
        b"",
        b"",
        *(f"picture {seq}".encode() for seq in (2, 3, 4)),
    ]
    assert [table[seq].chunk for seq in range(5)] == list(range(5))
    assert table.take_changed() == []


def test_key_frames_that_lost_their_chunk_are_told_of_once() -> None:
    table = KeyframeTable()
    for seq in range(4):
        table.add(keyframe(seq, chunk=10 + seq if seq else None))
    table.forget_chunks({11, 13, 99})
    assert [frame.chunk for frame in table.values()] == [None, None, 12, None]
    changed = table.take_changed()
    assert [frame.seq for frame in changed] == [1, 3]
    assert all(np.array_equal(frame.c2w, np.eye(4)) for frame in changed)
    expected = [replace(keyframe(seq), c2w=frame.c2w) for seq, frame in zip((1, 3), changed)]
    assert changed == expected
    assert table.take_changed() == []


def test_a_publisher_takes_key_frames_without_a_picture() -> None:
    """Sent anew on RESYNC, more of them than one message holds."""
    count = 1500
    table = KeyframeTable(pictured=2)
    for seq in range(count):
        table.add(keyframe(seq))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    mirror = SessionMirror("office")
    with context, context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
        far.bind("inproc://publish")
        near.connect("inproc://publish")
        session = SimpleNamespace(keyframes=table, map=SplatMap(MapConfig()))
        SocketOutbox(near, "office", epoch=1).everything(session)
        while far.poll(0):
            mirror.receive(decode(far.recv_multipart(), max_parts=MAX_INTERNAL_PARTS))
    assert mirror.synced
    entries = mirror.keyframes.entries()
    assert [entry.seq for entry in entries] == list(range(count))
    pictures = mirror.keyframes.thumbnails(entries)
    assert pictures[: count - 2] == [b""] * (count - 2)
    assert pictures[-1] == f"picture {count - 1}".encode()

"""The publisher's chunks: what it holds is its own, and no more than that."""

from __future__ import annotations

import weakref

import zmq
from map_strategies import random_meta, random_splats

from gs_decoder import SplatMap
from streamer.protocol import decode
from streamer.protocol.updates import encode_update
from streamer.publisher.table import Change, ChunkTable


def test_no_received_part_is_kept_alive_by_a_chunk() -> None:
    """A part of 100 bytes would keep the 8 kB alive that libzmq received it in."""
    splat_map = SplatMap()
    splat_map.add(random_meta(1), random_splats(1, 7, sh_degree=2))
    (update,) = splat_map.drain_updates()
    sent = encode_update(update, session="kitchen", epoch=1, seq=1)
    table = ChunkTable()
    with (
        zmq.Context() as context,
        context.socket(zmq.PAIR) as near,
        context.socket(zmq.PAIR) as far,
    ):
        port = far.bind_to_random_port("tcp://127.0.0.1")
        near.connect(f"tcp://127.0.0.1:{port}")
        near.send_multipart(sent)
        far.setsockopt(zmq.RCVTIMEO, 30_000)
        frames = far.recv_multipart(copy=False)
        received = [weakref.ref(frame) for frame in frames]
        table.join(Change.of(decode([frame.buffer for frame in frames])))
        del frames
    assert not any(frame() for frame in received)
    (record,) = table.chunks.values()
    assert [bytes(part) for part in record.parts] == [bytes(part) for part in sent[2:]]

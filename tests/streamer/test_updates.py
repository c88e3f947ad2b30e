"""The map's messages: what goes in comes out, to the bit for f32, and contradictions are named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_strategies import (
    operations,
    perform,
    random_meta,
    random_splats,
    seeds,
)

from gs_decoder import ChunkUpdate, MapMirror, SplatMap
from streamer.protocol import ProtocolError, decode
from streamer.protocol.arrays import box_frame, cut_parts, decode_splats, encode_splats, part_specs
from streamer.protocol.update_headers import ChunkHeader
from streamer.protocol.updates import decode_update, encode_update
from streamer.protocol.wire import encode


@given(operations)
def test_a_mirror_behind_the_wire_equals_the_map(steps: list[tuple[str, int, int]]) -> None:
    source, mirror, seq = SplatMap(), MapMirror(), 0
    for step in steps:
        perform(source, *step)
        for update in source.drain_updates():
            seq += 1
            frames = [bytes(f) for f in encode_update(update, session="s", epoch=3, seq=seq)]
            message = decode_update(frames)
            assert (message.header.session, message.header.epoch) == ("s", 3)
            assert message.header.seq == seq
            assert message.update is not None
            mirror.apply(message.update)
    assert mirror.equals(source)


@given(seeds, st.integers(0, 40), st.integers(0, 3))
def test_f16_keeps_a_thousandth_of_the_box(seed: int, count: int, degree: int) -> None:
    source = SplatMap()
    source.add(random_meta(seed), random_splats(seed, count, degree))
    (update,) = source.drain_updates()
    assert isinstance(update, ChunkUpdate)
    frames = encode_update(update, session="s", epoch=1, seq=1, codec="f16")
    assert sum(len(f) for f in frames[2:]) == count * 2 * (11 + 3 * (degree + 1) ** 2)
    received = decode_update(frames).update
    assert isinstance(received, ChunkUpdate)
    _, half = box_frame(update.chunk.aabb.tolist())
    for name, sent in update.chunk.splats.to_numpy().items():
        got = received.chunk.splats.to_numpy()[name]
        scale = half if name == "means" else np.maximum(np.abs(sent), 1e-3)
        assert np.all(np.abs(got - sent) <= scale * 2**-10)


def test_f16_of_values_past_its_range_stays_finite() -> None:
    arrays = random_splats(1, 3).to_numpy()
    arrays["scales"] = np.full((3, 3), 1e6, np.float32)
    box = [-9.0, -9.0, -9.0, 9.0, 9.0, 9.0]
    parts = encode_splats(arrays, box, "f16")
    specs = part_specs(3, 0, "f16")
    got = decode_splats(parts, specs, count=3, sh_degree=0, codec="f16", aabb=box)
    assert all(np.isfinite(values).all() for values in got.values())


@given(seeds, st.integers(0, 40), st.integers(0, 40))
def test_a_cut_chunk_is_the_beginning_of_the_whole_one(seed: int, count: int, keep: int) -> None:
    keep = min(keep, count)
    arrays = random_splats(seed, count, 2).to_numpy()
    box = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
    parts = cut_parts(encode_splats(arrays, box), part_specs(count, 2), keep)
    specs = part_specs(keep, 2)
    got = decode_splats(parts, specs, count=keep, sh_degree=2, codec="f32", aabb=box)
    for name, values in got.items():
        assert np.array_equal(values, arrays[name][:keep])


def chunk_frames() -> list[bytes]:
    source = SplatMap()
    source.add(random_meta(5), random_splats(5, 4))
    (update,) = source.drain_updates()
    return [bytes(f) for f in encode_update(update, session="s", epoch=1, seq=1)]


def altered(**changes: object) -> list[bytes]:
    frames = chunk_frames()
    header = decode(frames).read(ChunkHeader)
    values = {name: getattr(header, name) for name in header.__struct_fields__}
    return [*map(bytes, encode(ChunkHeader(**{**values, **changes}))), *frames[2:]]


@pytest.mark.parametrize(
    ("frames", "code", "words"),
    [
        (lambda: chunk_frames()[:-1], "bad_part", "4 parts"),
        (lambda: [*chunk_frames()[:-1], b"x"], "bad_part", "sh"),
        (lambda: altered(count=5), "bad_header", "means"),
        (lambda: altered(sh_degree=1), "bad_header", "sh"),
        (lambda: altered(sh_degree=7), "bad_header", "sh_degree"),
        (lambda: altered(codec="f16"), "bad_header", "dtype"),
        (lambda: altered(codec="spz"), "bad_header", "codec"),
        (lambda: altered(T_world_chunk=[float("nan")] * 16), "bad_pose", "T_world_chunk"),
        (lambda: altered(parts=part_specs(4, 0)[:4]), "bad_header", "parts"),
        (lambda: [b"chunk", b"\xc1"], "bad_header", "msgpack"),
        (lambda: [b"nonsense", b"\x80"], "bad_header", "kind"),
    ],
)
def test_contradictions_are_named(frames: object, code: str, words: str) -> None:
    with pytest.raises(ProtocolError) as error:
        decode_update(frames())  # type: ignore[operator]
    assert error.value.code == code
    assert words in error.value.reason

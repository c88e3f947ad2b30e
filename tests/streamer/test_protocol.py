"""Framing and headers: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.protocol import (
    ProtocolError,
    decode,
    encode,
    internal,
    messages,
    read_header,
    unpack_header,
)
from streamer.protocol.fields import SESSION_PATTERN, Empty, Header, UInt
from streamer.protocol.limits import (
    LARGE_HEADER_KINDS,
    MAX_CONTAINERS,
    MAX_HEADER_BYTES,
    MAX_INT,
    MAX_LARGE_HEADER_BYTES,
    MAX_PARTS,
    MAX_SIDE,
    MAX_STAMP,
)

UINT = st.integers(0, MAX_INT)
STAMP = st.integers(0, MAX_STAMP)
SIDE = st.integers(1, MAX_SIDE)
FLOAT = st.floats(allow_nan=False)
FLOATS9 = st.lists(FLOAT, min_size=9, max_size=9)
FLOATS16 = st.lists(FLOAT, min_size=16, max_size=16)
TEXT = st.text(max_size=40)
NAME = st.text(min_size=1, max_size=40)
SESSION = st.from_regex(SESSION_PATTERN)
TOKEN = st.none() | TEXT | UINT | FLOAT


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


CAMERA = st.builds(
    messages.CameraHeader,
    model=TEXT,
    width=SIDE,
    height=SIDE,
    params=st.lists(FLOAT, min_size=1, max_size=16),
    T_body_camera=maybe(FLOATS16),
)
CAMERAS = st.dictionaries(NAME, CAMERA, max_size=3)
DEPTH = st.builds(
    messages.DepthHeader,
    encoding=st.sampled_from(get_args(messages.DepthEncoding)),
    width=SIDE,
    height=SIDE,
    unit_m=FLOAT,
)
COUNTS = st.builds(internal.Counts, frames_in=UINT, waiting=UINT, dropped=UINT, rejected=UINT)
BATCH_FRAME = st.builds(
    internal.BatchFrame,
    seq=UINT,
    stamp_ns=STAMP,
    camera=TEXT,
    width=UINT,
    height=UINT,
    K=FLOATS9,
    c2w=maybe(FLOATS16),
    has_depth=st.booleans(),
    has_valid=st.booleans(),
    received_ns=UINT,
)
POSES = st.lists(st.tuples(STAMP, FLOATS16), max_size=4)
BY = st.sampled_from(["seq", "stamp"])

HEADERS: dict[type[Header], st.SearchStrategy[Any]] = {
    messages.Proto: st.builds(messages.Proto, proto=st.tuples(UINT, UINT)),
    messages.Hello: st.builds(
        messages.Hello,
        proto=st.tuples(UINT, UINT),
        session=SESSION,
        client=NAME,
        role=st.sampled_from(get_args(messages.Role)),
        cameras=maybe(CAMERAS),
        convention=maybe(TEXT),
        policy=st.sampled_from(get_args(messages.Policy)),
        clock=NAME,
        resume=st.booleans(),
    ),
    messages.Cameras: st.builds(messages.Cameras, cameras=CAMERAS),
    messages.FrameHeader: st.builds(
        messages.FrameHeader,
        seq=UINT,
        stamp_ns=STAMP,
        camera=TEXT,
        encoding=st.sampled_from(get_args(messages.ImageEncoding)),
        width=SIDE,
        height=SIDE,
        pose=maybe(FLOATS16),
        params=maybe(st.lists(FLOAT, min_size=1, max_size=16)),
        depth=maybe(DEPTH),
        mask=maybe(st.just(messages.MaskHeader(encoding="png"))),
    ),
    messages.SeqOnly: st.builds(messages.SeqOnly, seq=UINT),
    messages.Poses: st.builds(messages.Poses, revision=UINT, poses=POSES, by=BY, upto=maybe(STAMP)),
    messages.Flush: st.just(messages.Flush()),
    messages.Ping: st.builds(messages.Ping, t=TOKEN),
    messages.Bye: st.just(messages.Bye()),
    messages.Welcome: st.builds(
        messages.Welcome,
        proto=st.tuples(UINT, UINT),
        session=SESSION,
        epoch=UINT,
        credit=UINT,
        next_seq=UINT,
        durable=st.booleans(),
    ),
    messages.Ack: st.builds(messages.Ack, seq=st.integers(-1, MAX_INT), credit=UINT, dropped=UINT),
    messages.Reject: st.builds(messages.Reject, seq=UINT, code=TEXT, reason=TEXT),
    messages.PosesAck: st.builds(
        messages.PosesAck, revision=UINT, moved=UINT, unknown=st.lists(STAMP, max_size=5)
    ),
    messages.Error: st.builds(messages.Error, code=TEXT, reason=TEXT, revision=maybe(UINT)),
    messages.Pong: st.builds(messages.Pong, t=TOKEN),
    internal.Ready: st.builds(
        internal.Ready, process=TEXT, addresses=st.dictionaries(TEXT, TEXT, max_size=3)
    ),
    internal.NeedSession: st.builds(internal.NeedSession, session=SESSION),
    internal.SessionStarted: st.builds(internal.SessionStarted, session=SESSION),
    internal.SessionRefused: st.builds(
        internal.SessionRefused, session=SESSION, code=TEXT, reason=TEXT
    ),
    internal.State: st.builds(
        internal.State,
        session=SESSION,
        epoch=UINT,
        next_seq=UINT,
        want=UINT,
        batch=UINT,
        done=UINT,
        busy=st.booleans(),
    ),
    internal.Batch: st.builds(
        internal.Batch,
        frames=st.lists(BATCH_FRAME, max_size=3),
        counts=COUNTS,
        epoch=UINT,
        flush=st.booleans(),
    ),
    internal.CountsUpdate: st.builds(internal.CountsUpdate, counts=COUNTS, epoch=UINT),
    internal.PosesForward: st.builds(
        internal.PosesForward,
        revision=UINT,
        client=TEXT,
        entries=POSES,
        by=BY,
        upto=maybe(STAMP),
        received_upto=st.integers(-1, MAX_INT),
        waiting=st.lists(st.tuples(UINT, STAMP), max_size=4),
    ),
    internal.PosesDone: st.builds(
        internal.PosesDone,
        revision=UINT,
        client=TEXT,
        moved=UINT,
        unknown=st.lists(STAMP, max_size=4),
        code=maybe(TEXT),
        reason=maybe(TEXT),
    ),
    internal.ResetDone: st.builds(internal.ResetDone, session=SESSION, epoch=UINT),
}
ANY_HEADER = st.one_of(list(HEADERS.values()))

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_every_header_has_a_round_trip_here() -> None:
    declared = {
        value
        for module in (messages, internal)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Header) and value is not Header
    }
    assert declared == set(HEADERS)


@given(header=ANY_HEADER, parts=st.lists(st.binary(max_size=8), max_size=3))
def test_headers_and_parts_survive_the_wire(header: Header, parts: list[bytes]) -> None:
    message = decode(encode(header, *parts))
    assert message.kind == header.KIND
    assert message.read(type(header)) == header
    assert list(message.parts) == parts


@given(header=ANY_HEADER, extra=st.dictionaries(st.text(min_size=25, max_size=30), PLAIN))
def test_unknown_keys_are_ignored(header: Header, extra: dict[str, Any]) -> None:
    fields = unpack_header(bytes(encode(header)[1]), header.KIND)
    packed = msgpack.packb({**extra, **fields})
    assert read_header(packed, header.KIND, type(header)) == header


class Some(Header, frozen=True, kw_only=True):
    """Two keys of a larger header."""

    camera: str
    seq: UInt


def test_a_look_at_some_keys_is_as_strict_about_these() -> None:
    packed = msgpack.packb({**FRAME, "poses": [[1, [2.0]]] * 3})
    assert decode([b"FRAME", packed]).peek(Some) == Some(camera="c", seq=0)
    for wrong in ({**FRAME, "seq": -1}, {"camera": "c"}, {**FRAME, "seq": "0"}, []):
        message = decode([b"FRAME", msgpack.packb(wrong)])
        with pytest.raises(ProtocolError, match=r"seq|map") as caught:
            message.peek(Some)
        assert caught.value.code == "bad_header"


@given(raw=st.binary(max_size=100))
def test_a_look_at_arbitrary_bytes_raises_nothing_but_protocol_errors(raw: bytes) -> None:
    try:
        decode([b"FRAME", raw]).peek(Some)
    except ProtocolError as error:
        assert error.reason


@given(data=st.data())
def test_a_missing_key_is_named(data: st.DataObject) -> None:
    header = data.draw(HEADERS[messages.FrameHeader])
    fields = unpack_header(bytes(encode(header)[1]), b"FRAME")
    key = data.draw(st.sampled_from(["seq", "stamp_ns", "camera", "encoding", "width", "height"]))
    del fields[key]
    with pytest.raises(ProtocolError, match=key) as caught:
        read_header(msgpack.packb(fields), b"FRAME", messages.FrameHeader)
    assert caught.value.code == "bad_header"


FRAME = {
    "seq": 0,
    "stamp_ns": 1,
    "camera": "c",
    "encoding": "jpeg",
    "width": 4,
    "height": 4,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seq", "0"),
        ("seq", -1),
        ("seq", 2**53),
        ("seq", 1.5),
        ("seq", True),
        ("seq", None),
        ("stamp_ns", 2**63),
        ("camera", 3),
        ("encoding", "gif"),
        ("width", 0),
        ("height", MAX_SIDE + 1),
        ("pose", [1.0] * 15),
        ("pose", "eye"),
        ("pose", [[1.0, 0.0, 0.0, 0.0]] * 4),
        ("depth", {"encoding": "png16", "width": 4, "height": 4}),
        ("params", []),
        ("mask", {"encoding": "bmp"}),
        ("camera", msgpack.ExtType(1, b"x")),
    ],
)
def test_a_mistyped_key_is_named(key: str, value: Any) -> None:
    named = "unit_m" if key == "depth" else key
    if isinstance(value, msgpack.ExtType):
        named = "extension"
    with pytest.raises(ProtocolError, match=named) as caught:
        read_header(msgpack.packb({**FRAME, key: value}), b"FRAME", messages.FrameHeader)
    assert caught.value.code == "bad_header"


@given(raw=st.binary(max_size=400), kind=st.sampled_from([h.KIND for h in HEADERS]))
def test_arbitrary_bytes_raise_nothing_but_protocol_errors(raw: bytes, kind: bytes) -> None:
    for header_type in HEADERS:
        try:
            read_header(raw, kind, header_type)
        except ProtocolError as error:
            assert error.reason


@given(value=PLAIN | st.dictionaries(st.sampled_from(sorted(FRAME)), PLAIN))
def test_arbitrary_msgpack_raises_nothing_but_protocol_errors(value: Any) -> None:
    for header_type in HEADERS:
        try:
            read_header(msgpack.packb(value), header_type.KIND, header_type)
        except ProtocolError as error:
            assert error.reason


@given(frames=st.lists(st.binary(max_size=40), max_size=20))
def test_arbitrary_frames_raise_nothing_but_protocol_errors(frames: list[bytes]) -> None:
    try:
        decode(frames).read(Empty)
    except ProtocolError as error:
        assert error.reason


def test_an_absent_header_is_an_empty_one() -> None:
    assert decode([b"FLUSH"]).read(messages.Flush) == messages.Flush()


def test_header_limits_go_by_kind() -> None:
    padded = msgpack.packb({"x": "y" * MAX_HEADER_BYTES})
    with pytest.raises(ProtocolError, match=str(MAX_HEADER_BYTES)) as caught:
        decode([b"FRAME", padded])
    assert caught.value.code == "too_large"
    for kind in LARGE_HEADER_KINDS:
        assert decode([kind, padded]).header == padded
        with pytest.raises(ProtocolError):
            decode([kind, bytes(MAX_LARGE_HEADER_BYTES + 1)])


def test_a_header_over_the_limit_is_not_sent_either() -> None:
    with pytest.raises(ProtocolError) as caught:
        encode(messages.Reject(seq=0, code="bad_header", reason="x" * MAX_HEADER_BYTES))
    assert caught.value.code == "too_large"


def test_too_many_parts_are_refused() -> None:
    decode([b"FRAME", b"\x80", *[b""] * MAX_PARTS])
    with pytest.raises(ProtocolError, match=str(MAX_PARTS)):
        decode([b"FRAME", b"\x80", *[b""] * (MAX_PARTS + 1)])


ARRAY_OF_64K = b"\xdc\xff\xff"
BOMBS = {
    "nested arrays that claim 64k entries each": ARRAY_OF_64K * 20_000,
    "an array of 2^32 - 1 entries": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "a map of 2^32 - 1 entries": b"\xdf\xff\xff\xff\xff",
    "a text of 4 GB": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "an extension of 4 GB": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "nesting without end": b"\x81\xa1a" + b"\x91" * 60_000 + b"\x00",
    "megabytes of empty arrays": b"\x81\xa1a\xdd\x00\x3f\xff\x00" + b"\x90" * 0x3FFF00,
    "megabytes of empty maps": b"\x81\xa1a\xdd\x00\x3f\xff\x00" + b"\x80" * 0x3FFF00,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_cost_no_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            read_header(bomb, b"POSES", messages.Poses)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_CONTAINERS * 120 + 10 * MAX_LARGE_HEADER_BYTES


def test_not_a_number_is_left_to_those_who_know_what_the_field_means() -> None:
    packed = msgpack.packb({**FRAME, "pose": [math.nan] * 16})
    header = read_header(packed, b"FRAME", messages.FrameHeader)
    assert header.pose is not None and all(math.isnan(value) for value in header.pose)

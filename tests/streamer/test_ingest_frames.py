"""Frames through a real ingest process: verdicts, credit, batches and what they hold."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgpack
import numpy as np
import pytest
from bad_frames import BAD_FRAMES
from ingest_harness import FakeSession, IngestHarness, running_ingest
from raw_client import CAMERA, EYE, HEIGHT, WIDTH, RawClient, frame, jpeg, picture

from streamer.protocol.internal import Batch, CountsUpdate, SessionStarted


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IngestHarness]:
    with running_ingest(
        tmp_path_factory.mktemp("run"), max_sessions=50, max_waiting=6, live_waiting=3
    ) as harness:
        yield harness


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A session of its own for every test."""
    return re.sub("[^A-Za-z0-9]+", "-", request.node.name)[-60:].strip("-")


@pytest.fixture
def client(ingest: IngestHarness) -> Iterator[RawClient]:
    with ingest.client() as raw:
        yield raw


def begin(ingest: IngestHarness, client: RawClient, name: str, **hello: object) -> FakeSession:
    """A session whose first frame is accepted."""
    client.greet(session=name, **hello)
    client.send_frame(0)
    session = ingest.start_session(name)
    client.acked(0)
    return session


def test_frames_arrive_decoded_and_in_order(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name)
    for seq in range(1, 5):
        client.send_frame(seq)
    assert session.take_until(4) == [0, 1, 2, 3, 4]
    batch, parts = session.batches[0], session.parts[0]
    first = batch.frames[0]
    assert (first.width, first.height, first.stamp_ns) == (WIDTH, HEIGHT, frame(0)["stamp_ns"])
    assert first.c2w == EYE
    assert first.K == [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
    image = np.frombuffer(parts[0], np.uint8).reshape(HEIGHT, WIDTH, 3).astype(int)
    assert np.abs(image - picture(0)).mean() < 6
    assert 0 <= time.monotonic_ns() - first.received_ns < 120e9


def test_depth_and_mask_come_along(ingest: IngestHarness, client: RawClient, name: str) -> None:
    session = begin(ingest, client, name)
    depth = np.full((HEIGHT // 2, WIDTH // 2), 2500, np.uint16)
    depth[0, 0] = 0
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :8] = 1
    client.send(
        "FRAME",
        frame(
            1,
            depth={"encoding": "png16", "width": 32, "height": 24, "unit_m": 0.001},
            mask={"encoding": "png"},
        ),
        jpeg(1),
        cv2.imencode(".png", depth)[1].tobytes(),
        cv2.imencode(".png", mask)[1].tobytes(),
    )
    session.take_until(1)
    described = session.frames[-1]["frame"]
    assert described.has_depth and described.has_valid
    metres = np.frombuffer(session.parts[-1][-2], np.float32).reshape(HEIGHT, WIDTH)
    assert metres[0, 0] == 0
    np.testing.assert_allclose(metres[10:, 10:], 2.5)
    valid = np.frombuffer(session.parts[-1][-1], np.uint8).reshape(HEIGHT, WIDTH)
    assert not valid[:, :8].any()
    assert valid[:, 8:].all()


@pytest.mark.parametrize("convention", ["opengl", "arkit"])
def test_conventions_are_converted_at_the_door(
    ingest: IngestHarness, client: RawClient, name: str, convention: str
) -> None:
    session = begin(ingest, client, name, convention=convention)
    session.take_until(0)
    expected = np.diag([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(np.reshape(session.frames[0]["c2w"], (4, 4)), expected)


def test_a_body_carries_its_camera(ingest: IngestHarness, client: RawClient, name: str) -> None:
    body = np.eye(4)
    body[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    body[:3, 3] = [0.1, 0.2, 0.3]
    camera = {**CAMERA, "T_body_camera": body.reshape(-1).tolist()}
    session = begin(ingest, client, name, convention="ros_body", cameras={"front": camera})
    session.take_until(0)
    np.testing.assert_allclose(np.reshape(session.frames[0]["c2w"], (4, 4)), body)


def test_a_smaller_frame_scales_the_intrinsics(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name)
    client.send_frame(1, jpeg(1, 32, 24), width=32, height=24)
    client.send_frame(2, params=[40.0, 40.0, 30.0, 20.0])
    session.take_until(2)
    assert session.frames[1]["frame"].K[:3] == [25.0, 0.0, 16.0]
    assert session.frames[2]["frame"].K[:3] == [40.0, 0.0, 30.0]


def test_credit_runs_out_and_nothing_is_lost(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name)
    for seq in range(1, 6):
        client.send_frame(seq)
    assert client.acked(5)["credit"] == 0
    client.send_frame(6)
    client.send_frame(7)
    for seq in (6, 7):
        kind, header = client.receive("REJECT", "ERROR")
        assert (kind, header["seq"], header["code"]) == ("REJECT", seq, "no_credit")
    session.batch(2)
    ack = client.receive("ACK")[1]
    assert (ack["seq"], ack["credit"]) == (5, 2)
    client.send_frame(6)
    client.send_frame(7)
    client.acked(7)
    assert session.take_until(7) == list(range(8))
    assert session.batches[-1].counts.dropped == 0


def test_live_keeps_the_newest_and_counts_the_rest(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name, policy="live")
    for seq in (1, 2):
        client.send_frame(seq)
        assert client.acked(seq)["credit"] >= 3
    for seq in range(3, 9):
        client.send_frame(seq)
    # Nobody takes any: the newest get their verdict all the same.
    assert client.acked(8)["credit"] >= 3
    assert session.take_until(8) == [6, 7, 8]
    counts = session.batches[-1].counts
    assert (counts.frames_in, counts.waiting, counts.dropped) == (9, 0, 6)


def test_live_does_not_decode_what_newer_frames_push_out(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name, policy="live")
    for seq in (1, 2):
        client.send_frame(seq)
        client.acked(seq)
    # Three wait for the session, which takes none; of those that come now three are kept.
    for seq in range(3, 9):
        client.send_frame(seq, b"no picture" if seq < 6 else None)
    told = []
    while not told or told[-1][1]["seq"] < 5:
        told.append(client.receive())
    assert {kind for kind, _ in told} == {"ACK"}
    assert told[-1][1]["dropped"] == 3
    seqs = session.take_until(8)
    assert seqs[-3:] == [6, 7, 8]
    client.acked(8)
    session.want(0)
    counts = session.receive(CountsUpdate.KIND).read(CountsUpdate).counts
    while counts.frames_in < 9:
        counts = session.receive(CountsUpdate.KIND).read(CountsUpdate).counts
    assert (counts.rejected, counts.waiting, counts.dropped) == (0, 0, 9 - len(seqs))


def test_a_repeat_is_answered_with_the_current_ack(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name)
    client.send_frame(1)
    client.acked(1)
    for seq in (0, 1):
        client.send_frame(seq)
        assert client.receive() == ("ACK", {"seq": 1, "credit": 4, "dropped": 0})
    assert session.take_until(1) == [0, 1]


def test_a_gap_is_an_error_and_resuming_heals_it(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name)
    client.send_frame(2)
    kind, header = client.receive()
    assert (kind, header["code"]) == ("ERROR", "bad_seq")
    assert "1 is next" in header["reason"]
    with ingest.client() as again:
        assert again.greet(session=name, resume=True)["next_seq"] == 1
        again.send_frame(1)
        again.acked(1)
    assert session.take_until(1) == [0, 1]


def test_verdicts_come_in_order_of_seq(ingest: IngestHarness, client: RawClient, name: str) -> None:
    session = begin(ingest, client, name)
    # A large picture takes longer to decode than a missing pose takes to notice.
    client.send_frame(1)
    client.send_frame(2, pose=None)
    client.send_frame(3)
    client.send_frame(4, b"no picture")
    verdicts = []
    while not verdicts or verdicts[-1][1] < 4 or verdicts[-1][0] != "ACK":
        kind, header = client.receive()
        verdicts.append((kind, header["seq"]))
    seqs = [seq for _, seq in verdicts]
    assert seqs == sorted(seqs)
    assert [v for v in verdicts if v[0] == "REJECT"] == [("REJECT", 2), ("REJECT", 4)]
    assert session.take_until(3) == [0, 1, 3]
    session.want(1)
    update = session.receive(CountsUpdate.KIND).read(CountsUpdate)
    assert (update.counts.frames_in, update.counts.rejected) == (3, 2)


def test_flush_sends_what_there_is(ingest: IngestHarness, client: RawClient, name: str) -> None:
    session = begin(ingest, client, name)
    session.want(6)
    client.send("FLUSH")
    batch = session.receive(Batch.KIND).read(Batch)
    assert batch.flush
    assert [f.seq for f in batch.frames] == [0]
    client.send("FLUSH")
    batch = session.receive(Batch.KIND).read(Batch)
    assert batch.flush and not batch.frames


def test_a_partial_batch_goes_out_after_a_while(
    ingest: IngestHarness, client: RawClient, name: str
) -> None:
    session = begin(ingest, client, name)
    batch = session.batch(6)
    assert [f.seq for f in batch.frames] == [0]
    assert not batch.flush


def test_one_batch_answers_one_want(ingest: IngestHarness, client: RawClient, name: str) -> None:
    session = begin(ingest, client, name)
    for seq in range(1, 6):
        client.send_frame(seq)
    client.acked(5)
    session.want(2)
    stale = session.next_seq
    assert [f.seq for f in session.receive(Batch.KIND).read(Batch).frames] == [0, 1]
    # A STATE that was written before the batch arrived asks for nothing new.
    session.next_seq = stale
    session.want(2)
    with pytest.raises(TimeoutError):
        session.receive(Batch.KIND, timeout_s=0.8)
    session.next_seq = 2
    assert [f.seq for f in session.batch(2).frames] == [2, 3]


@pytest.mark.parametrize("case", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_a_bad_frame_is_rejected_and_the_stream_goes_on(
    ingest: IngestHarness, client: RawClient, name: str, case: tuple
) -> None:
    header, parts, code, named = case
    session = begin(ingest, client, name)
    client.send("FRAME", header, *parts)
    kind, answer = client.receive("REJECT", "ERROR")
    assert (kind, answer["seq"], answer["code"]) == ("REJECT", 1, code)
    assert named in answer["reason"]
    client.send_frame(2)
    client.acked(2)
    assert session.take_until(2) == [0, 2]
    assert "Traceback" not in ingest.log


@pytest.mark.parametrize(
    ("packed", "code"),
    [
        (b"\xc1garbage", "bad_header"),
        (msgpack.packb([1, 2, 3]), "bad_header"),
        (msgpack.packb({"seq": "one"}), "bad_header"),
        (msgpack.packb({**frame(1), "padding": "x" * 70_000}), "too_large"),
        (b"\xdd\xff\xff\xff\xff", "bad_header"),
    ],
    ids=["garbage", "no map", "no seq", "over the limit", "bomb"],
)
def test_a_header_without_a_readable_seq_ends_the_connection_only(
    ingest: IngestHarness, client: RawClient, name: str, packed: bytes, code: str
) -> None:
    session = begin(ingest, client, name)
    client.send("FRAME", packed, jpeg(1))
    kind, answer = client.receive()
    assert (kind, answer["code"]) == ("ERROR", code)
    client.send_frame(1)
    assert client.receive("ERROR")[1]["code"] == "no_hello"
    with ingest.client() as again:
        assert again.greet(session=name, resume=True)["next_seq"] == 1
        again.send_frame(1)
        again.acked(1)
    assert session.take_until(1) == [0, 1]
    assert "Traceback" not in ingest.log


def test_messages_of_no_known_shape_are_answered(ingest: IngestHarness, client: RawClient) -> None:
    client.socket.send_multipart([b""])
    assert client.receive()[1]["code"] == "bad_header"
    client.socket.send_multipart([b"x" * 100, b"", b""])
    assert client.receive()[1]["code"] == "bad_header"
    client.socket.send_multipart([b"\xff\xfe", b"\x80"])
    assert client.receive()[1]["code"] == "bad_header"


def test_no_frame_is_accepted_before_its_session_has_a_process(tmp_path: Path) -> None:
    side = 4000
    with running_ingest(tmp_path, decode_threads=2) as ingest, ingest.client() as client:
        client.greet(cameras={"front": CAMERA, "big": {**CAMERA, "width": side, "height": side}})
        # The first takes long and turns out bad, the second is good and decoded before it.
        mask = cv2.imencode(".png", np.zeros((side, side), np.uint8))[1].tobytes()[:60]
        client.send(
            "FRAME",
            frame(0, camera="big", width=side, height=side, mask={"encoding": "png"}),
            jpeg(0, side, side),
            mask,
        )
        client.send_frame(1)
        kind, header = client.receive("REJECT", "ERROR")
        assert (kind, header["seq"], header["code"]) == ("REJECT", 0, "bad_image"), header
        ingest.session_needed("kitchen")
        while not client.silent():
            assert client.receive()[1]["seq"] < 1
        ingest.say(SessionStarted(session="kitchen"))
        session = FakeSession(ingest.batches)
        client.acked(1)
        assert session.take_until(1) == [1]
        session.close()

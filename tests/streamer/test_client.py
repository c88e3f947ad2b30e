"""`Client` and `PoseClient` against a real ingest process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from ingest_harness import FakeSession, IngestHarness, running_ingest
from raw_client import HEIGHT, WIDTH, jpeg, picture

from streamer import (
    Camera,
    Client,
    ConnectionLostError,
    FrameRejectedError,
    PoseClient,
    RefusedError,
    SessionBusyError,
    SessionHoldsFramesError,
    StaleRevisionError,
)
from streamer.client import connection
from streamer.protocol.internal import PosesDone, PosesForward

CAMERA = Camera.pinhole(WIDTH, HEIGHT, 50.0, 50.0, 32.0, 24.0)
WAIT_S = 30.0


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IngestHarness]:
    with running_ingest(
        tmp_path_factory.mktemp("run"), max_sessions=30, max_waiting=5, live_waiting=3
    ) as harness:
        yield harness


def connect(ingest: IngestHarness, session: str, **changes: object) -> Client:
    arguments = {"cameras": {"front": CAMERA}, "convention": "opencv", "client": "test", **changes}
    return Client(ingest.address, session=session, **arguments)  # type: ignore[arg-type]


class Beside:
    """Runs a function in a thread and hands on what it returned or raised."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "it never ended"
        if self._error is not None:
            raise self._error


def take(ingest: IngestHarness, session: str, upto: int) -> tuple[Beside, list[FakeSession]]:
    """Start the session when it is asked for and take frames until `upto` came."""
    found: list[FakeSession] = []

    def run() -> None:
        found.append(ingest.start_session(session))
        found[0].take_until(upto)

    return Beside(run), found


def test_a_sender_needs_ten_lines(ingest: IngestHarness) -> None:
    beside, found = take(ingest, "ten-lines", 11)
    with connect(ingest, "ten-lines") as client:
        for index in range(12):
            assert client.send(picture(index), np.eye(4), stamp_ns=index) == index
    beside.join()
    assert found[0].seqs == list(range(12))
    assert client.acked == 11
    assert client.rejected == []
    assert client.unsettled == 0


def test_everything_a_frame_may_bring(ingest: IngestHarness) -> None:
    beside, found = take(ingest, "everything", 3)
    depth = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:4] = True
    depth_png = cv2.imencode(".png", depth)[1].tobytes()
    mask_png = cv2.imencode(".png", mask.astype(np.uint8))[1].tobytes()
    with connect(ingest, "everything", encoding="raw") as client:
        client.send(picture(0), np.eye(4), depth=depth, depth_unit_m=0.001, mask=mask)
        client.send(jpeg(1), np.eye(4), depth=depth_png, depth_unit_m=0.001, mask=mask_png)
        client.send(picture(2), np.eye(4), depth=depth / 1000.0, params=(40, 40, 30, 20))
        client.send(picture(3)[..., 0], np.eye(4), camera="front")
    beside.join()
    assert client.rejected == []
    session = found[0]
    np.testing.assert_array_equal(
        np.frombuffer(session.parts[0][0], np.uint8).reshape(HEIGHT, WIDTH, 3), picture(0)
    )
    flat = [part for parts in session.parts for part in parts]
    depths = [np.frombuffer(part, np.float32) for part in flat if len(part) == HEIGHT * WIDTH * 4]
    assert len(depths) == 3
    for metres in depths:
        np.testing.assert_allclose(metres, 1.5)
    valids = [np.frombuffer(part, np.uint8) for part in flat if len(part) == HEIGHT * WIDTH]
    assert [int(valid.sum()) for valid in valids] == [(HEIGHT - 4) * WIDTH] * 2


def test_arguments_that_cannot_be_sent_are_named_at_the_call(ingest: IngestHarness) -> None:
    with connect(ingest, "arguments", cameras={"left": CAMERA, "right": CAMERA}) as client:
        with pytest.raises(ValueError, match="camera"):
            client.send(picture(), np.eye(4))
        with pytest.raises(ValueError, match="image"):
            client.send(picture().astype(np.float32), np.eye(4), camera="left")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="JPEG"):
            client.send(b"no picture", np.eye(4), camera="left")
        with pytest.raises(ValueError, match="pose"):
            client.send(picture(), np.eye(3), camera="left")
        with pytest.raises(ValueError, match="depth_unit_m"):
            client.send(
                picture(), np.eye(4), camera="left", depth=np.ones((HEIGHT, WIDTH), np.uint16)
            )


def test_rejected_frames_are_named_and_the_rest_goes_on(ingest: IngestHarness) -> None:
    beside, found = take(ingest, "rejected", 3)
    with connect(ingest, "rejected") as client:
        client.send(picture(0), np.eye(4))
        client.send(picture(1), None, stamp_ns=77)
        client.send(picture(2), np.diag([1.0, 1.0, -1.0, 1.0]))
        client.send(picture(3), np.eye(4))
        assert client.wait(WAIT_S)
        rejected = client.rejected
    beside.join()
    assert found[0].seqs == [0, 3]
    assert [(r.seq, r.code) for r in rejected] == [(1, "no_pose"), (2, "bad_pose")]
    assert rejected[0].stamp_ns == 77
    assert "left-handed" in rejected[1].reason


def test_a_strict_client_raises(ingest: IngestHarness) -> None:
    client = connect(ingest, "strict", strict=True)
    client.send(picture(0), None)
    with pytest.raises(FrameRejectedError, match="no tracker"):
        client.wait(WAIT_S)
    with pytest.raises(FrameRejectedError):
        client.close()


def test_lossless_waits_for_credit(ingest: IngestHarness) -> None:
    with connect(ingest, "credit") as client:
        client.send(picture(0), np.eye(4))
        session = ingest.start_session("credit")
        # Five fit into the daemon and four wait here.
        for index in range(1, 9):
            client.send(picture(index), np.eye(4), timeout_s=WAIT_S)
        with pytest.raises(TimeoutError, match="credit"):
            client.send(picture(9), np.eye(4), timeout_s=0.5)
        beside = Beside(lambda: client.send(picture(9), np.eye(4), timeout_s=WAIT_S))
        session.take_until(9)
        beside.join()
    assert session.seqs == list(range(10))
    assert client.dropped == 0


def test_live_never_waits_and_counts_what_it_drops(ingest: IngestHarness) -> None:
    with connect(ingest, "live", policy="live") as client:
        assert client.send(picture(0), np.eye(4), stamp_ns=0) is None
        session = ingest.start_session("live")
        for index in range(1, 40):
            client.send(picture(index), np.eye(4), stamp_ns=index)
        assert client.wait(WAIT_S)
        dropped = client.dropped
        last = client.acked
    session.take_until(last)
    stamps = [entry["frame"].stamp_ns for entry in session.frames]
    assert stamps[-1] == 39
    assert stamps == sorted(stamps)
    assert len(stamps) + dropped == 40


def test_flush_reaches_the_session(ingest: IngestHarness) -> None:
    with connect(ingest, "flush") as client:
        client.send(picture(0), np.eye(4))
        session = ingest.start_session("flush")
        client.wait(WAIT_S)
        client.flush()
        batch = session.batch(4)
        while not batch.flush:
            batch = session.batch(4)
        assert 0 in session.seqs


def test_refusals_have_names(ingest: IngestHarness) -> None:
    with connect(ingest, "named", client="first") as first:
        with pytest.raises(SessionBusyError, match="first"):
            connect(ingest, "named", client="second")
        beside, _ = take(ingest, "named", 0)
        first.send(picture(0), np.eye(4))
        first.wait(WAIT_S)
        beside.join()
    with pytest.raises(SessionHoldsFramesError, match="resume"):
        connect(ingest, "named", client="first")
    with connect(ingest, "named", client="first", resume=True) as again:
        assert again.acked == 0
    with pytest.raises(RefusedError, match="convention"):
        connect(ingest, "named", convention="opencl")
    with pytest.raises(ValueError, match="address"):
        Client("localhost", session="x", cameras={}, convention="opencv")


def test_no_daemon_is_said_soon(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLostError, match="splatstream serve"):
        Client(
            f"ipc://{tmp_path}/nobody",
            session="x",
            cameras={"front": CAMERA},
            convention="opencv",
            connect_timeout_s=0.5,
        )
    with pytest.raises(ConnectionLostError, match="splatstream serve"):
        PoseClient(f"ipc://{tmp_path}/nobody", "x", timeout_s=0.5)


def test_a_killed_ingest_is_survived_without_the_users_doing(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest:
        with connect(ingest, "kitchen") as client:
            client.send(picture(0), np.eye(4), stamp_ns=0)
            session = ingest.start_session()
            client.wait(WAIT_S)
            session.take_until(0)
            ingest.kill()
            for index in range(1, 4):
                client.send(picture(index), np.eye(4), stamp_ns=index)
            ingest.start()
            assert client.wait(WAIT_S)
            assert client.connects == 2
            for index in range(4, 6):
                client.send(picture(index), np.eye(4), stamp_ns=index)
            session.take_until(5)
        assert [entry["frame"].stamp_ns for entry in session.frames] == list(range(6))
        session.close()


def test_a_reset_session_is_fed_on_with_new_numbers(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, connect(ingest, "kitchen") as client:
        client.send(picture(0), np.eye(4))
        session = ingest.start_session()
        client.send(picture(1), np.eye(4))
        client.wait(WAIT_S)
        session.take_until(1)
        session.reset()
        session.frames.clear()
        until = time.monotonic() + WAIT_S
        while client.connects < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert client.send(picture(2), np.eye(4)) == 0
        session.take_until(0)
        session.close()


def test_a_daemon_away_too_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PING_AFTER_S", 0.5)
    monkeypatch.setattr(connection, "SILENT_FOR_S", 1.5)
    with running_ingest(tmp_path) as ingest:
        client = connect(ingest, "kitchen", lost_after_s=0.5)
        client.send(picture(0), np.eye(4))
        session = ingest.start_session()
        client.wait(WAIT_S)
        ingest.kill()
        client.send(picture(1), np.eye(4))
        with pytest.raises(ConnectionLostError, match="1 frames are unsettled"):
            client.wait(WAIT_S)
        with pytest.raises(ConnectionLostError):
            client.close()
        session.close()


def test_a_daemon_without_room_is_an_error_after_a_while(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest:
        client = connect(ingest, "kitchen", lost_after_s=0.5)
        client.send(picture(0), np.eye(4))
        ingest.refuse_session()
        assert client.unsettled == 1
        ingest.refuse_session()
        with pytest.raises(SessionBusyError, match="4 sessions"):
            client.wait(WAIT_S)
        with pytest.raises(SessionBusyError):
            client.close()


def test_poses_are_corrected_and_answered(ingest: IngestHarness) -> None:
    with connect(ingest, "poses") as client:
        client.send(picture(0), np.eye(4))
        session = ingest.start_session("poses")
        client.wait(WAIT_S)
        session.take_until(0)
    pose = np.eye(4)
    pose[:3, 3] = [1, 2, 3]
    with PoseClient(ingest.address, "poses", timeout_s=WAIT_S) as slam:
        forwards: list[PosesForward] = []
        beside = Beside(lambda: forwards.append(session.answer_poses(1, unknown=[5])))
        ack = slam.send_poses(1, {0: pose, 5: pose}, upto=0)
        beside.join()
        assert (ack.revision, ack.moved, ack.unknown) == (1, 1, [5])
        assert forwards[0].entries[0] == (0, pose.reshape(-1).tolist())

        def refuse() -> None:
            forward = session.receive(PosesForward.KIND).read(PosesForward)
            session.say(
                PosesDone(revision=1, client=forward.client, code="bad_revision", reason="old")
            )

        beside = Beside(refuse)
        with pytest.raises(StaleRevisionError, match="old"):
            slam.send_poses(1, {0: pose})
        beside.join()
        with pytest.raises(RefusedError, match="left-handed"):
            slam.send_poses(2, {0: np.diag([1.0, 1.0, -1.0, 1.0])})
        with pytest.raises(ValueError, match="shape"):
            slam.send_poses(2, {0: np.eye(3)})

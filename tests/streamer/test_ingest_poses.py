"""Corrections on their way through the ingest: checked, converted, forwarded, answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ingest_harness import FakeSession, IngestHarness, running_ingest
from raw_client import CAMERA, EYE, RawClient

from streamer.protocol.internal import PosesDone, PosesForward


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IngestHarness]:
    with running_ingest(tmp_path_factory.mktemp("run"), max_sessions=20) as harness:
        yield harness


@pytest.fixture
def slam(ingest: IngestHarness) -> Iterator[RawClient]:
    with ingest.client() as client:
        yield client


def begin(ingest: IngestHarness, slam: RawClient, name: str, **hello: Any) -> FakeSession:
    """A session with two frames, the second still in the ingest; `slam` may correct it."""
    with ingest.client() as sender:
        sender.greet(session=name, **hello)
        cameras = list(hello.get("cameras", {"front": CAMERA}))
        sender.send_frame(0, camera=cameras[0])
        session = ingest.start_session(name)
        sender.acked(0)
        session.take_until(0)
        sender.send_frame(1, camera=cameras[-1])
        sender.acked(1)
    greet(slam, name)
    return session


def greet(slam: RawClient, name: str, **more: Any) -> None:
    hello = {"proto": [1, 0], "session": name, "client": "slam", "role": "poses"}
    slam.send("HELLO", {**hello, **more})
    assert slam.receive()[0] == "WELCOME"


def moved(x: float, scale: float = 1.0) -> list[float]:
    pose = np.diag([scale, scale, scale, 1.0])
    pose[0, 3] = x
    return pose.reshape(-1).tolist()


def test_a_correction_goes_to_the_session_and_its_answer_comes_back(
    ingest: IngestHarness, slam: RawClient
) -> None:
    session = begin(ingest, slam, "there-and-back")
    slam.send("POSES", {"revision": 4, "poses": [[0, moved(1.5)], [9, moved(2.0)]], "upto": 1})
    forward = session.answer_poses(moved=1, unknown=[9])
    assert forward.entries == [(0, moved(1.5)), (9, moved(2.0))]
    assert (forward.by, forward.upto, forward.received_upto) == ("seq", 1, 1)
    assert forward.waiting == [(1, 1_700_000_000_033_000_000)]
    assert slam.receive() == ("POSES_ACK", {"revision": 4, "moved": 1, "unknown": [9]})


def test_stamps_pass_as_they_are(ingest: IngestHarness, slam: RawClient) -> None:
    session = begin(ingest, slam, "by-stamp")
    stamp = 1_700_000_000_000_000_000
    slam.send("POSES", {"revision": 1, "poses": [[stamp, moved(1.0)]], "by": "stamp"})
    assert session.answer_poses(moved=1).entries == [(stamp, moved(1.0))]
    assert slam.receive()[1]["moved"] == 1


def test_poses_are_in_the_convention_of_the_frames(ingest: IngestHarness, slam: RawClient) -> None:
    session = begin(ingest, slam, "opengl", convention="opengl")
    slam.send("POSES", {"revision": 1, "poses": [[0, moved(3.0)]]})
    expected = np.diag([1.0, -1.0, -1.0, 1.0])
    expected[0, 3] = 3.0
    np.testing.assert_allclose(np.reshape(session.answer_poses(1).entries[0][1], (4, 4)), expected)


def test_a_corrector_may_state_a_convention_of_its_own(
    ingest: IngestHarness, slam: RawClient
) -> None:
    session = begin(ingest, slam, "own-convention", convention="opengl")
    greet(slam, "own-convention", convention="opencv")
    slam.send("POSES", {"revision": 1, "poses": [[0, moved(3.0)]]})
    assert session.answer_poses(1).entries == [(0, moved(3.0))]
    slam.receive("POSES_ACK")
    greet(slam, "own-convention", convention="ros_body")
    slam.send("POSES", {"revision": 2, "poses": [[0, moved(3.0)]]})
    kind, header = slam.receive()
    assert (kind, header["code"]) == ("ERROR", "bad_camera")
    assert "T_body_camera" in header["reason"]
    hello = {"proto": [1, 0], "session": "own-convention", "client": "slam", "role": "poses"}
    slam.send("HELLO", {**hello, "convention": "openvc"})
    assert slam.receive()[1]["code"] == "bad_header"


def test_each_camera_of_a_body_has_its_own_place(ingest: IngestHarness, slam: RawClient) -> None:
    def camera(y: float) -> dict[str, Any]:
        place = np.eye(4)
        place[1, 3] = y
        return {**CAMERA, "T_body_camera": place.reshape(-1).tolist()}

    session = begin(
        ingest,
        slam,
        "body",
        convention="ros_body",
        cameras={"left": camera(0.1), "right": camera(-0.1)},
    )
    slam.send("POSES", {"revision": 1, "poses": [[0, moved(1.0)], [1, moved(1.0)], [7, EYE]]})
    entries = dict(session.answer_poses(2).entries)
    assert np.reshape(entries[0], (4, 4))[1, 3] == pytest.approx(0.1)
    assert np.reshape(entries[1], (4, 4))[1, 3] == pytest.approx(-0.1)
    assert slam.receive()[1]["unknown"] == [7]


def test_a_uniform_scale_is_allowed(ingest: IngestHarness, slam: RawClient) -> None:
    session = begin(ingest, slam, "scale")
    slam.send("POSES", {"revision": 1, "poses": [[0, moved(0.0, scale=2.5)]]})
    assert session.answer_poses(1).entries == [(0, moved(0.0, scale=2.5))]
    assert slam.receive()[0] == "POSES_ACK"


@pytest.mark.parametrize(
    ("pose", "named"),
    [
        ([float("nan")] * 16, "nan"),
        (np.diag([1.0, 1.0, -1.0, 1.0]).reshape(-1).tolist(), "left-handed"),
        (np.diag([1.0, 2.0, 1.0, 1.0]).reshape(-1).tolist(), "orthonormal"),
        ([0.0] * 16, "last row"),
        (moved(1e60), "origin"),
    ],
)
def test_a_bad_correction_changes_nothing_and_the_next_one_counts(
    ingest: IngestHarness, slam: RawClient, pose: list[float], named: str
) -> None:
    name = f"bad-{named.split()[0]}"
    session = begin(ingest, slam, name)
    slam.send("POSES", {"revision": 1, "poses": [[0, EYE], [1, pose]]})
    kind, header = slam.receive()
    assert (kind, header["code"], header["revision"]) == ("ERROR", "bad_pose", 1)
    assert "poses[1]" in header["reason"] and named in header["reason"]
    slam.send("POSES", {"revision": 1, "poses": [[0, EYE]]})
    assert session.answer_poses(1).entries == [(0, EYE)]
    assert slam.receive()[0] == "POSES_ACK"


def test_a_stale_revision_is_refused_by_the_session(ingest: IngestHarness, slam: RawClient) -> None:
    session = begin(ingest, slam, "stale")
    slam.send("POSES", {"revision": 1, "poses": [[0, EYE]]})
    forward = session.receive(PosesForward.KIND).read(PosesForward)
    session.say(
        PosesDone(revision=1, client=forward.client, code="bad_revision", reason="2 came before")
    )
    kind, header = slam.receive()
    assert (kind, header["code"], header["revision"]) == ("ERROR", "bad_revision", 1)
    slam.send("POSES", {"revision": 3, "poses": [[0, EYE]]})
    session.answer_poses(1)
    assert slam.receive()[0] == "POSES_ACK"


def test_frames_that_nobody_sent_are_unknown(ingest: IngestHarness, slam: RawClient) -> None:
    greet(slam, "never-seen")
    slam.send("POSES", {"revision": 1, "poses": [[3, EYE]]})
    assert slam.receive() == ("POSES_ACK", {"revision": 1, "moved": 0, "unknown": [3]})


def test_a_whole_trajectory_fits_into_one_correction(
    ingest: IngestHarness, slam: RawClient
) -> None:
    session = begin(ingest, slam, "long")
    poses = [[seq, moved(seq * 0.01)] for seq in range(20_000)]
    slam.send("POSES", {"revision": 1, "poses": poses})
    forward = session.answer_poses(2, unknown=list(range(2, 20_000)))
    assert len(forward.entries) == 20_000
    assert len(slam.receive()[1]["unknown"]) == 19_998


def test_a_session_that_answers_nothing_is_not_told_more_and_more(
    ingest: IngestHarness, slam: RawClient
) -> None:
    session = begin(ingest, slam, "silent")
    poses = [[seq, moved(seq * 0.01)] for seq in range(20_000)]
    for revision in range(5):
        slam.send("POSES", {"revision": revision, "poses": poses})
    for revision in (5, 6):
        slam.send("POSES", {"revision": revision, "poses": [[0, EYE]]})
        kind, header = slam.receive()
        assert (kind, header["code"], header["revision"]) == ("ERROR", "busy", revision)
        assert "5 corrections" in header["reason"]
    for revision in range(5):
        assert session.answer_poses(1).revision == revision
        assert slam.receive()[1]["revision"] == revision
    slam.send("POSES", {"revision": 7, "poses": [[0, EYE]]})
    session.answer_poses(1)
    assert slam.receive() == ("POSES_ACK", {"revision": 7, "moved": 1, "unknown": []})


def test_a_revision_that_comes_twice_has_two_answers(
    ingest: IngestHarness, slam: RawClient
) -> None:
    session = begin(ingest, slam, "twice")
    for _ in range(2):
        slam.send("POSES", {"revision": 3, "poses": [[0, EYE]]})
    kind, header = slam.receive()
    assert (kind, header["code"], header["revision"]) == ("ERROR", "bad_revision", 3)
    assert session.answer_poses(1).revision == 3
    assert slam.receive()[0] == "POSES_ACK"


def test_correctors_are_answered_each_his_own(ingest: IngestHarness, slam: RawClient) -> None:
    """Two back ends and the sender itself, who count revisions as they like."""
    session = begin(ingest, slam, "several")
    with ingest.client() as other, ingest.client() as sender:
        greet(other, "several")
        sender.greet(session="several", resume=True)
        for client, x in ((slam, 1.0), (other, 2.0), (sender, 3.0)):
            client.send("POSES", {"revision": 8, "poses": [[0, moved(x)]]})
            forward = session.receive(PosesForward.KIND).read(PosesForward)
            assert forward.entries == [(0, moved(x))]
            applied = client is slam
            session.say(
                PosesDone(
                    revision=8,
                    client=forward.client,
                    moved=1 if applied else 0,
                    code=None if applied else "bad_revision",
                    reason=None if applied else "8 is not above 8",
                )
            )
            _, header = client.receive("POSES_ACK" if applied else "ERROR")
            assert header["revision"] == 8
            assert applied or header["code"] == "bad_revision"

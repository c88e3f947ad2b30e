"""HELLO: versions, names, cameras, and who may send into a session. A real ingest process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ingest_harness import IngestHarness, running_ingest
from raw_client import CAMERA, hello


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IngestHarness]:
    with running_ingest(tmp_path_factory.mktemp("run"), max_sessions=20) as harness:
        yield harness


def test_welcome_says_where_to_begin(ingest: IngestHarness) -> None:
    with ingest.client() as client:
        assert client.greet(session="new") == {
            "proto": [1, 0],
            "session": "new",
            "epoch": 0,
            "credit": 64,
            "next_seq": 0,
            "durable": True,
        }


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"proto": [2, 0]}, "bad_version", "version 2"),
        ({"proto": None}, "bad_header", "proto"),
        ({"proto": "1.0"}, "bad_header", "proto"),
        ({"session": "../up"}, "bad_session", "session"),
        ({"session": "x" * 65}, "bad_session", "64"),
        ({"session": "name\n"}, "bad_session", "session"),
        ({"client": None}, "bad_header", "client"),
        ({"client": 7}, "bad_header", "client"),
        ({"cameras": None}, "bad_header", "cameras"),
        ({"convention": None}, "bad_header", "convention"),
        ({"convention": "openvc"}, "bad_header", "opencv"),
        ({"convention": "ros_body"}, "bad_camera", "T_body_camera"),
        ({"policy": "loose"}, "bad_header", "policy"),
        ({"role": "viewer"}, "bad_header", "role"),
        ({"cameras": {"front": {**CAMERA, "model": "PINHOL"}}}, "bad_camera", "PINHOLE"),
        ({"cameras": {"front": {**CAMERA, "params": [1.0, 2.0]}}}, "bad_camera", "params"),
        ({"cameras": {"front": {**CAMERA, "params": [float("nan")] * 4}}}, "bad_camera", "front"),
        ({"cameras": {"front": {**CAMERA, "width": 0}}}, "bad_header", "width"),
        ({"cameras": {"front": {**CAMERA, "T_body_camera": [1.0] * 16}}}, "bad_camera", "T_body"),
    ],
)
def test_a_bad_hello_is_refused_by_name(
    ingest: IngestHarness, changes: dict[str, Any], code: str, named: str
) -> None:
    with ingest.client() as client:
        error = client.refused(**changes)
        assert error["code"] == code
        assert named in error["reason"]
        assert client.greet(session="after-bad-hello")


def test_a_newer_minor_version_is_welcome(ingest: IngestHarness) -> None:
    with ingest.client() as client:
        client.send("HELLO", hello(session="minor", proto=[1, 9]))
        assert client.receive()[0] == "WELCOME"


@pytest.mark.parametrize("kind", ["FRAME", "PING", "FLUSH", "POSES", "CAMERAS", "BYE"])
def test_nothing_goes_without_hello(ingest: IngestHarness, kind: str) -> None:
    with ingest.client() as client:
        client.send(kind, {})
        answer, header = client.receive()
        assert (answer, header["code"]) == ("ERROR", "no_hello")


def test_another_name_is_busy_until_the_first_says_bye(ingest: IngestHarness) -> None:
    with ingest.client() as first, ingest.client() as second:
        first.greet(session="shared", client="first")
        error = second.refused(session="shared", client="second")
        assert error["code"] == "busy"
        assert "first" in error["reason"]
        assert "--session" in error["reason"]
        first.send("BYE")
        first.send("PING", {"t": 1})
        assert first.receive()[1]["code"] == "no_hello"
        second.greet(session="shared", client="second")


def test_a_session_with_frames_must_be_resumed(ingest: IngestHarness) -> None:
    with ingest.client() as first, ingest.client() as second:
        first.greet(session="held")
        first.send_frame(0)
        session = ingest.start_session("held")
        first.acked(0)
        refusal = second.refused(session="held")
        assert refusal["code"] == "bad_session"
        for remedy in ("--resume", "--session", "Requests(...).reset('held')"):
            assert remedy in refusal["reason"]
        welcome = second.greet(session="held", resume=True)
        assert (welcome["next_seq"], welcome["credit"]) == (1, 63)
        # The same name took over at once: the first connection counts for nothing now.
        first.send_frame(1)
        assert first.receive("ERROR")[1]["code"] == "no_hello"
        second.send_frame(1)
        second.acked(1)
        assert session.take_until(1) == [0, 1]
        session.close()


def test_welcome_names_the_epoch_of_a_running_session(ingest: IngestHarness) -> None:
    with ingest.client() as client:
        client.greet(session="epochs")
        client.send_frame(0)
        session = ingest.start_session("epochs")
        session.epoch = 7
        session.take_until(0)
        assert client.greet(session="epochs", resume=True)["epoch"] == 7
        session.close()


def test_poses_clients_need_no_cameras_and_disturb_nobody(ingest: IngestHarness) -> None:
    with ingest.client() as sender, ingest.client() as slam, ingest.client() as other:
        sender.greet(session="slam")
        for name, client in (("a", slam), ("b", other)):
            client.send(
                "HELLO", {"proto": [1, 0], "session": "slam", "client": name, "role": "poses"}
            )
            assert client.receive()[0] == "WELCOME"
        slam.send_frame(0)
        assert slam.receive()[1]["code"] == "no_hello"
        sender.send("PING", {"t": 5})
        assert sender.receive() == ("PONG", {"t": 5})


def test_cameras_may_be_added_later(ingest: IngestHarness) -> None:
    with ingest.client() as client:
        client.greet(session="cameras")
        client.send_frame(0, camera="rear")
        _, header = client.receive("REJECT")
        assert (header["seq"], header["code"]) == (0, "bad_camera")
        assert "front" in header["reason"]
        client.send("CAMERAS", {"cameras": {"rear": CAMERA}})
        client.send_frame(1, camera="rear")
        session = ingest.start_session("cameras")
        client.acked(1)
        session.take_until(1)
        assert session.frames[0]["frame"].camera == "rear"
        session.close()


def test_unknown_kinds_are_answered(ingest: IngestHarness) -> None:
    with ingest.client() as client:
        client.greet(session="kinds")
        client.send("FRAMES", {})
        answer, header = client.receive()
        assert (answer, header["code"]) == ("ERROR", "bad_header")
        assert "FRAME" in header["reason"]


def test_max_sessions(tmp_path: Path) -> None:
    with (
        running_ingest(tmp_path, max_sessions=1) as ingest,
        ingest.client() as one,
        ingest.client() as two,
        ingest.client() as three,
    ):
        one.greet(session="one")
        two.greet(session="two")
        one.send_frame(0)
        session = ingest.start_session("one")
        one.acked(0)
        # No process is left for the second: its frame is not lost, it may be sent again.
        two.send_frame(0)
        ingest.refuse_session("two")
        answer, header = two.receive("REJECT", "ERROR")
        assert (answer, header["seq"], header["code"]) == ("REJECT", 0, "busy")
        two.send_frame(0)
        ingest.session_needed("two")
        assert three.refused(session="three")["code"] == "busy"
        one.greet(session="one", resume=True)
        session.close()

"""Everything that a sender can get wrong, sent to a real daemon: it answers by name, goes on, and
loses nothing that it accepted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import pytest
from bad_frames import BAD_FRAMES
from conftest import Served
from raw_client import CAMERA, EYE, RawClient, frame, hello, jpeg

from streamer.requests import Requests

SESSION = "kitchen"
MAX_SESSIONS = 1


@dataclass
class Tally:
    """What the session of these tests must have counted."""

    next_seq: int = 0
    accepted: int = 0
    rejected: int = 0


@pytest.fixture(scope="module")
def tally() -> Tally:
    return Tally()


@pytest.fixture(scope="module")
def requests(served: Served) -> Iterator[Requests]:
    with Requests(served.requests) as asked:
        yield asked


class Sender(RawClient):
    """Sends into the one session and keeps the tally."""

    def __init__(self, address: str, tally: Tally) -> None:
        super().__init__(address)
        self.tally = tally

    def open(self) -> None:
        """HELLO; the daemon knows where the stream stands."""
        welcome = self.greet(session=SESSION, resume=True)
        assert welcome["next_seq"] == self.tally.next_seq

    def good_frame(self) -> None:
        """A frame that must be accepted."""
        seq = self.tally.next_seq
        pose = np.eye(4)
        # Hardly anything: key frames are work, and not what is tested.
        pose[0, 3] = 1e-4 * seq
        answer = self._verdict(frame(seq, pose=pose.reshape(-1).tolist()), jpeg(seq))
        assert answer["seq"] == seq and "code" not in answer, answer
        self.tally.accepted += 1

    def bad_frame(self, header: Any, *parts: bytes) -> dict[str, Any]:
        """A frame that must be rejected, and the answer."""
        answer = self._verdict({**header, "seq": self.tally.next_seq}, *parts)
        assert answer["code"], answer
        self.tally.rejected += 1
        return answer

    def _verdict(self, header: dict[str, Any], *parts: bytes) -> dict[str, Any]:
        """What becomes of a frame, which waits for credit as long as it must."""
        seq = self.tally.next_seq
        self.send("FRAME", header, *parts)
        while True:
            kind, answer = self.receive("ACK", "REJECT", "ERROR")
            assert kind != "ERROR", answer
            if answer["seq"] != seq:
                continue
            if answer.get("code") != "no_credit":
                self.tally.next_seq += 1
                return answer
            self.receive("ACK")
            self.send("FRAME", header, *parts)


@pytest.fixture
def sender(served: Served, tally: Tally) -> Iterator[Sender]:
    """A good frame before, a good frame after on a connection of its own, and the counts."""
    with Sender(served.ingest, tally) as client:
        client.open()
        client.good_frame()
        yield client
    with Sender(served.ingest, tally) as again:
        again.open()
        again.good_frame()
        again.send("BYE")
    assert "Traceback" not in served.log


@pytest.fixture(scope="module", autouse=True)
def nothing_accepted_is_lost(
    served: Served,
    tally: Tally,
    requests: Requests,
    wait_for: Callable[[Callable[[], object], str], None],
) -> Iterator[None]:
    yield
    wait_for(
        lambda: requests.status(SESSION).frames_done == tally.accepted,
        f"{tally.accepted} frames to be done",
    )
    status = requests.status(SESSION)
    assert status.frames_in == tally.accepted
    assert status.frames_waiting == 0
    assert status.frames_dropped == 0
    assert status.frames_rejected == tally.rejected
    assert "Traceback" not in served.log


@pytest.mark.parametrize("case", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_a_bad_frame_is_rejected_by_name(sender: Sender, case: Any) -> None:
    header, parts, code, named = case
    answer = sender.bad_frame(header, *parts)
    assert answer["code"] == code
    assert named in answer["reason"]
    sender.good_frame()


HEADERS = {
    "garbage": (b"\xc1\xc1\xc1", "bad_header", "msgpack"),
    "an array": (msgpack.packb([1, 2]), "bad_header", "map"),
    "no seq": (msgpack.packb({"camera": "front"}), "bad_header", "missing required field"),
    "an extension type": (
        msgpack.packb({**frame(0), "x": msgpack.ExtType(1, b"x")}),
        "bad_header",
        "extension",
    ),
    "over the limit": (msgpack.packb({**frame(0), "x": "y" * 70_000}), "too_large", "65536"),
    "a claimed length": (b"\x81\xa1a\xdd\xff\xff\xff\xff", "bad_header", "msgpack"),
    "nested without end": (b"\x81\xa1a" + b"\x91" * 60_000, "bad_header", "msgpack"),
}


@pytest.mark.parametrize("case", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_cannot_be_read_is_an_error(sender: Sender, case: Any) -> None:
    packed, code, named = case
    sender.send("FRAME", packed, jpeg())
    kind, answer = sender.receive("ERROR", "REJECT")
    assert (kind, answer["code"]) == ("ERROR", code)
    assert named in answer["reason"]


def test_a_gap_in_seq(sender: Sender) -> None:
    sender.send("FRAME", frame(sender.tally.next_seq + 3), jpeg())
    kind, answer = sender.receive("ERROR", "REJECT")
    assert (kind, answer["code"]) == ("ERROR", "bad_seq")
    assert str(sender.tally.next_seq) in answer["reason"]


def test_a_repeated_seq_is_answered_with_the_current_ack(sender: Sender) -> None:
    sender.send("FRAME", frame(0), jpeg())
    kind, answer = sender.receive()
    assert (kind, answer["seq"]) == ("ACK", sender.tally.next_seq - 1)
    sender.good_frame()


def test_no_hello(served: Served, sender: Sender) -> None:
    with RawClient(served.ingest) as stranger:
        for kind in ("FRAME", "POSES", "CAMERAS", "FLUSH", "PING", "BYE"):
            stranger.send(kind, frame(0), jpeg())
            answer, header = stranger.receive()
            assert (answer, header["code"]) == ("ERROR", "no_hello")
    sender.good_frame()


HELLOS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another version": ({"proto": [2, 0]}, "bad_version", "version 2"),
    "no version": ({"proto": None}, "bad_header", "proto"),
    "no session": ({"session": None}, "bad_header", "session"),
    "a path for a session": ({"session": "../../etc"}, "bad_session", "session"),
    "unknown convention": ({"convention": "openvc"}, "bad_header", "opencv"),
    "a convention without end": ({"convention": "o" * 60_000}, "bad_header", "convention"),
    "no convention": ({"convention": None}, "bad_header", "convention"),
    "unknown camera model": (
        {"cameras": {"c": {**CAMERA, "model": "PINHOL"}}},
        "bad_camera",
        "PINHOLE",
    ),
    "ros_body without T_body_camera": (
        {"convention": "ros_body"},
        "bad_camera",
        "T_body_camera",
    ),
    "mistyped policy": ({"policy": 1}, "bad_header", "policy"),
    "frames there already": ({"session": SESSION, "client": "robot"}, "bad_session", "resume"),
    "another client there": ({"session": SESSION, "client": "x"}, "busy", "robot"),
}


@pytest.mark.parametrize("case", HELLOS.values(), ids=HELLOS.keys())
def test_a_bad_hello_is_refused_by_name(served: Served, sender: Sender, case: Any) -> None:
    changes, code, named = case
    with RawClient(served.ingest) as other:
        other.send("HELLO", hello(**{"session": "elsewhere", **changes}))
        kind, answer = other.receive()
        assert (kind, answer["code"]) == ("ERROR", code)
        assert named in answer["reason"]
    sender.good_frame()


CORRECTIONS = {
    "NaN": ([float("nan")] * 16, "bad_pose", "nan"),
    "left-handed": (np.diag([1.0, 1, -1, 1]).reshape(-1).tolist(), "bad_pose", "left-handed"),
    "not uniform": (np.diag([1.0, 2, 1, 1]).reshape(-1).tolist(), "bad_pose", "orthonormal"),
}


@pytest.mark.parametrize("case", CORRECTIONS.values(), ids=CORRECTIONS.keys())
def test_a_bad_correction_changes_nothing(served: Served, sender: Sender, case: Any) -> None:
    pose, code, named = case
    with RawClient(served.ingest) as slam:
        slam.send("HELLO", {"proto": [1, 0], "session": SESSION, "client": "s", "role": "poses"})
        assert slam.receive()[0] == "WELCOME"
        slam.send("POSES", {"revision": 0, "poses": [[0, pose]]})
        kind, answer = slam.receive()
        assert (kind, answer["code"]) == ("ERROR", code)
        assert named in answer["reason"]
    sender.good_frame()


def test_an_old_revision_is_refused(
    served: Served,
    sender: Sender,
    requests: Requests,
    wait_for: Callable[[Callable[[], object], str], None],
) -> None:
    sender.send("FLUSH")
    wait_for(lambda: requests.status(SESSION).frames_waiting == 0, "the map to catch up")
    with RawClient(served.ingest) as slam:
        slam.send("HELLO", {"proto": [1, 0], "session": SESSION, "client": "s", "role": "poses"})
        assert slam.receive()[0] == "WELCOME"
        for revision, expected in ((5, "POSES_ACK"), (5, "ERROR"), (4, "ERROR"), (6, "POSES_ACK")):
            slam.send("POSES", {"revision": revision, "poses": [[0, EYE], [10**6, EYE]]})
            kind, answer = slam.receive()
            assert (kind, answer["revision"]) == (expected, revision), answer
            if kind == "ERROR":
                assert answer["code"] == "bad_revision"
            else:
                assert answer["unknown"] == [10**6]


def test_refusals_are_logged_once_and_without_a_traceback(served: Served, sender: Sender) -> None:
    for _ in range(20):
        sender.bad_frame(frame(0, pose=None), jpeg())
    lines = re.findall(r".*no_pose.*", served.log)
    assert 1 <= len(lines) <= 6

"""`splatstream status`: the table, the JSON, and what its exit code says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingest_harness import running_ingest
from publisher_helpers import Feed, repeating, running_publisher, wait_for

from streamer.cli import dispatch
from streamer.requests import RequestRefused, Requests

NOWHERE = "tcp://127.0.0.1:1"


class Barn:
    """A publisher and a session that says what a test wants it to say, over and over."""

    def __init__(self, run_dir: Path, requests: str) -> None:
        self.requests = requests
        self.feed = Feed(run_dir, "barn")
        self.says: dict[str, object] = {"state": "streaming"}
        self.began = time.monotonic()
        self.frames_per_s = 0.0

    def speak(self) -> None:
        frames = int((time.monotonic() - self.began) * self.frames_per_s)
        self.feed.say_status(**{"frames_in": frames, "frames_done": frames, **self.says})
        self.feed.serve()

    def say(self, **says: object) -> None:
        """From now on; returns when the publisher knows."""
        self.says = says
        with Requests(self.requests) as requests:

            def known() -> bool:
                try:
                    return requests.status("barn").state == says["state"]
                except RequestRefused:
                    return False

            wait_for(known, "the publisher to know the status")

    def status(self, *options: str) -> int:
        return dispatch(["status", self.requests, "--over", "0.05", *options])


@pytest.fixture
def barn(tmp_path: Path) -> Iterator[Barn]:
    with running_publisher(tmp_path) as addresses:
        barn = Barn(tmp_path, addresses["requests"])
        with repeating(barn.speak):
            barn.say(state="streaming")
            yield barn
        barn.feed.close()


def test_a_healthy_daemon(barn: Barn, capsys: pytest.CaptureFixture[str]) -> None:
    barn.frames_per_s = 200.0
    barn.say(state="refining", keyframes=7, splats=12345, psnr=21.25, frames_waiting=3)
    assert barn.status("--json", "--over", "0.5") == 0
    look = json.loads(capsys.readouterr().out)
    assert look["healthy"] and look["problems"] == []
    (session,) = look["sessions"]
    assert session["session"] == "barn" and session["state"] == "refining"
    assert session["splats"] == 12345 and session["keyframes"] == 7
    # Frames a second as they were said, not a second's guess: loose, for a busy machine.
    assert 50 < session["frames_per_s"]["done"] < 800
    assert session["frames_per_s"]["in"] == session["frames_per_s"]["done"]

    assert barn.status() == 0
    printed = capsys.readouterr().out
    assert "12,345" in printed and "21.2" in printed and printed.rstrip().endswith("healthy")


def test_a_daemon_without_sessions_is_healthy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_publisher(tmp_path) as addresses:
        assert dispatch(["status", addresses["requests"]]) == 0
    assert "no session yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("says", "options", "words"),
    [
        ({"state": "lost"}, [], "its process died"),
        (
            {"state": "refining", "latency_ms": {"p50": 100.0, "p95": 900.0}},
            ["--max-latency", "800"],
            "latency p95 is 900 ms, above 800",
        ),
        (
            {"state": "refining", "frames_waiting": 9},
            ["--max-waiting", "8"],
            "9 frames wait, above 8",
        ),
        ({"state": "refining", "durable": False}, ["--durable"], "frames are not on the disk"),
    ],
)
def test_what_is_wrong_is_said(
    barn: Barn,
    capsys: pytest.CaptureFixture[str],
    says: dict[str, object],
    options: list[str],
    words: str,
) -> None:
    barn.say(**says)
    assert barn.status(*options) == 1
    assert f"wrong: session barn: {words}" in capsys.readouterr().out
    assert barn.status("--json", *options) == 1
    look = json.loads(capsys.readouterr().out)
    assert not look["healthy"] and words in look["sessions"][0]["problems"][0]


def test_bounds_that_are_kept_are_no_problem(barn: Barn) -> None:
    barn.say(state="refining", frames_waiting=8, latency_ms={"p50": 1.0, "p95": 800.0})
    assert barn.status("--max-waiting", "8", "--max-latency", "800") == 0


def test_frames_in_memory_alone_are_mentioned_also_where_nobody_minds(
    barn: Barn, capsys: pytest.CaptureFixture[str]
) -> None:
    barn.say(state="refining", durable=False)
    assert barn.status() == 0
    assert "note: session barn: frames are not on the disk" in capsys.readouterr().out
    barn.say(state="streaming", durable=True)
    assert barn.status("--durable") == 0
    assert "disk" not in capsys.readouterr().out


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["status", NOWHERE, "--timeout", "0.2", "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["healthy"] is False
    assert "no daemon answers" in captured.err
    assert dispatch(["status", "ipc:///nowhere/at/all", "--timeout", "0.2"]) == 3


def test_a_wrong_name_is_the_users(barn: Barn, capsys: pytest.CaptureFixture[str]) -> None:
    assert barn.status("--session", "shed") == 2
    assert "'shed'" in capsys.readouterr().err


def test_the_ingest_is_asked_too(
    barn: Barn, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_ingest(tmp_path_factory.mktemp("i")) as ingest:
        assert barn.status("--ingest", ingest.address) == 0
        # To ask opened no session: the name is free for whoever sends.
        with ingest.client() as client:
            assert client.greet(session="status")["next_seq"] == 0
    capsys.readouterr()
    assert barn.status("--ingest", ingest.address, "--timeout", "0.3") == 1
    assert "wrong: ingest: " in capsys.readouterr().out

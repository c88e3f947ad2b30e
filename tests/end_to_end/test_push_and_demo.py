"""`push` and `demo` against real daemons, with the demo capture."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from daemon_children import alive, descendants
from live_daemon import reset

from gs_decoder import read_ply
from streamer.cli import dispatch
from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonFailed, DaemonProcess
from streamer.demo import (
    CAPTURE,
    DemoError,
    demo_daemon,
    free_address,
    page_address,
    wait_for_map,
)
from streamer.protocol.requests import StatusAnswer
from streamer.requests import Requests
from streamer.subscriber import Subscriber

Push = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-m", "streamer.cli"]
SESSION = "office"
"""As `push` names it after the demo capture: one session process for all tests here."""


def config(session_dir: Path) -> ServeConfig:
    return ServeConfig(
        ingest="tcp://127.0.0.1:0",
        updates="tcp://127.0.0.1:0",
        requests="tcp://127.0.0.1:0",
        session_dir=session_dir,
        max_sessions=1,
        session=SessionConfig(long_side=64, refine=False),
        viewer=ViewerConfig(enabled=False),
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(config(tmp_path_factory.mktemp("sessions"))) as running:
        yield running


@pytest.fixture(scope="module")
def requests(daemon: DaemonProcess) -> Iterator[Requests]:
    with Requests(daemon.addresses["requests"]) as asking:
        yield asking


@pytest.fixture
def empty(daemon: DaemonProcess, requests: Requests) -> None:
    """The session holds nothing, whatever came before."""
    if any(entry.session == SESSION for entry in requests.sessions()):
        reset(daemon, SESSION)


@pytest.fixture
def push(daemon: DaemonProcess, capsys: pytest.CaptureFixture[str]) -> Push:
    """`push("CAPTURE", "--rate", "0")`: the command's exit code and what it said."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        # What is said twice, the last one holds.
        code = dispatch(["push", "--to", daemon.addresses["ingest"], *arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run


def wait_for_frames(requests: Requests, frames: int) -> StatusAnswer:
    """The session's status when it has done so many."""
    deadline = time.monotonic() + 120
    while (status := requests.status(SESSION)).frames_done < frames:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return status


def small_capture(root: Path, frames: int) -> Path:
    """The first frames of the demo capture in a folder of their own."""
    document = json.loads((CAPTURE / "transforms.json").read_text())
    document["frames"] = document["frames"][:frames]
    (root / "images").mkdir(parents=True)
    for frame in document["frames"]:
        shutil.copy(CAPTURE / frame["file_path"], root / frame["file_path"])
    (root / "transforms.json").write_text(json.dumps(document))
    return root


@pytest.mark.timeout(400)
def test_pushed_frames_arrive_and_held_out_ones_never(
    daemon: DaemonProcess, requests: Requests, push: Push, empty: None
) -> None:
    answer = subprocess.run(
        [*COMMAND, "push", str(CAPTURE), "--frames", "0:16", "--hold-out", "8", "--rate", "0",
         "--to", daemon.addresses["ingest"]],
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "14 frames to" in answer.stdout
    assert "2 held out" in answer.stdout
    assert re.search(r"14 frames sent in .* 0 dropped, 0 rejected", answer.stdout)
    status = wait_for_frames(requests, 14)
    assert (status.frames_in, status.frames_rejected, status.frames_dropped) == (14, 0, 0)
    assert status.splats > 0
    stamps = {frame.stamp_ns for frame in requests.keyframes(SESSION)}
    # Without times in the capture, frames are 0.1 s apart: 0 and 8 were kept back.
    assert stamps
    assert stamps <= {i * 10**8 for i in range(16) if i % 8}
    again = push(str(CAPTURE), "--frames", "0:2")
    assert again.returncode == 2
    assert again.stderr.startswith("splatstream push: ")
    assert again.stderr.count("\n") == 1
    assert "office" in again.stderr
    assert "--resume" in again.stderr


def test_push_goes_on_in_a_session_that_holds_frames(
    daemon: DaemonProcess, requests: Requests, push: Push, empty: None
) -> None:
    words = [str(CAPTURE), "--rate", "0"]
    assert push(*words, "--frames", "0:3").returncode == 0
    refused = push(*words, "--frames", "3:5")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    for remedy in ("--resume", "--session", "Requests(...).reset('office')"):
        assert remedy in refused.stderr
    answer = push(*words, "--frames", "3:5", "--resume")
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"2 frames sent in .* 0 dropped, 0 rejected", answer.stdout)
    # None of the second stream was taken for a repeat of the first.
    assert wait_for_frames(requests, 5).frames_in == 5
    # The remedy that the refusal names works too.
    reset(daemon, SESSION)
    assert push(*words, "--frames", "0:1").returncode == 0


def test_rejected_frames_are_named_and_the_rest_goes_on(
    requests: Requests, push: Push, empty: None, tmp_path: Path
) -> None:
    root = small_capture(tmp_path / SESSION, 5)
    names = sorted(path.name for path in (root / "images").iterdir())
    (root / "images" / names[1]).write_bytes(b"no picture at all")
    cv2.imwrite(str(root / "images" / names[3]), np.zeros((50, 50, 3), np.uint8))
    answer = push(str(root), "--rate", "0")
    assert answer.returncode == 1, answer.stderr
    rejected = [line for line in answer.stdout.splitlines() if line.startswith("rejected: ")]
    assert [line.split()[1] for line in rejected] == [f"{names[1]}:", f"{names[3]}:"]
    assert "50x50" in rejected[1]
    assert "2 rejected" in answer.stdout
    assert wait_for_frames(requests, 3).frames_in == 3


def test_live_policy_never_waits(push: Push, empty: None) -> None:
    answer = push(str(CAPTURE), "--frames", "0:40", "--rate", "0", "--policy", "live")
    assert answer.returncode == 0, answer.stderr
    dropped = re.search(r"40 frames sent in .* (\d+) dropped, 0 rejected", answer.stdout)
    assert dropped
    assert int(dropped[1]) > 0


def test_depth_is_sent_where_it_is_asked_for(
    daemon: DaemonProcess, push: Push, empty: None, tmp_path: Path
) -> None:
    root = small_capture(tmp_path / SESSION, 2)
    document = json.loads((root / "transforms.json").read_text())
    for i, frame in enumerate(document["frames"]):
        frame["depth_file_path"] = f"{i}.png"
        # The second is of a size that does not fit: sent, it must be refused.
        size = (213, 320) if i == 0 else (100, 100)
        cv2.imwrite(str(root / f"{i}.png"), np.full(size, 1500, np.uint16))
    (root / "transforms.json").write_text(json.dumps(document))
    without = push(str(root), "--rate", "0")
    assert without.returncode == 0, without.stdout + without.stderr
    reset(daemon, SESSION)
    answer = push(str(root), "--rate", "0", "--depth")
    assert answer.returncode == 1
    assert "rejected: 00004.jpg" in answer.stdout
    assert "depth" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--to", "tcp://127.0.0.1:9", "--frames", "0:3"),
            "no daemon answers at tcp://127.0.0.1:9",
        ),
        (("--rate", "-1"), "--rate is -1"),
        (("--frames", "x"), "--frames is 'x'"),
        (("--hold-out", "1"), "hold-out is 1"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(
    push: Push, empty: None, arguments: tuple[str, ...], message: str
) -> None:
    answer = push(str(CAPTURE), *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_daemon_that_cannot_start_says_so(tmp_path: Path) -> None:
    blocked = config(tmp_path)
    blocked.ingest = "tcp://203.0.113.1:5555"
    with pytest.raises(DaemonFailed, match="exit code 2"), DaemonProcess(blocked):
        pass


def test_demo_takes_a_free_address_where_its_own_is_taken(daemon: DaemonProcess) -> None:
    taken = daemon.addresses["ingest"]
    assert free_address(taken) == "tcp://127.0.0.1:0"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert free_address(f"tcp://127.0.0.1:{port}") == f"tcp://127.0.0.1:{port}"


def test_demo_goes_elsewhere_where_another_takes_its_address_first(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    late = config(tmp_path)
    late.updates = daemon.addresses["updates"]
    said: list[str] = []
    with demo_daemon(late, said.append) as running:
        assert said == ["once more, on free ports …"]
        assert not set(running.addresses.values()) & set(daemon.addresses.values())
        with Requests(running.addresses["requests"]) as asking:
            assert asking.sessions() == []


def follow(daemon: DaemonProcess, frames: int, **options: float) -> float:
    addresses = daemon.addresses
    with Subscriber(addresses["updates"], addresses["requests"], "nobody") as subscriber:
        return wait_for_map(subscriber, daemon, frames, refine_s=0.2, **options)


@pytest.mark.timeout(60)
def test_demo_waits_for_no_map_that_cannot_come(daemon: DaemonProcess) -> None:
    with pytest.raises(DemoError, match="accepted no frame"):
        follow(daemon, 0)
    with pytest.raises(DemoError, match="0 of 5 frames"):
        follow(daemon, 5, patience_s=0.3)


def test_demo_needs_its_page() -> None:
    assert page_address({"viewer": "http://127.0.0.1:8080"}) == "http://127.0.0.1:8080"
    with pytest.raises(DemoError, match="page did not start"):
        page_address({"ingest": "tcp://127.0.0.1:5555"})


def test_demo_into_a_file_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert dispatch(["demo", "--once", "--out", str(tmp_path / "file")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("splatstream demo: ")
    assert "a file is there" in said.err
    assert "frames sent" not in said.out
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.timeout(300)
def test_demo_ends_with_its_daemon(daemon: DaemonProcess) -> None:
    """The last of this module's daemon."""
    os.kill(daemon.pid, signal.SIGKILL)
    with pytest.raises(DemoError, match="exit code -9"):
        follow(daemon, 5)


@pytest.mark.timeout(600)
def test_demo_once_leaves_map_report_and_pictures(tmp_path: Path) -> None:
    out = tmp_path / "results"
    words = ["demo", "--once", "--out", str(out), "--rate", "0", "--long-side", "64"]
    assert dispatch([*words, "--refine", "1"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["frames_in"] == report["frames_done"] == 105
    assert report["frames_dropped"] == 0
    assert report["frames_per_second"] > 0
    assert 0 < report["latency_ms_p50"] <= report["latency_ms_p95"]
    assert len(report["held_out_views"]) == 15
    assert report["held_out_psnr"] > 8.0
    assert "cores" in report["hardware"]
    splats, _ = read_ply(out / "map.ply")
    assert splats.count == report["splats"] > 1000
    sheet = cv2.imread(str(out / "renders.png"))
    assert sheet is not None
    assert sheet.shape[0] == 2 * 43 + 4
    # Truth above, rendered below: neither of them empty.
    assert sheet[:43].std() > 20
    assert sheet[-43:].std() > 10


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.timeout(400)
def test_demo_serves_its_page_until_interrupted() -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--rate", "20", "--long-side", "64"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        url = None
        for line in process.stdout:
            if match := re.match(r"live page: (http://\S+)", line):
                url = match[1]
                break
        assert url is not None
        with urlopen(url, timeout=20) as page:
            assert page.status == 200
        served_by = descendants(process.pid)
        assert served_by
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        # its port may be another's by now, but no process of its own is left
        until = time.monotonic() + 20
        while (left := {pid for pid in served_by if alive(pid)}) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left
    finally:
        process.kill()
        process.wait()

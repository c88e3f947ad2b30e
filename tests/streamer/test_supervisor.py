"""The daemon's processes: they come back where they were, and none outlives the daemon."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from daemon_children import alive
from daemon_helpers import (
    Daemon,
    Sender,
    run_serve,
    running_daemon,
    wait_until,
)

from streamer.camera import CameraModel
from streamer.child_process import ChildProcess
from streamer.cli import dispatch
from streamer.client import Client, RefusedError
from streamer.requests import DaemonSilent, RequestRefused, Requests
from streamer.subscriber import Subscriber

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux", reason="looks at processes through /proc, which only Linux has"
    ),
    # The first daemon on a machine compiles its kernels.
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon("--max-sessions", "1", "--viewer-port", "0") as daemon:
        yield daemon


def test_the_ready_line_names_what_works(daemon: Daemon) -> None:
    assert set(daemon.addresses) == {"ingest", "updates", "requests", "viewer"}
    assert all(not address.endswith(("*", ":0")) for address in daemon.addresses.values())
    assert page_is_up(daemon)
    with Requests(daemon.addresses["requests"]) as requests:
        assert requests.sessions() == []
    (run_dir,) = daemon.run_dirs()
    assert run_dir.stat().st_mode & 0o777 == 0o700


def page_is_up(daemon: Daemon) -> bool:
    try:
        with urllib.request.urlopen(daemon.addresses["viewer"], timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_killed_page_comes_back_where_it_was(daemon: Daemon) -> None:
    daemon.kill("viewer")
    wait_until(lambda: page_is_up(daemon), "the page to be back")


def test_a_session_that_cannot_start_tells_its_sender_and_leaves_room(daemon: Daemon) -> None:
    """The only session that is allowed here gives up; the next test needs its place."""
    folder = daemon.session_dir / "cellar"
    folder.mkdir(parents=True)
    (folder / "session.json").write_text("no session file")
    camera = CameraModel.pinhole(64, 48, 60.0, 60.0, 32.0, 24.0)
    image = np.zeros((48, 64, 3), np.uint8)
    with (
        pytest.raises(RefusedError, match=r"cellar.session\.json") as refused,
        Client(
            daemon.addresses["ingest"],
            session="cellar",
            cameras={"front": camera},
            convention="opencv",
        ) as client,
    ):
        # More than may wait: whoever is told nothing would stop here for ever.
        for _ in range(200):
            client.send(image, np.eye(4), timeout_s=60.0)
    assert refused.value.code == "internal"
    assert "move the folder away" in refused.value.reason
    assert (folder / "session.json").read_text() == "no session file"
    with Requests(daemon.addresses["requests"]) as requests:
        wait_until(lambda: requests.sessions() == [], "the publisher to forget it")


def test_whoever_is_killed_comes_back_and_catches_up(daemon: Daemon) -> None:
    """One story: a session starts; publisher and ingest are killed in turn. What becomes of a
    killed session is in end_to_end/test_resume.py."""
    sender = Sender(daemon.addresses["ingest"], "hall")
    assert sender.hello()["kind"] == "WELCOME"
    for _ in range(8):
        sender.send()
    with (
        Requests(daemon.addresses["requests"], timeout=2) as requests,
        Subscriber(daemon.addresses["updates"], daemon.addresses["requests"], "hall") as mirror,
    ):

        def caught_up() -> bool:
            """The mirror holds something, and what the publisher says."""
            mirror.poll(0.1)
            with contextlib.suppress(RequestRefused, DaemonSilent):
                manifest = requests.manifest("hall")
                here = sorted(mirror.mirror.manifest())
                return bool(here) and (mirror.epoch, here) == (
                    manifest.epoch,
                    sorted(manifest.chunks),
                )
            return False

        wait_until(caught_up, "the first chunks")
        assert (daemon.session_dir / "hall").is_dir()

        refused = Sender(daemon.addresses["ingest"], "attic")
        answer = refused.hello()
        if answer["kind"] == "WELCOME":
            refused.send()
            answer = refused.answer({"REJECT", "ERROR"})
        assert answer["code"] == "busy", answer
        refused.close()

        daemon.kill("publisher")
        wait_until(caught_up, "the map in a new publisher")

        daemon.kill("ingest")
        again = Sender(daemon.addresses["ingest"], "hall")
        welcome = again.hello(resume=True)
        assert welcome["kind"] == "WELCOME"
        again.seq = int(str(welcome["next_seq"]))
        assert again.seq == 8
        sender.close()
        for _ in range(8):
            again.send()
        wait_until(caught_up, "chunks of what the new ingest took")
        again.close()


def test_sigterm_ends_all_and_leaves_nothing(daemon: Daemon) -> None:
    pids = [pid for some in daemon.children().values() for pid in some]
    # No spare is kept where no further session is allowed.
    assert len(pids) == 4
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0
    assert not any(alive(pid) for pid in pids)
    assert daemon.run_dirs() == []


def test_nobody_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    script = (
        "from streamer.child_process import ChildProcess\n"
        "import time\n"
        "child = ChildProcess('page', ['http.server', '0'])\n"
        "child.start()\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # Only once it is past its start does its death mean anything.
    wait_until(lambda: b"http.server" in Path(f"/proc/{child}/cmdline").read_bytes(), "the child")
    time.sleep(0.5)
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not alive(child), "the orphan to end", 20)


def test_a_child_that_dies_is_seen_with_its_last_words() -> None:
    child = ChildProcess("tool", ["json.tool", "/does/not/exist"])
    child.start()
    lines: list[str] = []
    wait_until(lambda: (lines.extend(child.read_lines()), child.died() is not None)[1], "its end")
    lines += child.forget()
    assert any("/does/not/exist" in line for line in lines)
    assert child.process is None
    assert child.deaths >= 1
    assert child.start_at > time.monotonic() - 10


@pytest.mark.parametrize("option", ["--ingest", "--updates", "--requests"])
def test_an_address_in_use_is_named_before_anything_is_ready(tmp_path: Path, option: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        result = run_serve(tmp_path, option, address)
    assert result.returncode == 2
    assert "ready" not in result.stdout
    assert address in result.stderr
    assert f"with {option}" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.glob("splatstream-*")) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ingest", "tcp://0.0.0.0:5555"], ["ingest", "0.0.0.0", "--insecure"]),
        (["--updates", "tcp://*:5556"], ["updates", "--insecure"]),
        (["--requests", "udp://127.0.0.1:5"], ["requests", "udp://127.0.0.1:5", "tcp://HOST"]),
        (["--ingest", "tcp://127.0.0.1:99999"], ["ingest", "99999"]),
        (["--long-side", "7"], ["session.long_side", "7"]),
        (["--config", "lapdog"], ["lapdog", "laptop"]),
    ],
)
def test_settings_that_cannot_be_are_named(
    tmp_path: Path, options: list[str], words: list[str]
) -> None:
    result = run_serve(tmp_path, *options)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_cuda_without_cuda_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    # Before anything starts, so that it needs no process.
    assert dispatch(["serve", "--device", "cuda", "--session-dir", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "device: 'cuda'" in said.err
    assert "--device cpu" in said.err

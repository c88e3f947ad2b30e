"""Processes of a running daemon are killed while frames flow; the daemon itself is ended."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import pytest
from daemon_children import alive, children
from live_daemon import (
    OFFICE,
    client,
    daemon,
    frames_done,
    in_step,
    requests,
    send,
    shared_memory,
    subscriber,
    wait_until,
    whole_map,
)

from streamer import Client, Requests, Subscriber
from streamer.daemon_process import DaemonProcess
from streamer.requests import DaemonSilent, RequestRefused
from streamer.run_dir import make_run_dir, remove_run_dir

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc"),
    # The first daemon on a machine compiles its kernels.
    pytest.mark.timeout(600),
]

SESSION = "office"


class Camera:
    """Sends the demo capture round and round through one client that is told of nothing."""

    def __init__(self, sender: Client) -> None:
        self.sender = sender
        self.sent = 0
        self.error: Exception | None = None

    @contextmanager
    def rolling(self, rate: float = 8.0) -> Iterator[None]:
        """Frames flow while the block runs, and are settled when it is left."""
        stopping = threading.Event()

        def run() -> None:
            try:
                while not stopping.wait(1.0 / rate):
                    self.take()
            except Exception as error:
                self.error = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join(120)
        assert self.error is None, self.error
        assert not thread.is_alive()
        assert self.sender.wait(120)

    def take(self) -> None:
        send(self.sender, [OFFICE.frames[self.sent % len(OFFICE.frames)]])
        self.sent += 1


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    # Refined after each batch, and not on and on while a test waits.
    with daemon(
        tmp_path_factory.mktemp("sessions"),
        refine=True,
        refine_steps=2,
        viewer_port=0,
        max_sessions=1,
    ) as process:
        yield process


@pytest.fixture(scope="module")
def asking(serving: DaemonProcess) -> Iterator[Requests]:
    with requests(serving) as connection:
        yield connection


@pytest.fixture(scope="module")
def camera(serving: DaemonProcess) -> Iterator[Camera]:
    sender = client(serving, SESSION)
    yield Camera(sender)
    # The last test ends the daemon.
    with suppress(Exception):
        sender.close(1.0)


@pytest.fixture(scope="module")
def reader(serving: DaemonProcess) -> Iterator[Subscriber]:
    with subscriber(serving, SESSION) as mirror:
        yield mirror


def kill(serving: DaemonProcess, role: str) -> None:
    """SIGKILL to every process of a role that works now."""
    for pid in children(serving.pid)[role]:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda p=pid: not alive(p), "the death")


def advance(asking: Requests, frames: int) -> None:
    """Until the session finished so many frames more, or began anew and finished so many."""
    before = frames_done(asking, SESSION)
    wait_until(lambda: frames_done(asking, SESSION) >= before + frames, "frames to go on")


def assert_everybody_agrees(asking: Requests, reader: Subscriber, camera: Camera) -> None:
    """Nothing is under way: counters add up, and the subscriber holds the daemon's map."""

    def settled() -> bool:
        status = asking.status(SESSION)
        return (
            status.frames_waiting == 0
            and status.frames_in == camera.sender.acked + 1
            and status.frames_done + status.frames_dropped == status.frames_in
        )

    camera.sender.flush()
    wait_until(settled, "all frames to be done")
    asking.pause(SESSION)
    wait_until(lambda: in_step(reader, asking, SESSION), "the same seq")
    held = whole_map(asking, SESSION)
    assert held.count > 0
    assert reader.mirror.equals(held)
    asking.resume(SESSION)


def test_a_publisher_that_was_killed_comes_back_and_catches_up(
    serving: DaemonProcess, asking: Requests, camera: Camera, reader: Subscriber
) -> None:
    with camera.rolling():
        wait_until(lambda: frames_done(asking, SESSION) >= 8, "the first frames")
        reader.poll(0.1)
        epoch = reader.epoch
        kill(serving, "publisher")
        advance(asking, 8)
    assert_everybody_agrees(asking, reader, camera)
    assert reader.epoch == epoch
    assert camera.sender.connects == 1


def test_a_page_that_was_killed_comes_back_at_its_address(
    serving: DaemonProcess, asking: Requests, camera: Camera, reader: Subscriber
) -> None:
    def page() -> int:
        with suppress(OSError, HTTPException), urlopen(serving.addresses["viewer"], timeout=5) as p:
            return p.status
        return 0

    assert page() == 200
    with camera.rolling():
        kill(serving, "viewer")
        advance(asking, 4)
        wait_until(lambda: page() == 200, "the page")
    assert_everybody_agrees(asking, reader, camera)
    assert camera.sender.connects == 1


def test_an_ingest_that_was_killed_comes_back_and_loses_nothing_later(
    serving: DaemonProcess, asking: Requests, camera: Camera, reader: Subscriber
) -> None:
    with camera.rolling():
        advance(asking, 4)
        kill(serving, "ingest")
        wait_until(lambda: camera.sender.connects == 2, "the client to come back")
    assert_everybody_agrees(asking, reader, camera)
    before = asking.status(SESSION)
    for _ in range(8):
        camera.take()
    assert camera.sender.wait(60)
    assert_everybody_agrees(asking, reader, camera)
    after = asking.status(SESSION)
    assert after.frames_in == before.frames_in + 8 == camera.sent
    assert after.frames_done == before.frames_done + 8
    assert after.frames_dropped == before.frames_dropped


def test_a_session_that_was_killed_loses_nothing(
    serving: DaemonProcess, asking: Requests, camera: Camera, reader: Subscriber
) -> None:
    reader.poll(0.1)
    epoch = reader.epoch
    last = max(chunk.revision for chunk in reader.mirror.chunks.values())
    with camera.rolling():
        advance(asking, 4)
        kill(serving, "session")

        def begun() -> bool:
            reader.poll(0.05)
            with suppress(RequestRefused, DaemonSilent):
                return reader.synced and asking.manifest(SESSION).seq >= 1 << 32
            return False

        wait_until(begun, "the next process")
    assert_everybody_agrees(asking, reader, camera)
    after = asking.status(SESSION)
    assert (after.epoch, reader.epoch) == (epoch, epoch)
    assert after.frames_done == after.frames_in == camera.sender.acked + 1
    assert after.durable
    assert min(chunk.revision for chunk in reader.mirror.chunks.values()) > last
    assert camera.sender.connects == 2
    # A killed process may have been answered for: orders work again.
    asking.save(SESSION)


def run_folders(pid: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"splatstream-{pid}-*"))


def end(serving: DaemonProcess, number: signal.Signals) -> None:
    """The signal to the daemon; then nothing of it must be left."""
    pids = [pid for some in children(serving.pid).values() for pid in some]
    assert len(pids) >= 3
    assert len(run_folders(serving.pid)) == 1
    shared = shared_memory([serving.pid, *pids])
    os.kill(serving.pid, number)
    assert serving.wait(10) is not None
    wait_until(lambda: not any(alive(pid) for pid in pids), "the processes to end", 10)
    assert not any(path.exists() for path in shared)


def test_sigterm_ends_all(serving: DaemonProcess, camera: Camera) -> None:
    # In the middle of work: frames wait and the session refines.
    for _ in range(12):
        camera.take()
    end(serving, signal.SIGTERM)
    assert serving.wait() == 0
    assert run_folders(serving.pid) == []


def test_ctrl_c_ends_all(tmp_path: Path) -> None:
    with daemon(tmp_path) as serving:
        end(serving, signal.SIGINT)
        assert serving.wait() in (0, 130)
        assert run_folders(serving.pid) == []


def test_nobody_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with daemon(tmp_path, max_sessions=1) as serving, requests(serving) as asking:
        with client(serving, SESSION) as sender:
            send(sender, OFFICE.frames[:4])
        wait_until(lambda: frames_done(asking, SESSION) == 4, "a map")
        end(serving, signal.SIGKILL)
        # It could not clean up; the next daemon does.
        assert len(run_folders(serving.pid)) == 1
        remove_run_dir(make_run_dir())
        assert run_folders(serving.pid) == []

"""Processes of a running daemon are killed while frames flow, then the daemon itself; its successor
knows all that was acknowledged."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from daemon_children import alive, children
from live_daemon import (
    OFFICE,
    client,
    daemon,
    end,
    frames_done,
    in_step,
    requests,
    run_folders,
    send,
    subscriber,
    wait_until,
    whole_map,
)

from streamer import Client, Requests, Subscriber
from streamer.daemon_process import DaemonProcess
from streamer.journal import FrameEntry, read_journal
from streamer.requests import DaemonSilent, RequestRefused

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
    def rolling(self, rate: float = 2.0) -> Iterator[None]:
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


# Refined after each batch, and not on and on while a test waits.
SETTINGS: dict[str, Any] = {"refine": True, "refine_steps": 2, "max_sessions": 1}


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[DaemonProcess]:
    with daemon(folder, viewer_port=0, **SETTINGS) as process:
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
        wait_until(lambda: frames_done(asking, SESSION) >= 4, "the first frames")
        reader.poll(0.1)
        epoch = reader.epoch
        kill(serving, "publisher")
        advance(asking, 4)
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
        advance(asking, 2)
        wait_until(lambda: page() == 200, "the page")
    assert_everybody_agrees(asking, reader, camera)
    assert camera.sender.connects == 1


def test_an_ingest_that_was_killed_comes_back_and_loses_nothing_later(
    serving: DaemonProcess, asking: Requests, camera: Camera, reader: Subscriber
) -> None:
    epoch = asking.status(SESSION).epoch
    with camera.rolling():
        advance(asking, 2)
        kill(serving, "ingest")
        wait_until(lambda: camera.sender.connects == 2, "the client to come back")
    assert_everybody_agrees(asking, reader, camera)
    before = asking.status(SESSION)
    for _ in range(4):
        camera.take()
    assert camera.sender.wait(60)
    assert_everybody_agrees(asking, reader, camera)
    after = asking.status(SESSION)
    assert after.epoch == epoch
    assert after.frames_in == before.frames_in + 4 == camera.sent
    assert after.frames_done == before.frames_done + 4
    assert after.frames_dropped == before.frames_dropped


def test_a_session_that_was_killed_loses_nothing(
    serving: DaemonProcess, asking: Requests, camera: Camera, reader: Subscriber
) -> None:
    reader.poll(0.1)
    epoch = reader.epoch
    last = max(chunk.revision for chunk in reader.mirror.chunks.values())
    with camera.rolling():
        advance(asking, 2)
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


def test_after_a_reset_the_sender_does_nothing_and_its_frames_arrive(
    asking: Requests, camera: Camera, reader: Subscriber
) -> None:
    epoch, sender = asking.status(SESSION).epoch, camera.sender
    asking.reset(SESSION)
    wait_until(lambda: sender.connects == 3 and sender.connected, "a new HELLO after the reset")
    first = camera.sent
    for _ in range(7):
        camera.take()
    assert sender.wait(60)
    assert_everybody_agrees(asking, reader, camera)
    after = asking.status(SESSION)
    assert after.epoch > epoch
    assert after.frames_in == 7
    assert (
        asking.keyframes(SESSION)[0].stamp_ns == OFFICE.frames[first % len(OFFICE.frames)].stamp_ns
    )
    assert sender.rejected == []


def test_nothing_acknowledged_is_lost_with_the_daemon(
    folder: Path, serving: DaemonProcess, asking: Requests, camera: Camera
) -> None:
    before = asking.status(SESSION)
    assert camera.sender.acked == 6
    # Nobody outlives a supervisor that was killed.
    end(serving, signal.SIGKILL)
    # It is ready with that one session, where no further one is allowed.
    with daemon(folder, **SETTINGS) as second, requests(second) as asking:
        # What the first one could not clean up is gone.
        assert run_folders(serving.pid) == []
        # Nobody sends: the session that ran comes back by itself, in its epoch.
        wait_until(lambda: frames_done(asking, SESSION) == 7, "the journal")
        after = asking.status(SESSION)
        assert after.epoch == before.epoch
        assert after.seq > before.seq
        assert (after.frames_in, after.frames_waiting, after.durable) == (7, 0, True)
        with client(second, SESSION, resume=True) as sender:
            send(sender, OFFICE.frames[7:9])
            assert sender.wait(60)
            assert sender.acked == 8
            with subscriber(second, SESSION) as reader:
                wait_until(lambda: frames_done(asking, SESSION) == 9, "what came later")
                wait_until(lambda: in_step(reader, asking, SESSION), "the same seq")
                assert reader.mirror.equals(whole_map(asking, SESSION))
            seqs = [
                one.entry.header.seq
                for one in read_journal(folder / SESSION)
                if isinstance(one.entry, FrameEntry)
            ]
            assert seqs == list(range(9))
            # In the middle of work: frames wait and the session refines.
            send(sender, OFFICE.frames[9:21])
            # A frame that does not come in before the end is the sender's to keep, for ever here.
            assert sender.wait(60)
            end(second, signal.SIGTERM)
    assert second.wait() == 0
    assert run_folders(second.pid) == []

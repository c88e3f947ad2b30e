"""Synthetic clients: what they note of a daemon that is quick, refuses, or gives no credit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from access_helpers import KeyFolder
from ingest_harness import FakeSession, IngestHarness, running_ingest

from streamer.cli import dispatch
from streamer.client.errors import ConnectionLostError, SessionBusyError
from streamer.demo import CAPTURE
from streamer.load import LoadClient, Material, material, run_load
from streamer.process_stats import DaemonSampler, process_stats
from streamer.sources import open_capture


@pytest.fixture(scope="module")
def what() -> Material:
    return material(open_capture(CAPTURE), count=6, long_side=64)


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[IngestHarness]:
    with running_ingest(tmp_path, max_sessions=2, max_waiting=4) as harness:
        yield harness


def take(ingest: IngestHarness, client: LoadClient, count: int) -> FakeSession:
    """Give the client's session a process that wants `count` frames."""
    client.pump(0.0)
    session = ingest.start_session(client.result.session)
    session.want(count)
    return session


def test_rounds_go_on_in_new_places(what: Material) -> None:
    count = len(what.frames)
    poses = [what.pose(number) for number in range(3 * count)]
    places = {tuple(np.round(pose[:3, 3], 6)) for pose in poses}
    assert len(places) == 3 * count
    for number, pose in enumerate(poses):
        assert np.array_equal(pose[:3, :3], what.frames[number % count].c2w[:3, :3])
    assert {(frame.width, frame.height) for frame in what.frames} == {(64, 43)}
    (camera,) = what.cameras.values()
    assert (camera.width, camera.height) == (64, 43)


def greeted(ingest: IngestHarness, client: LoadClient) -> None:
    until = time.monotonic() + 30.0
    while client.welcome is None:
        assert time.monotonic() < until
        client.receive()
        time.sleep(0.01)


def test_lossless_waits_for_credit_and_live_skips(ingest: IngestHarness, what: Material) -> None:
    lossless = LoadClient(ingest.address, "patient", what, fps=10.0, policy="lossless")
    live = LoadClient(ingest.address, "hasty", what, fps=10.0, policy="live")
    for client in (lossless, live):
        greeted(ingest, client)
        # Nobody takes frames yet, so the credit is all there is.
        client.pump(0.0)
        client.pump(1.95)
    assert lossless.result.due == live.result.due == 20
    assert lossless.result.sent == 4 and lossless.result.skipped == 0
    # What was due at once is one picture to a camera: the newest.
    assert live.result.sent == 2 and live.result.skipped == 18
    session = take(ingest, lossless, 2)
    until = time.monotonic() + 30.0
    while lossless.result.sent < 6:
        assert time.monotonic() < until
        lossless.receive()
        lossless.pump(1.95)
        time.sleep(0.01)
    assert lossless.result.late >= 5
    session.close()
    for client in (lossless, live):
        client.close()


def test_verdicts_are_counted_and_timed(ingest: IngestHarness, what: Material) -> None:
    frames = [*what.frames]
    torn = frames[1]
    frames[1] = type(torn)(torn.jpeg[:200], torn.camera, torn.width, torn.height, torn.c2w)
    client = LoadClient(
        ingest.address, "mixed", Material(frames, what.cameras), fps=4.0, policy="lossless"
    )
    greeted(ingest, client)
    session = take(ingest, client, 64)
    took = run_load([client], seconds=1.0, address=ingest.address)
    assert client.settled and took >= 1.0
    # How many come to be due a busy machine decides, which sleeps through some of the end.
    assert 2 <= client.result.sent == client.result.due <= 4
    bad = len(range(1, client.result.sent, len(frames)))
    acked = client.result.sent - bad
    assert client.result.acked == acked and client.result.rejected == {"bad_image": bad}
    assert len(client.result.ack_ms) == acked and min(client.result.ack_ms) > 0.0
    session.close()
    client.close()


def test_no_room_and_nobody_there_are_named(ingest: IngestHarness, what: Material) -> None:
    clients = [LoadClient(ingest.address, f"s-{n}", what, fps=5.0, policy="live") for n in range(2)]
    for client in clients:
        greeted(ingest, client)
        take(ingest, client, 1)
    third = LoadClient(ingest.address, "s-2", what, fps=5.0, policy="live")
    with pytest.raises(SessionBusyError, match="max-sessions"):
        run_load([third], seconds=1.0, address=ingest.address)
    for client in [*clients, third]:
        client.close()
    nobody = LoadClient("tcp://127.0.0.1:1", "s", what, fps=5.0, policy="live")
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ConnectionLostError, match="greeted 0 of 1 clients"),
    ):
        patch.setattr("streamer.load.WELCOME_S", 0.2)
        run_load([nobody], seconds=1.0, address="tcp://127.0.0.1:1")
    nobody.socket.setsockopt(zmq.LINGER, 0)
    nobody.close()


def test_a_key_that_may_not_send_is_told_and_let_go(tmp_path: Path, what: Material) -> None:
    keys = KeyFolder(tmp_path / "keys")
    watcher = keys.client("watcher", "watch")
    run_dir = tmp_path / "r"
    run_dir.mkdir()
    with running_ingest(run_dir, keys=keys.folder) as ingest:
        client = LoadClient(ingest.address, "s", what, fps=5.0, policy="live", keys=watcher)
        with pytest.raises(ConnectionLostError, match="does not allow this key"):
            run_load([client], seconds=1.0, address=ingest.address)
        client.close()


def test_processes_are_watched() -> None:
    import os

    sampler = DaemonSampler(os.getpid())
    sampler.start()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    (load,) = sampler.stop()
    own = process_stats(os.getpid())
    assert own is not None and own.cpu_s >= 0.3
    assert load.name == "supervisor" and load.pid == os.getpid()
    assert 0.0 < load.cores < 64.0 and load.peak_bytes > 20e6
    assert process_stats(2**22 + 1) is None


def test_the_command_starts_a_daemon_and_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["bench-load", "--clients", "1", "--fps", "8", "--seconds", "1.5", "--long-side", "64"]
    assert dispatch([*load, "--policy", "lossless", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    (client,) = summary["clients"]
    assert client["due"] == client["sent"] == client["acked"] == 12
    assert client["dropped"] == 0 and client["rejected"] == {}
    assert summary["ack_ms"]["p50"] <= summary["ack_ms"]["p95"]
    names = {process["name"] for process in summary["processes"]}
    assert {"supervisor", "ingest", "publisher", "session"} <= names


@pytest.mark.parametrize("option", ["clients", "fps", "seconds"])
def test_a_load_of_nothing_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["bench-load", f"--{option}", "0"]) == 2
    assert f"--{option}: 0" in capsys.readouterr().err

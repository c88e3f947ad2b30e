"""A camera that leaves and comes back, in a daemon that is killed in between: nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from daemon_children import children
from live_daemon import (
    LIMIT_S,
    OFFICE,
    PACKAGED,
    client,
    daemon,
    frames_done,
    in_step,
    requests,
    reset,
    send,
    subscriber,
    wait_until,
)
from strip_walk import HEIGHT, STEP, WIDTH, pose, wall_frame

from gs_decoder import decode_ply, read_ply
from gs_decoder.mesh import decode_glb
from gs_decoder.ply import PlyContent
from streamer import Client
from streamer.camera import CameraModel
from streamer.cli import dispatch
from streamer.daemon_process import DaemonProcess
from streamer.protocol.messages import CameraHeader
from streamer.protocol.requests import StatusAnswer
from streamer.requests import Picture, Requests
from streamer.session.folder import states
from streamer.session.state_files import read_chunks
from streamer.sources import CaptureFrame

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc"),
    # The first daemon on a machine compiles its kernels.
    pytest.mark.timeout(600),
]

SESSION = "walk"
MOST = 80
"""Frames within which all budgets are full."""
BUDGETS = {"chunk_budget": 300, "resident_budget": 1300, "map_budget": 3200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("far")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[DaemonProcess]:
    log = folder / "daemon.log"
    with daemon(
        folder / "sessions", weights=PACKAGED, log=log, budgets=BUDGETS, max_sessions=1
    ) as process:
        yield process


def at(place: int, first: int, stop: int) -> list[CaptureFrame]:
    """The demo's frames as if they had been taken elsewhere."""
    frames = []
    for frame in OFFICE.frames[first:stop]:
        c2w = frame.c2w.copy()
        c2w[0, 3] += 60.0 * place
        frames.append(dataclasses.replace(frame, c2w=c2w))
    return frames


def test_a_walk_away_and_back_through_a_crash(
    folder: Path, running: DaemonProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, sessions = folder / "daemon.log", folder / "sessions"
    spilled = sessions / SESSION / "spilled"
    with (
        requests(running) as asking,
        client(running, SESSION) as sender,
        subscriber(running, SESSION) as reader,
    ):
        for place in range(4):
            send(sender, at(place, 0, 12))
        wait_until(lambda: frames_done(asking, SESSION) == 48, "the way out")
        asking.save(SESSION)
        wait_until(lambda: asking.status(SESSION).splats_on_disk > 0, "a status")
        wait_until(lambda: in_step(reader, asking, SESSION), "the same seq")
        first = {k.chunk for k in asking.keyframes(SESSION)[:4]} - {None}
        assert first & set(reader.mirror.chunks)
        status = asking.status(SESSION)
        assert status.splats_ready <= BUDGETS["resident_budget"]
        assert BUDGETS["resident_budget"] < status.splats <= BUDGETS["map_budget"]
        assert {path.stat().st_mode & 0o777 for path in spilled.iterdir()} == {0o600}

        for pid in children(running.pid)["session"]:
            os.kill(pid, signal.SIGKILL)
        send(sender, at(0, 2, 6))
        sender.flush()
        wait_until(lambda: frames_done(asking, SESSION) == 52, "the return")
        wait_until(lambda: in_step(reader, asking, SESSION), "the same seq again")
        assert "goes on from" in log.read_text()
        assert "a chunk is lost" not in log.read_text()
        assert first <= set(reader.mirror.chunks)
        status = asking.status(SESSION)
        assert status.splats_ready <= BUDGETS["resident_budget"]
        assert status.splats == reader.mirror.count
        everything = {k.chunk for k in asking.keyframes(SESSION)} - {None}
        asking.save(SESSION)
    # What lies on the disk is the whole map.
    _, chunks = read_chunks(states(sessions / SESSION)[0])
    assert everything <= {chunk.id for chunk in chunks}
    ply = tmp_path / "map.ply"
    command = ["sessions", "export", SESSION, "--out", str(ply), "--session-dir", str(sessions)]
    assert dispatch(command) == 0
    assert f"{sum(chunk.count for chunk in chunks):,} splats" in capsys.readouterr().out


def beginning_of(asking: Requests) -> Picture:
    """The map as the first frame along the wall saw it."""
    view = wall_frame(0, 0.0)
    params = view.K[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    camera = CameraHeader(model="PINHOLE", width=WIDTH, height=HEIGHT, params=params)
    return asking.render(SESSION, pose(view), camera)


def reach(file: PlyContent) -> tuple[float, float]:
    """From where to where along the wall it has splats, metres."""
    low, high = np.quantile(file.splats.means.numpy()[:, 0] + file.offset[0], (0.02, 0.98))
    return float(low), float(high)


def test_files_and_pictures_hold_what_rests_on_the_disk(
    folder: Path, running: DaemonProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reset(running, SESSION)
    camera = CameraModel("PINHOLE", WIDTH, HEIGHT, (50.0, 50.0, WIDTH / 2, HEIGHT / 2))
    with (
        requests(running) as asking,
        Client(
            running.addresses["ingest"],
            session=SESSION,
            cameras={"wall": camera},
            convention="opencv",
        ) as sender,
    ):

        def walk_on(frames: int) -> StatusAnswer:
            for seq in range(frames, frames + 4):
                frame = wall_frame(seq, STEP * seq)
                sender.send(frame.image, frame.c2w, depth=frame.depth, timeout_s=LIMIT_S)
            sender.flush()
            wait_until(lambda: frames_done(asking, SESSION) == frames + 4, f"frame {frames + 3}")
            return asking.status(SESSION)

        walk_on(0)
        before = beginning_of(asking)
        frames, status = 8, walk_on(4)
        while not status.splats_on_disk and frames < MOST:
            status, frames = walk_on(frames), frames + 4
        # Nothing has been dropped: all of it is in the map, and the beginning is on the disk.
        assert status.splats == status.splats_ready + status.splats_on_disk
        assert BUDGETS["resident_budget"] < status.splats <= BUDGETS["map_budget"]
        exported = decode_ply(asking.export(SESSION))
        assert exported.splats.count == status.splats
        assert reach(exported)[0] < 0.0 and reach(exported)[1] > STEP * (frames - 1)
        vertices = decode_glb(asking.export(SESSION, "glb")).vertices
        assert np.ptp(vertices, axis=0).max() > STEP * (frames - 1)
        after = beginning_of(asking)
        assert after.alpha_mean > 0.95 * before.alpha_mean > 0.8
        assert np.abs(after.rgb().astype(int) - before.rgb()).mean() < 4.0

        def hidden() -> int:
            return status.splats_ready + status.splats_on_disk - status.splats

        while not hidden() and frames < MOST:
            status, frames = walk_on(frames), frames + 4
        # The map is full: what was seen longest ago has left it.
        asking.save(SESSION)
        assert hidden() > 0 and status.splats <= BUDGETS["map_budget"]
        shown, whole = tmp_path / "shown.ply", tmp_path / "whole.ply"
        command = ["export", running.addresses["requests"], "--session", SESSION]
        capsys.readouterr()
        assert dispatch([*command, "--out", str(shown)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"{hidden():,} more splats" in said and f"sessions export {SESSION}" in said
        assert read_ply(shown).splats.count == status.splats
        assert reach(read_ply(shown))[0] > 0.5
        stored = ["sessions", "export", SESSION, "--session-dir", str(folder / "sessions")]
        assert dispatch([*stored, "--out", str(whole)]) == 0
        assert read_ply(whole).splats.count == status.splats + hidden()
        assert reach(read_ply(whole))[0] < 0.0

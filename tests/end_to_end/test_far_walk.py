"""A camera that leaves and comes back, in a daemon that is killed in between: nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from live_daemon import (
    OFFICE,
    children,
    client,
    daemon,
    frames_done,
    in_step,
    requests,
    send,
    subscriber,
    wait_until,
)

from streamer.cli import dispatch
from streamer.session.folder import states
from streamer.session.state_files import read_chunks
from streamer.sources import CaptureFrame

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc"),
    # The first daemon on a machine compiles its kernels.
    pytest.mark.timeout(600),
]

SESSION = "walk"
BUDGETS = {"chunk_budget": 300, "resident_budget": 900, "map_budget": 5000}


def at(place: int, first: int, stop: int) -> list[CaptureFrame]:
    """The demo's frames as if they had been taken elsewhere."""
    frames = []
    for frame in OFFICE.frames[first:stop]:
        c2w = frame.c2w.copy()
        c2w[0, 3] += 60.0 * place
        frames.append(dataclasses.replace(frame, c2w=c2w))
    return frames


def test_a_walk_away_and_back_through_a_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log = tmp_path / "sessions", tmp_path / "daemon.log"
    spilled = folder / SESSION / "spilled"
    with (
        daemon(folder, log=log, budgets=BUDGETS) as running,
        requests(running) as asking,
        client(running, SESSION) as sender,
        subscriber(running, SESSION) as reader,
    ):
        for place in range(4):
            send(sender, at(place, 0, 8))
        wait_until(lambda: frames_done(asking, SESSION) == 32, "the way out")
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
        wait_until(lambda: frames_done(asking, SESSION) == 36, "the return")
        wait_until(lambda: in_step(reader, asking, SESSION), "the same seq again")
        assert "goes on from" in log.read_text()
        assert "a chunk is lost" not in log.read_text()
        assert first <= set(reader.mirror.chunks)
        status = asking.status(SESSION)
        assert status.splats_ready <= BUDGETS["resident_budget"]
        assert status.splats == reader.mirror.count
        everything = {k.chunk for k in asking.keyframes(SESSION)} - {None}
    # What lies on the disk is the whole map.
    _, chunks = read_chunks(states(folder / SESSION)[0])
    assert everything <= {chunk.id for chunk in chunks}
    ply = tmp_path / "map.ply"
    command = ["sessions", "export", SESSION, "--out", str(ply), "--session-dir", str(folder)]
    assert dispatch(command) == 0
    assert f"{sum(chunk.count for chunk in chunks):,} splats" in capsys.readouterr().out

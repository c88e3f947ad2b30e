"""A session that was killed, or told to end, goes on from its saved state, not from frame 0."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from daemon_children import children
from live_daemon import (
    OFFICE,
    PACKAGED,
    client,
    daemon,
    frames_done,
    in_step,
    requests,
    send,
    subscriber,
    wait_until,
    whole_map,
)

from streamer.journal import FrameEntry, read_journal
from streamer.requests import DaemonSilent, RequestRefused
from streamer.session.folder import SessionFolderError, states
from streamer.session.state_files import read_cursor, read_state
from ttt_core import default_model

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc"),
    # The first daemon on a machine compiles its kernels.
    pytest.mark.timeout(600),
]

SESSION = "office"


def resumed_at(log: Path) -> list[tuple[str, int]]:
    """The states that processes said they went on from, and the frames they went on at."""
    found = re.findall(r"goes on from \S*/state/(\d+) at frame (\d+)", log.read_text())
    return [(state, int(frame)) for state, frame in found]


def saved_upto(folder: Path) -> int:
    """The cursor of the newest state; states come and go meanwhile."""
    with suppress(SessionFolderError):
        return max((read_cursor(path).next_seq for path in states(folder)), default=0)
    return 0


def test_a_killed_session_goes_on_from_its_state(tmp_path: Path) -> None:
    folder, log = tmp_path / "sessions", tmp_path / "daemon.log"
    with (
        daemon(
            folder, refine=True, save_every=1, weights=PACKAGED, log=log, max_sessions=1
        ) as first,
        requests(first) as asking,
        client(first, SESSION) as sender,
        subscriber(first, SESSION) as reader,
    ):
        send(sender, OFFICE.frames[:12])
        wait_until(lambda: frames_done(asking, SESSION) == 12, "the first frames")
        wait_until(lambda: saved_upto(folder / SESSION) >= 8, "a state")
        wait_until(lambda: in_step(reader, asking, SESSION), "the same seq")
        before = asking.status(SESSION)
        last = max(chunk.revision for chunk in reader.mirror.chunks.values())
        send(sender, OFFICE.frames[12:15])
        for pid in children(first.pid)["session"]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: asking.status(SESSION).state == "lost", "the loss to be known")
        send(sender, OFFICE.frames[15:20])
        sender.flush()

        def begun() -> bool:
            with suppress(RequestRefused, DaemonSilent):
                return asking.manifest(SESSION).seq >= 1 << 32
            return False

        wait_until(begun, "the next process")
        wait_until(lambda: frames_done(asking, SESSION) == 20, "all frames")
        ((_, frame),) = resumed_at(log)
        assert 8 <= frame <= 20
        asking.pause(SESSION)
        wait_until(lambda: in_step(reader, asking, SESSION), "the same seq again")
        assert reader.mirror.equals(whole_map(asking, SESSION))
        assert min(chunk.revision for chunk in reader.mirror.chunks.values()) > last
        after = asking.status(SESSION)
        assert (after.epoch, reader.epoch) == (before.epoch, before.epoch)
        assert (after.frames_in, after.frames_waiting, after.durable) == (20, 0, True)
        assert after.keyframes >= before.keyframes
        assert sender.connects == 1
    journal = [
        one.entry.header.seq
        for one in read_journal(folder / SESSION)
        if isinstance(one.entry, FrameEntry)
    ]
    assert journal == list(range(20))

    # Told to end it saved once more: every frame is in there once, whoever processed it.
    newest, older = states(folder / SESSION)
    assert read_cursor(newest).next_seq == 20
    state = read_state(newest, default_model(PACKAGED))
    assert state.trajectory.seqs.tolist() == list(range(20))
    assert state.frames_done == 20

    # That one is damaged: the one before it, and from there the journal.
    weights = newest / "refiner.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    expected = read_cursor(older).next_seq
    with (
        daemon(folder, weights=PACKAGED, log=log, max_sessions=1) as second,
        requests(second) as asking,
    ):
        with client(second, SESSION, resume=True) as sender:
            send(sender, OFFICE.frames[20:24])
            assert sender.wait(60)
            assert sender.acked == 23
        wait_until(lambda: frames_done(asking, SESSION) == 24, "what came later")
        assert asking.status(SESSION).epoch == before.epoch
    assert f"{newest}: damaged (refiner.safetensors is not as it was written)" in log.read_text()
    assert resumed_at(log)[1:] == [(older.name, expected)]
    assert (folder / SESSION / "state" / f"{newest.name}.damaged").is_dir()
    state = read_state(states(folder / SESSION)[0], default_model(PACKAGED))
    assert state.trajectory.seqs.tolist() == list(range(24))

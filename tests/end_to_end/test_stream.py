"""A stream through a real daemon: everybody who watches holds the same map, orders are kept."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
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

from gs_decoder import MapMirror, encode_ply, write_ply
from streamer import Requests
from streamer.client import RefusedError
from streamer.daemon_process import DaemonProcess
from streamer.session.state_files import load_chunks
from ttt_core import load_streaming_state

# The first daemon on a machine compiles its kernels.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[DaemonProcess]:
    """With refinement and the network, which has a memory to save; partial batches wait for FLUSH
    or BYE."""
    with daemon(
        folder, refine=True, batch_timeout_s=600.0, weights=PACKAGED, max_sessions=2
    ) as process:
        yield process


@pytest.fixture
def asking(serving: DaemonProcess) -> Iterator[Requests]:
    with requests(serving) as connection:
        yield connection


def adds_up(asking: Requests, session: str) -> bool:
    status = asking.status(session)
    parts = (status.frames_done, status.frames_waiting, status.frames_dropped)
    return status.frames_in == sum(parts)


def test_early_and_late_readers_hold_the_daemons_map(
    serving: DaemonProcess, asking: Requests, tmp_path: Path
) -> None:
    with client(serving, "office") as sender, subscriber(serving, "office") as early:
        send(sender, OFFICE.frames[:12])
        wait_until(lambda: frames_done(asking, "office") == 12, "the first half")
        wait_until(lambda: (early.poll(0.05), early.mirror.chunks)[1], "the first chunks")
        with subscriber(serving, "office") as late:
            send(sender, OFFICE.frames[12:20])
            wait_until(
                lambda: (early.poll(), late.poll(), frames_done(asking, "office") == 20)[2],
                "all frames",
            )
            asking.pause("office")
            for reader in (early, late):
                wait_until(lambda r=reader: in_step(r, asking, "office"), "the same seq")
            assert late.snapshots >= 1
            fresh = whole_map(asking, "office")
            assert fresh.count == asking.status("office").splats > 1000
            assert early.mirror.equals(fresh)
            assert late.mirror.equals(fresh)
            written = tmp_path / "map.ply"
            origin = fresh.origin()
            write_ply(written, fresh.splats_world(origin=origin), offset=origin)
            exported = asking.export("office")
            assert exported == written.read_bytes()
            assert exported == encode_ply(fresh.splats_world(origin=origin), offset=origin)

            # Paused: frames are taken in, nothing of the map changes.
            before = asking.manifest("office")
            send(sender, OFFICE.frames[20:28])
            assert sender.wait(60)
            wait_until(lambda: asking.status("office").frames_in == 28, "the new counts")
            time.sleep(1.0)
            status = asking.status("office")
            assert (status.state, status.frames_done, status.frames_waiting) == ("paused", 20, 8)
            assert adds_up(asking, "office")
            after = asking.manifest("office")
            assert (after.seq, after.chunks) == (before.seq, before.chunks)

            asking.resume("office")
            wait_until(lambda: frames_done(asking, "office") == 28, "the frames after RESUME")
            assert adds_up(asking, "office")
            asking.pause("office")
            for reader in (early, late):
                wait_until(lambda r=reader: in_step(r, asking, "office"), "the same seq again")
            again = whole_map(asking, "office")
            assert early.mirror.equals(again)
            assert late.mirror.equals(again)
            assert not again.equals(fresh)
            asking.resume("office")


def test_refinement_goes_on_after_resume(serving: DaemonProcess, asking: Requests) -> None:
    before = {chunk: content for chunk, content, _, _ in asking.manifest("office").chunks}

    def refined() -> bool:
        now = asking.manifest("office").chunks
        return any(content > before.get(chunk, content) for chunk, content, _, _ in now)

    wait_until(refined, "splats that were optimised")
    asking.pause("office")


def test_flush_and_bye_give_partial_batches_up(serving: DaemonProcess, asking: Requests) -> None:
    with client(serving, "partial") as sender:
        send(sender, OFFICE.frames[:6])
        assert sender.wait(60)
        wait_until(lambda: frames_done(asking, "partial") == 4, "the whole batch")
        wait_until(lambda: asking.status("partial").frames_waiting == 2, "two that wait")
        time.sleep(1.0)
        assert frames_done(asking, "partial") == 4
        sender.flush()
        wait_until(lambda: frames_done(asking, "partial") == 6, "the flushed frames")
        send(sender, OFFICE.frames[6:7])
    wait_until(lambda: frames_done(asking, "partial") == 7, "the frame before BYE")
    assert adds_up(asking, "partial")


def test_sessions_do_not_mix(serving: DaemonProcess, asking: Requests) -> None:
    asking.pause("partial")
    office, partial = (whole_map(asking, name) for name in ("office", "partial"))
    assert {c.frame_seq for c in partial.chunks.values()} <= set(range(7))
    assert max(c.frame_seq for c in office.chunks.values()) > 7
    assert {entry.session for entry in asking.sessions()} == {"office", "partial"}


def test_saved_states_load_bit_for_bit(
    serving: DaemonProcess, asking: Requests, folder: Path
) -> None:
    for _ in range(3):
        asking.save("partial")
    states = folder / "partial" / "state"
    assert sorted(path.name for path in states.iterdir()) == ["1", "2"]
    live = whole_map(asking, "partial")
    for state in states.iterdir():
        saved = MapMirror()
        for chunk in load_chunks(state / "chunks.safetensors"):
            saved._join_chunk(chunk)
        assert saved.equals(live)
    first, second = (
        load_streaming_state(states / number / "fast_weights.safetensors").to_tensors()
        for number in ("1", "2")
    )
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(name.startswith("memory.") for name in first)


def test_reset_begins_anew_from_seq_0(serving: DaemonProcess, asking: Requests) -> None:
    with subscriber(serving, "partial") as reader:
        wait_until(lambda: in_step(reader, asking, "partial"), "the map of before")
        epoch = reader.epoch
        assert reader.mirror.chunks
        with pytest.raises(RefusedError):
            client(serving, "partial").close()
        asking.reset("partial")
        wait_until(lambda: (reader.poll(0.05), reader.epoch > epoch)[1], "the new epoch")
        assert not reader.mirror.chunks
        asking.resume("partial")
        with client(serving, "partial") as sender:
            send(sender, OFFICE.frames[40:44])
            assert sender.wait(60)
            assert sender.acked == 3
        wait_until(lambda: frames_done(asking, "partial") == 4, "frames of the new epoch")
        asking.pause("partial")
        wait_until(lambda: in_step(reader, asking, "partial"), "the new map")
        assert reader.mirror.equals(whole_map(asking, "partial"))
        stamps = {frame.stamp_ns for frame in OFFICE.frames[40:44]}
        assert {chunk.stamp_ns for chunk in reader.mirror.chunks.values()} <= stamps
        assert {frame.stamp_ns for frame in reader.keyframes()} <= stamps
        assert adds_up(asking, "partial")


def test_a_reset_under_way_lets_nothing_of_before_through(
    serving: DaemonProcess, asking: Requests
) -> None:
    """The sender goes on; frames that were on their way into the old map stay out of the new."""
    with client(serving, "partial", resume=True) as sender:
        asking.resume("partial")
        send(sender, OFFICE.frames[44:52])
        asking.reset("partial")
        asking.pause("partial")
        wait_until(lambda: sender.connects == 2, "the sender to come back", 30)
        assert sender.wait(60)
        send(sender, OFFICE.frames[52:60])
        asking.resume("partial")
        assert sender.wait(60)
        sender.flush()
        # Frames that had no verdict yet at the reset were sent again.
        accepted = sender.acked + 1
        assert accepted >= 8
        wait_until(lambda: frames_done(asking, "partial") == accepted, "the new frames")
    asking.pause("partial")
    assert adds_up(asking, "partial")
    again = 8 - (accepted - 8)
    late = {frame.stamp_ns for frame in OFFICE.frames[44 + again : 60]}
    assert {frame.stamp_ns for frame in asking.keyframes("partial")} <= late
    assert {c.stamp_ns for c in whole_map(asking, "partial").chunks.values()} <= late


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    free = "tcp://127.0.0.1:*"
    settings = tmp_path / "serve.yaml"
    settings.write_text(
        f"{{ingest: '{free}', updates: '{free}', requests: '{free}', session_dir: {tmp_path}, "
        f"viewer: {{enabled: false}}, session: {{weights: {tmp_path / 'none.safetensors'}}}}}"
    )
    answer = subprocess.run(
        [sys.executable, "-m", "streamer.cli", "serve", "--config", str(settings)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 2
    assert "session.weights" in answer.stderr
    assert "none.safetensors" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "ready" not in answer.stdout

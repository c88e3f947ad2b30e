"""What the page knows of the daemon: against a real publisher process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq
from publisher_process import PublisherProcess
from viewer_daemon import SessionVoice

from gs_decoder import ChunkMeta, SplatMap, Splats
from viewer.commands import Commands
from viewer.feed import Feed
from viewer.state import FeedState


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[PublisherProcess]:
    process = PublisherProcess(tmp_path)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def voice(publisher: PublisherProcess) -> Iterator[SessionVoice]:
    voice = SessionVoice(publisher.run_dir, "office")
    yield voice
    voice.close()


@pytest.fixture
def feed(publisher: PublisherProcess) -> Iterator[Feed]:
    feed = Feed(publisher.updates, publisher.requests)
    feed.start()
    yield feed
    feed.stop()


def until(
    feed: Feed, condition: Callable[[FeedState], bool], *voices: SessionVoice, timeout: float = 15.0
) -> FeedState:
    end = time.monotonic() + timeout
    while not condition(state := feed.state()):
        assert time.monotonic() < end, state
        for voice in voices:
            voice.pump()
        time.sleep(0.02)
    return state


def add(into: SplatMap, seq: int) -> int:
    T = np.eye(4)
    T[0, 3] = seq
    meta = ChunkMeta(frame_seq=seq, stamp_ns=seq, camera="front", T_world_chunk=T)
    count = 10 + seq
    return into.add(
        meta,
        Splats(
            means=torch.zeros(count, 3),
            quats_wxyz=torch.ones(count, 4),
            scales=torch.ones(count, 3),
            opacities=torch.full((count,), 0.5),
            sh=torch.zeros(count, 1, 3),
        ),
    )


def test_old_key_frames_leave_the_page_unless_the_map_has_them(
    feed: Feed, voice: SessionVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.feed.NEWEST", 2)
    source = SplatMap()
    voice.begin(source.snapshot)
    add(source, 1)
    voice.publish(source.drain_updates())
    voice.say_status(state="streaming")
    for seq in (0, 1, 2, 3, 4):
        voice.say_keyframe(seq, np.eye(4), None, b"")
    add(source, 4)
    voice.publish(source.drain_updates())
    until(feed, lambda s: [k.seq for k in s.keyframes()] == [1, 3, 4], voice)


def test_a_feed_takes_the_session_there_is(
    feed: Feed, publisher: PublisherProcess, voice: SessionVoice
) -> None:
    until(feed, lambda s: s.link == "waiting")
    assert feed.state().session is None
    source = SplatMap()
    voice.begin(source.snapshot)
    until(feed, lambda s: s.session == "office" and s.figures is not None, voice)
    chunk = add(source, 3)
    voice.publish(source.drain_updates())
    voice.say_status(frames_in=4, frames_done=3, frames_waiting=1, psnr=21.5, state="streaming")
    pose = np.eye(4)
    pose[1, 3] = 7.0
    voice.say_keyframe(5, pose, None, b"")
    state = until(feed, lambda s: len(s.keyframes()) == 2 and len(s.chunks) == 1, voice)
    assert state.link == "live" and state.sessions == ("office",)
    assert [k.seq for k in state.keyframes()] == [3, 5]
    np.testing.assert_array_equal(state.keyframes()[0].c2w, source.chunks[chunk].T_world_chunk)
    np.testing.assert_array_equal(state.keyframes()[1].c2w, pose)
    assert state.figures is not None
    assert (state.figures.frames_in, state.figures.psnr) == (4, 21.5)
    assert (state.figures.latency_p50_ms, state.figures.latency_p95_ms) == (412.0, 803.0)
    # A corrected pose moves the key frame with its chunk.
    source.move({chunk: pose})
    voice.publish(source.drain_updates())
    until(feed, lambda s: np.array_equal(s.keyframes()[0].c2w, pose), voice)


def test_another_epoch_is_another_generation(feed: Feed, voice: SessionVoice) -> None:
    first, second = SplatMap(), SplatMap()
    voice.begin(first.snapshot)
    for seq in range(3):
        add(first, seq)
    voice.publish(first.drain_updates())
    before = until(feed, lambda s: len(s.chunks) == 3, voice)
    voice.begin(second.snapshot)
    state = until(feed, lambda s: s.generation > before.generation, voice)
    assert not state.chunks and not state.keyframes()
    add(second, 9)
    voice.publish(second.drain_updates())
    state = until(feed, lambda s: len(s.chunks) == 1, voice)
    assert [k.seq for k in state.keyframes()] == [9]


def test_a_daemon_that_comes_back_with_the_same_map_keeps_the_page(
    feed: Feed, publisher: PublisherProcess, voice: SessionVoice
) -> None:
    source = SplatMap()
    voice.begin(source.snapshot)
    add(source, 1)
    voice.publish(source.drain_updates())
    before = until(feed, lambda s: len(s.chunks) == 1, voice)
    publisher.kill()
    away = until(feed, lambda s: s.link == "away")
    assert away.silent_s > 3.0 and len(away.chunks) == 1
    publisher.start()
    add(source, 2)
    voice.publish(source.drain_updates())
    after = until(feed, lambda s: len(s.chunks) == 2 and s.link == "live", voice)
    assert after.generation == before.generation


def test_a_daemon_that_comes_back_from_the_beginning_clears_the_page(
    feed: Feed, publisher: PublisherProcess, voice: SessionVoice
) -> None:
    source = SplatMap()
    voice.begin(source.snapshot)
    for seq in range(4):
        add(source, seq)
    voice.publish(source.drain_updates())
    before = until(feed, lambda s: len(s.chunks) == 4, voice)
    publisher.kill()
    until(feed, lambda s: s.link == "away")
    # Another daemon with an empty folder counts its epochs from one again.
    fresh = SplatMap()
    voice.epoch = 0
    voice.begin(fresh.snapshot)
    add(fresh, 100)
    voice.publish(fresh.drain_updates())
    publisher.start()
    after = until(feed, lambda s: s.generation > before.generation, voice)
    assert [k.seq for k in after.keyframes()] == [100]


def test_sessions_can_be_switched(
    feed: Feed, publisher: PublisherProcess, voice: SessionVoice
) -> None:
    kitchen = SessionVoice(publisher.run_dir, "kitchen")
    for number, one in enumerate((voice, kitchen)):
        source = SplatMap()
        one.begin(source.snapshot)
        add(source, number)
        one.publish(source.drain_updates())
    state = until(feed, lambda s: set(s.sessions) == {"kitchen", "office"}, voice, kitchen)
    for name, seq in (("kitchen", 1), ("office", 0)):
        feed.choose(name)
        state = until(feed, lambda s: len(s.chunks) == 1, voice, kitchen)
        assert state.session == name
        assert [k.seq for k in state.keyframes()] == [seq]
    kitchen.close()


def test_garbage_is_survived(tmp_path: Path) -> None:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    feed = Feed(f"tcp://127.0.0.1:{port}", f"ipc://{tmp_path}/nobody", "office")
    feed.start()
    garbage = (
        [b"/office/chunk"],
        [b"/office/chunk", b"\xff\xff"],
        [b"/office/status", b"\x81\xa7session\xa6office"],
        [b"/office/nonsense", b"\x80"],
        [b"/_daemon/heartbeat", b"\x80"],
    )
    end = time.monotonic() + 10.0
    while feed.state().link != "live":
        assert time.monotonic() < end
        for message in garbage:
            socket.send_multipart(message)
        time.sleep(0.05)
    assert all(thread.is_alive() for thread in feed._threads)
    feed.stop()
    assert not any(thread.is_alive() for thread in feed._threads)
    socket.close()


def test_a_clicked_key_frame_brings_its_picture(
    feed: Feed, publisher: PublisherProcess, voice: SessionVoice
) -> None:
    import cv2

    picture = np.zeros((40, 60, 3), np.uint8)
    picture[..., 2] = 200  # red, in OpenCV's order
    source = SplatMap()
    voice.begin(source.snapshot)
    chunk = add(source, 4)
    voice.publish(source.drain_updates())
    voice.say_keyframe(4, np.eye(4), chunk, cv2.imencode(".png", picture)[1].tobytes())
    until(feed, lambda s: len(s.chunks) == 1 and "office" in s.sessions, voice)
    commands = Commands(feed)
    commands.choose_key_frame(4)
    chosen = commands.take_chosen()
    assert chosen is not None and chosen.seq == 4
    assert chosen.caption == "Frame 4 · camera front · +0.00 s · 14 splats"
    np.testing.assert_array_equal(chosen.image, picture[..., ::-1])
    assert commands.take_chosen() is None
    commands.choose_key_frame(4)
    put_away = commands.take_chosen()
    assert put_away is not None and put_away.seq is None

"""A SLAM back end corrects a map that somebody else's frames made: chunks move as wholes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest
from live_daemon import (
    OFFICE,
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
from numpy.typing import NDArray

from gs_decoder import Chunk
from streamer import PoseClient, Requests, Subscriber
from streamer.client import StaleRevisionError
from streamer.daemon_process import DaemonProcess

# The first daemon on a machine compiles its kernels.
pytestmark = pytest.mark.timeout(600)

FRAMES = 16
SESSION = "office"
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Corrected:
    """A daemon with a map, somebody who watches it, and a back end that never sent a frame."""

    serving: DaemonProcess
    asking: Requests
    reader: Subscriber
    back_end: PoseClient

    def catch_up(self) -> None:
        wait_until(lambda: in_step(self.reader, self.asking, SESSION), "the same seq")

    def chunks(self) -> dict[int, Chunk]:
        """By seq of the key frame."""
        return {chunk.frame_seq: chunk for chunk in self.reader.mirror.chunks.values()}

    def cameras(self) -> dict[int, Float64]:
        """Poses of the key frames by seq."""
        return {frame.seq: frame.c2w for frame in self.asking.keyframes(SESSION)}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corrected]:
    # Without refinement: whatever changes here, a correction has changed.
    with (
        daemon(tmp_path_factory.mktemp("sessions"), max_sessions=1) as serving,
        requests(serving) as asking,
        subscriber(serving, SESSION) as reader,
        PoseClient(serving.addresses["ingest"], SESSION) as back_end,
    ):
        with client(serving, SESSION) as sender:
            send(sender, OFFICE.frames[:FRAMES])
        wait_until(
            lambda: (reader.poll(0.05), frames_done(asking, SESSION) == FRAMES)[1], "the map"
        )
        setting = Corrected(serving, asking, reader, back_end)
        setting.catch_up()
        assert len(reader.mirror.chunks) >= 4
        yield setting


def turned(angle: float, shift: tuple[float, float, float], scale: float = 1.0) -> Float64:
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    motion[:3, :3] *= scale
    motion[:3, 3] = shift
    return motion


def assert_only_moved(before: dict[int, Chunk], after: dict[int, Chunk]) -> None:
    """The same splats under other poses."""
    assert before.keys() == after.keys()
    for seq, chunk in after.items():
        assert chunk.content == before[seq].content
        assert chunk.splats.equals(before[seq].splats)


def test_frames_between_corrected_ones_follow(setting: Corrected) -> None:
    before, cameras = setting.chunks(), setting.cameras()
    seq = setting.reader.seq
    snapshots = setting.reader.snapshots
    drift = 0.3
    last = FRAMES - 1
    shift = turned(0.0, (drift, 0.0, 0.0))
    first_pose, last_pose = OFFICE.frames[0].c2w, shift @ OFFICE.frames[last].c2w
    answer = setting.back_end.send_poses(1, {0: first_pose, last: last_pose, 999: np.eye(4)})
    assert answer.revision == 1
    assert answer.unknown == [999]
    assert answer.moved == len(before) - 1
    setting.catch_up()
    after = setting.chunks()
    assert_only_moved(before, after)
    # By moves alone, in one message.
    assert setting.reader.seq == seq + 1
    assert setting.reader.snapshots == snapshots
    stamps = [frame.stamp_ns for frame in OFFICE.frames]
    for number, chunk in after.items():
        share = (stamps[number] - stamps[0]) / (stamps[last] - stamps[0])
        moved = chunk.T_world_chunk[:3, 3] - before[number].T_world_chunk[:3, 3]
        assert np.allclose(moved, [drift * share, 0.0, 0.0], atol=1e-6)
        # The first frame was confirmed where it was: its chunk did not change at all.
        grown = chunk.revision > before[number].revision
        assert grown == (number != 0)
    for number, pose in setting.cameras().items():
        share = (stamps[number] - stamps[0]) / (stamps[last] - stamps[0])
        assert np.allclose(pose[:3, 3] - cameras[number][:3, 3], [drift * share, 0, 0], atol=1e-6)
    assert setting.reader.mirror.equals(whole_map(setting.asking, SESSION))


def test_a_whole_world_turns_and_grows_by_stamp(setting: Corrected) -> None:
    before, cameras = setting.chunks(), setting.cameras()
    motion = turned(0.7, (1.0, -2.0, 3.0), scale=1.25)
    stamps = {frame.stamp_ns: seq for seq, frame in enumerate(OFFICE.frames[:FRAMES])}
    named = {s: motion @ cameras[seq] for s, seq in stamps.items() if seq in cameras}
    answer = setting.back_end.send_poses(2, {**named, 7: np.eye(4)}, by="stamp")
    assert (answer.unknown, answer.moved) == ([7], len(before))
    setting.catch_up()
    after = setting.chunks()
    assert_only_moved(before, after)
    for number, chunk in after.items():
        assert np.allclose(chunk.T_world_chunk, motion @ before[number].T_world_chunk, atol=1e-6)
        assert chunk.revision > before[number].revision
    rigid = turned(0.7, (0.0, 0.0, 0.0))
    for number, pose in setting.cameras().items():
        assert np.allclose(pose[:3, :3], (rigid @ cameras[number])[:3, :3], atol=1e-6)
        assert np.allclose(pose[:3, 3], (motion @ cameras[number])[:3, 3], atol=1e-6)


@pytest.mark.parametrize("revision", [2, 1, 0])
def test_an_old_revision_changes_nothing(setting: Corrected, revision: int) -> None:
    before, seq, cameras = setting.chunks(), setting.reader.seq, setting.cameras()
    with pytest.raises(StaleRevisionError):
        setting.back_end.send_poses(revision, {0: np.eye(4)})
    setting.catch_up()
    assert setting.reader.seq == seq
    assert all(chunk.equals(before[number]) for number, chunk in setting.chunks().items())
    assert all(np.array_equal(pose, cameras[s]) for s, pose in setting.cameras().items())


def test_frames_that_wait_are_known_and_come_where_they_were_named(setting: Corrected) -> None:
    """Corrections overtake frames that the session has not taken yet: here it is paused."""
    asking, stop = setting.asking, FRAMES + 8
    asking.pause(SESSION)
    with client(setting.serving, SESSION, resume=True) as sender:
        send(sender, OFFICE.frames[FRAMES:stop])
        assert sender.wait(60)
        named = OFFICE.frames[FRAMES + 2].stamp_ns
        target = turned(-0.4, (5.0, 5.0, 5.0)) @ OFFICE.frames[FRAMES + 2].c2w
        answer = setting.back_end.send_poses(3, {named: target, 8: np.eye(4)}, by="stamp")
        assert answer.unknown == [8]
        asking.resume(SESSION)
        sender.flush()
        wait_until(lambda: frames_done(asking, SESSION) == stop, "the frames that waited")
    setting.catch_up()
    cameras = setting.cameras()
    follow = target @ np.linalg.inv(OFFICE.frames[FRAMES + 2].c2w)
    checked = 0
    for number in range(FRAMES + 2, stop):
        if number in cameras:
            assert np.allclose(cameras[number], follow @ OFFICE.frames[number].c2w, atol=1e-6)
            checked += 1
    assert checked


def test_back_ends_that_disagree_are_taken_one_at_a_time_while_frames_come_in(
    setting: Corrected,
) -> None:
    """Each revision is given by all of them for the same frame: one of them is taken, the others
    are told, and the map is that of the last one taken."""
    asking, address = setting.asking, setting.serving.addresses["ingest"]
    setting.catch_up()
    begin = frames_done(asking, SESSION)
    stop = begin + 16
    chunk = next(k for k in asking.keyframes(SESSION) if k.chunk is not None and k.seq > 0)
    before = setting.chunks()[chunk.seq]
    names, revisions = ("graph", "lidar", "gps"), range(10, 22)
    taken: dict[int, list[str]] = {revision: [] for revision in revisions}

    def target(name: str, revision: int) -> Float64:
        return turned(0.1 * names.index(name), (0.01 * revision, 0.0, 0.0)) @ chunk.c2w

    def correct(name: str, back_end: PoseClient) -> int:
        stale = 0
        for revision in revisions:
            try:
                back_end.send_poses(revision, {chunk.seq: target(name, revision)})
                taken[revision].append(name)
            except StaleRevisionError:
                stale += 1
        return stale

    with ExitStack() as stack, ThreadPoolExecutor(len(names)) as pool:
        sender = stack.enter_context(client(setting.serving, SESSION, resume=True))
        back_ends = {
            name: stack.enter_context(PoseClient(address, SESSION, client=name)) for name in names
        }
        jobs = [pool.submit(correct, name, back_end) for name, back_end in back_ends.items()]
        send(sender, OFFICE.frames[begin:stop])
        stale = sum(job.result() for job in jobs)
        sender.flush()
        wait_until(lambda: frames_done(asking, SESSION) == stop, "the frames that came meanwhile")
    assert all(len(winners) <= 1 for winners in taken.values())
    assert stale + sum(map(len, taken.values())) == len(names) * len(revisions)
    # The highest is above whatever came before it, for one of them.
    (last,) = taken[revisions[-1]]
    setting.catch_up()
    assert np.allclose(setting.cameras()[chunk.seq], target(last, revisions[-1]), atol=1e-6)
    moved = setting.chunks()[chunk.seq]
    assert np.allclose(moved.T_world_chunk[:3, 3], target(last, revisions[-1])[:3, 3], atol=1e-6)
    assert moved.splats.equals(before.splats) and moved.revision > before.revision
    assert setting.reader.mirror.equals(whole_map(asking, SESSION))

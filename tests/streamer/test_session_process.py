"""The session's loop between sockets that play ingest and publisher: orders and corrections."""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq
from engine_helpers import make_engine, office, same
from session_process_helpers import LIMIT_MS, NAME, Daemon, correction

from streamer.frames import Frame
from streamer.protocol import encode
from streamer.protocol.internal import (
    Counts,
    CountsUpdate,
    PosesDone,
    PosesForward,
    ResetDone,
)
from streamer.protocol.links import ControlDone
from streamer.protocol.update_headers import ChunkHeader, MoveHeader
from streamer.session import process, publication
from streamer.session.corrections import rigid
from streamer.session.engine_state import engine_state
from streamer.session.folder import states
from streamer.session.late_poses import announce_forwarded
from streamer.session.spill_files import SpillFolder
from streamer.session.state_files import read_state

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    # The path of an ipc socket may have 107 bytes.
    with tempfile.TemporaryDirectory() as run_dir:
        running = Daemon(tmp_path, Path(run_dir))
        for socket in (running.ingest, running.publisher):
            assert socket.poll(LIMIT_MS)
        yield running
        running.close()


def test_a_save_that_finds_a_full_disk_is_refused_and_the_session_lives(daemon: Daemon) -> None:
    daemon.batch(office(0, 2))
    assert daemon.order("save").ok
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        refused = daemon.order("save")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not refused.ok
    assert refused.code == "internal"
    assert refused.reason is not None
    assert "could not be written" in refused.reason
    assert daemon.order("save").ok
    assert sorted(path.name for path in (daemon.folder / "state").iterdir()) == ["0", "1"]


def test_waiting_frames_of_synchronised_cameras_follow_the_first_of_their_stamp(
    daemon: Daemon,
) -> None:
    stamps, cameras = [0, 0, 10, 10], ["left", "right"] * 2
    frames = [
        replace(frame, stamp_ns=stamp, camera=camera)
        for frame, stamp, camera in zip(office(0, 4), stamps, cameras)
    ]
    assert daemon.order("pause").ok
    daemon.batch(frames)
    motions = {}
    for stamp, seq in ((0, 0), (10, 2)):
        motion = np.eye(4)
        motion[:3, 3] = 1.0 + seq, -2.0, 0.5
        motions[stamp] = motion
    named = [(s, (motions[s] @ frames[q].c2w).reshape(-1).tolist()) for s, q in ((0, 0), (10, 2))]
    done = daemon.correct(
        PosesForward(revision=1, client="slam", entries=named, by="stamp", received_upto=3)
    )
    # The journal has the batch first: it is to know that it came last.
    assert (done.code, done.unknown, done.before) == (None, [], 0)
    assert daemon.order("resume").ok
    assert daemon.order("save").ok
    for frame in frames:
        pose = daemon.engine.trajectory.pose(frame.seq)
        assert np.allclose(rigid(pose), motions[frame.stamp_ns] @ frame.c2w, atol=1e-9)


def moves(daemon: Daemon) -> list[int]:
    """The chunks of the next `move`."""
    header = daemon.until(daemon.publisher, MoveHeader.KIND).read(MoveHeader)
    return [chunk for chunk, _, _ in header.moves]


def test_a_correction_is_published_while_a_batch_is_under_way(
    daemon: Daemon, tmp_path: Path
) -> None:
    frames = office(0, 12)
    daemon.batch(frames[:4])
    assert daemon.order("save").ok
    daemon.model.hold()
    daemon.batch(frames[4:8])
    assert daemon.model.began.wait(LIMIT_MS / 1e3)
    before = set(daemon.engine.map.chunks)

    # The batch waits for this test, and all of this is told and answered meanwhile.
    first, second = (correction(n, frames[:8], shift) for n, shift in ((1, 0.2), (2, -0.1)))
    done = daemon.correct(first)
    assert done.moved == len(before) > 0
    # What this batch makes follows as if the correction had come behind it.
    assert done.before is None
    assert set(moves(daemon)) == before
    assert daemon.correct(second).moved == len(before)
    assert set(moves(daemon)) == before
    assert daemon.correct(first).code == "bad_revision"
    # Counts pass; the next batch waits, and a save is never of half a batch.
    counts = CountsUpdate(counts=Counts(frames_in=12), epoch=1)
    daemon.ingest.send_multipart([NAME, *encode(counts)])
    daemon.ask("save")
    daemon.batch(frames[8:])
    third = correction(3, frames, 0.3)
    done = daemon.correct(third)
    assert (done.revision, done.code, done.before) == (3, None, 8)
    assert set(moves(daemon)) == before
    assert daemon.engine.frames_done == 4
    daemon.model.may.set()
    assert daemon.done().ok
    assert daemon.order("save").ok

    # The third overtook the last batch.
    order = [frames[:4], frames[4:8], first, second, (third, frames[8:]), frames[8:]]
    assert_done_in_order(daemon, order, tmp_path / "twin")


def assert_done_in_order(
    daemon: Daemon,
    order: list[list[Frame] | PosesForward | tuple[PosesForward, list[Frame]]],
    folder: Path,
) -> None:
    """The session holds to the bit what an engine holds that does one after the other: batches,
    and corrections, some with the frames that waited in the session."""
    twin, _ = make_engine(refine_enabled=False, model=daemon.model)
    twin.spill_to(SpillFolder(folder, kept=True))
    next_seq = 0
    for step in order:
        if isinstance(step, list):
            twin.process(step)
            next_seq = step[-1].seq + 1
        else:
            forwarded, waiting = step if isinstance(step, tuple) else (step, [])
            announce_forwarded(twin, forwarded, waiting, next_seq)
            twin.follow_poses()
    same(engine_state(daemon.engine), engine_state(twin))
    twin.close()


def test_a_correction_does_not_wait_for_an_earlier_one_nor_for_the_batch_behind_it(
    daemon: Daemon, tmp_path: Path
) -> None:
    frames = office(0, 12)
    daemon.batch(frames[:4])
    assert daemon.order("save").ok
    before = set(daemon.engine.map.chunks)
    daemon.model.hold_moves()
    first = correction(1, frames[:4], 0.2)
    assert daemon.correct(first).moved == len(before)
    assert set(moves(daemon)) == before
    # The session follows it as long as this test wants.
    assert daemon.model.moves.wait(LIMIT_MS / 1e3)
    second, third = (correction(n, frames[:stop], 0.15 * n) for n, stop in ((2, 4), (3, 8)))
    done = daemon.correct(second)
    assert (done.code, done.before) == (None, None)
    daemon.batch(frames[4:8])
    done = daemon.correct(third)
    assert (done.code, done.before) == (None, 4)
    assert [set(moves(daemon)) for _ in range(2)] == [before, before]
    assert daemon.engine.frames_done == 4
    daemon.model.may_move.set()
    daemon.batch(frames[8:])
    daemon.until_processed(12)
    order = [frames[:4], first, second, (third, frames[4:8]), frames[4:8], frames[8:]]
    assert_done_in_order(daemon, order, tmp_path / "twin")


def held_in_its_middle(daemon: Daemon) -> list[Frame]:
    """The frames of a batch that is done, and of one that waits for the model."""
    frames = office(0, 8)
    daemon.batch(frames[:4])
    assert daemon.order("save").ok
    daemon.model.hold()
    daemon.batch(frames[4:])
    assert daemon.model.began.wait(LIMIT_MS / 1e3)
    return frames


def test_a_reset_in_the_middle_of_a_batch_comes_after_its_corrections(daemon: Daemon) -> None:
    frames = held_in_its_middle(daemon)
    daemon.ask("reset")
    assert daemon.correct(correction(1, frames, 0.2)).code is None
    daemon.model.may.set()
    assert daemon.done().ok
    assert daemon.until(daemon.ingest, ResetDone.KIND).read(ResetDone).epoch == 2
    assert daemon.engine.frames_done == len(daemon.engine.trajectory) == 0
    assert daemon.engine.ahead.take() is None


def test_a_reset_is_done_when_the_ingest_knows_of_it(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_RESET_S", 3600.0)
    daemon.batch(office(0, 4))
    daemon.until_processed(4)
    daemon.ask("reset")
    reset = daemon.orders
    assert daemon.until(daemon.ingest, ResetDone.KIND).read(ResetDone).epoch == 2
    # Who has the answer may say HELLO at once, which an ingest that knows nothing would refuse.
    for epoch in (1, 2):
        assert daemon.order("pause").ok
        counts = CountsUpdate(counts=Counts(), epoch=epoch)
        daemon.ingest.send_multipart([NAME, *encode(counts)])
    answer = daemon.answer()
    assert (answer.id, answer.ok) == (reset, True)


def test_a_reset_does_not_wait_for_an_ingest_that_is_away(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_RESET_S", 0.1)
    assert daemon.order("reset").ok


def test_an_end_in_the_middle_of_a_batch_saves_all_of_it(daemon: Daemon) -> None:
    frames = held_in_its_middle(daemon)
    assert daemon.correct(correction(1, frames, 0.2)).code is None
    daemon.process.stop()
    daemon.model.may.set()
    daemon.thread.join(LIMIT_MS / 1e3)
    saved = read_state(states(daemon.folder)[0], daemon.model)
    assert saved.frames_done == 8
    assert saved.trajectory.revision == 1
    for chunk in saved.chunks:
        pose = rigid(daemon.engine.trajectory.pose(chunk.frame_seq))
        assert np.allclose(chunk.T_world_chunk, pose, atol=1e-9)
        assert not np.allclose(chunk.T_world_chunk, frames[chunk.frame_seq].c2w, atol=1e-3)


def test_a_save_publishes_in_portions_between_which_others_are_served(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "PORTION", 1)
    frames = office(0, 8)
    daemon.batch(frames)
    assert daemon.order("save").ok
    engine = daemon.engine
    began, may = threading.Event(), threading.Event()
    portion = engine.publication.portion

    def held(chunks: Collection[int]) -> set[int]:
        began.set()
        assert may.wait(LIMIT_MS / 1e3)
        return portion(chunks)

    monkeypatch.setattr(engine.publication, "portion", held)
    # The session has nothing to do: nobody else looks at its engine now.
    engine.refiner.doubt(np.arange(engine.refiner.parameters.count), 0.01)
    changed = engine.publication.changed()
    assert len(changed) > 1
    daemon.ask("save")
    assert began.wait(LIMIT_MS / 1e3)
    daemon.ingest.send_multipart([NAME, *encode(correction(1, frames, 0.2))])
    # The session waits for `may`: nobody else looks at its socket.
    until = time.monotonic() + LIMIT_MS / 1e3
    while not daemon.process._ingest.getsockopt(zmq.EVENTS) & zmq.POLLIN:
        assert time.monotonic() < until, "the correction did not come"
        time.sleep(0.001)
    may.set()
    kinds = []
    while (message := daemon.next(daemon.publisher)).kind != ControlDone.KIND:
        kinds.append(message.kind)
    assert message.read(ControlDone).ok
    assert daemon.until(daemon.ingest, PosesDone.KIND).read(PosesDone).code is None
    # One portion was under way; the others came after the correction.
    published = [kind for kind in kinds if kind in (ChunkHeader.KIND, MoveHeader.KIND)]
    assert published == [ChunkHeader.KIND, MoveHeader.KIND] + [ChunkHeader.KIND] * (
        len(changed) - 1
    )
    saved = read_state(states(daemon.folder)[0], daemon.model)
    assert saved.trajectory.revision == 1
    assert {chunk.id for chunk in saved.chunks} == set(engine.map.chunks)
    assert all(chunk.equals(engine.map.chunks[chunk.id]) for chunk in saved.chunks)


def test_what_comes_behind_a_save_does_not_overtake_it(daemon: Daemon) -> None:
    daemon.batch(office(0, 8))
    assert daemon.order("save").ok
    engine = daemon.engine
    engine.refiner.doubt(np.arange(engine.refiner.parameters.count), 0.01)
    changed = len(engine.publication.changed())
    daemon.ask("save")
    daemon.ask("pause")
    kinds, done = [], 0
    while done < 2:
        message = daemon.next(daemon.publisher)
        kinds.append(message.kind)
        if message.kind == ControlDone.KIND:
            assert message.read(ControlDone).ok
            done += 1
    assert kinds[: kinds.index(ControlDone.KIND)].count(ChunkHeader.KIND) == changed
    assert daemon.engine.paused
    saved = read_state(states(daemon.folder)[0], daemon.model)
    assert all(chunk.equals(engine.map.chunks[chunk.id]) for chunk in saved.chunks)

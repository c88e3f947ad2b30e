"""States that are saved while batches and corrections come: each is of one moment, and whole."""

from __future__ import annotations

import gc
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_helpers import feed, make_engine, office, same
from session_process_helpers import LIMIT_MS, Daemon, correction

from gs_decoder.copy_room import CopyRoom
from streamer.frames import Frame
from streamer.protocol.internal import PosesForward, ResetDone
from streamer.session import saving
from streamer.session.engine import Engine
from streamer.session.engine_state import StateRoom, engine_state, restore_engine, room_maker
from streamer.session.folder import states
from streamer.session.late_poses import announce_forwarded
from streamer.session.spill_files import SpillFolder
from streamer.session.state_files import Cursor, read_cursor, read_state
from streamer.session.state_writer import StateWriter
from streamer.session.storage import holding_states

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(300)

STEPS = 2
BATCHES = 4


class Gate:
    """Room for copies is made when the test lets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.may = threading.Event(), threading.Event()
        self.too_little = False
        self.made: list[StateRoom] = []
        monkeypatch.setattr(saving, "room_maker", self._room_maker)

    def _room_maker(self, engine: Engine) -> Callable[[], StateRoom]:
        make = room_maker(engine)
        little = CopyRoom(1, engine.refiner.parameters.used())

        def held() -> StateRoom:
            self.began.set()
            assert self.may.wait(LIMIT_MS / 1e3)
            room = make()
            if self.too_little:
                room, self.too_little = replace(room, splats=little), False
            self.made.append(room)
            return room

        return held


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """One whose refinement takes so many steps after each batch, and none else."""
    # The path of an ipc socket may have 107 bytes.
    with tempfile.TemporaryDirectory() as run_dir:
        running = Daemon(
            tmp_path, Path(run_dir), save_every=1, refine_enabled=True, refine_steps=STEPS
        )
        for socket in (running.ingest, running.publisher):
            assert socket.poll(LIMIT_MS)
        yield running
        running.close()


def batches() -> list[list[Frame]]:
    frames = office(0, 2 * BATCHES)
    return [frames[start : start + 2] for start in range(0, len(frames), 2)]


def corrections(frames: Sequence[Sequence[Frame]]) -> list[PosesForward]:
    """One behind each of these batches."""
    return [
        correction(number + 1, [frame for some in frames[: number + 1] for frame in some], shift)
        for number, shift in enumerate(np.linspace(-0.1, 0.2, len(frames)).tolist())
    ]


def go_on(engine: Engine, next_seq: int) -> None:
    """The rest of the stream, from a frame and the last correction that came."""
    stream = batches()
    for some, moved in zip(stream, corrections(stream)):
        if some[0].seq >= next_seq:
            engine.process(some)
        if moved.revision > engine.trajectory.revision:
            announce_forwarded(engine, moved, [], some[-1].seq + 1)
            engine.follow_poses()


def test_every_state_of_a_stream_goes_on_to_the_same_map(daemon: Daemon, tmp_path: Path) -> None:
    stream = batches()
    kept: dict[int, Path] = {}

    def keep() -> None:
        """The states that there are, out of the reach of those to come."""
        with holding_states(daemon.folder):
            for path in states(daemon.folder):
                place = tmp_path / "kept" / "state" / path.name
                if not place.exists():
                    shutil.copytree(path, place)
                kept[int(path.name)] = place

    asked = 0
    for number, (some, moved) in enumerate(zip(stream, corrections(stream))):
        # SAVEs come before, between and behind, and nobody waits for their answers at first.
        if number % 3 == 0:
            daemon.ask("save")
        daemon.batch(some)
        if number % 3 == 1:
            daemon.ask("save")
        # It would overtake a batch that is not begun.
        daemon.until_processed(some[-1].seq + 1)
        assert daemon.correct(moved).code is None
        if number % 3 == 2:
            daemon.ask("save")
        while asked < daemon.orders:
            asked += 1
            assert daemon.answer().ok
        keep()
    assert daemon.order("save").ok
    keep()

    whole, _ = make_engine(model=daemon.model, refine_steps=STEPS)
    whole.spill_to(SpillFolder(tmp_path / "whole", kept=True))
    go_on(whole, 0)
    expected = engine_state(whole)
    same(engine_state(daemon.engine), expected)
    stood = set()
    for place in kept.values():
        cursor, state = read_cursor(place), read_state(place, daemon.model)
        stood.add((cursor.next_seq, state.trajectory.revision))
        again, _ = make_engine(model=daemon.model, refine_steps=STEPS)
        again.spill_to(SpillFolder(tmp_path / "again", kept=True))
        frames = [frame for some in stream for frame in some if frame.seq < cursor.next_seq]
        restore_engine(again, state, {frame.seq: frame for frame in frames})
        go_on(again, cursor.next_seq)
        same(engine_state(again), expected)
        again.close()
    whole.close()
    assert len(stood) > 3
    assert (2 * BATCHES, BATCHES) in stood


def test_batches_and_corrections_are_taken_while_room_is_made(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = batches()
    moved = corrections(stream)
    gate = Gate(monkeypatch)
    daemon.ask("save")
    assert gate.began.wait(LIMIT_MS / 1e3)
    for some, late in zip(stream[:2], moved):
        daemon.batch(some)
        daemon.until_processed(some[-1].seq + 1)
        assert daemon.correct(late).code is None
    assert states(daemon.folder) == []
    # What was made for fewer splats is of no use.
    gate.too_little = True
    gate.may.set()
    assert daemon.done().ok
    assert [room.splats.rows == 1 for room in gate.made] == [True, False]

    newest = states(daemon.folder)[0]
    assert read_cursor(newest).next_seq == 4
    twin, _ = make_engine(model=daemon.model, refine_steps=STEPS)
    twin.spill_to(SpillFolder(tmp_path / "twin", kept=True))
    for some, late in zip(stream[:2], moved):
        twin.process(some)
        announce_forwarded(twin, late, [], some[-1].seq + 1)
        twin.follow_poses()
    expected, state = engine_state(twin), read_state(newest, daemon.model)
    same(dict(sorted(state.refiner.arrays.items())), dict(sorted(expected.refiner.arrays.items())))
    same(state.chunks, expected.chunks)
    same(state.trajectory, expected.trajectory)
    same(state.model, expected.model)
    same(dict(state.keyframes), dict(expected.keyframes))
    twin.close()


def test_what_comes_behind_a_save_waits_for_its_copy_and_batches_do_not(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = batches()
    gate = Gate(monkeypatch)
    for op in ("save", "reset", "save", "pause"):
        daemon.ask(op)
    assert gate.began.wait(LIMIT_MS / 1e3)
    daemon.batch(stream[0])
    assert daemon.correct(corrections(stream)[0]).code is None
    daemon.until_processed(2)
    gate.may.set()
    answers = sorted(daemon.answer().id for _ in range(4))
    assert answers == [1, 2, 3, 4]
    assert daemon.until(daemon.ingest, ResetDone.KIND).read(ResetDone).epoch == 2
    assert daemon.engine.paused
    newest = states(daemon.folder)[0]
    assert read_cursor(newest).epoch == 2
    assert read_state(newest, daemon.model).frames_done == 0


def test_an_end_while_room_is_made_saves_all_the_same(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    daemon.ask("save")
    assert gate.began.wait(LIMIT_MS / 1e3)
    daemon.batch(batches()[0])
    daemon.until_processed(2)
    assert daemon.correct(corrections(batches())[0]).code is None
    daemon.process.stop()
    gate.may.set()
    daemon.thread.join(LIMIT_MS / 1e3)
    assert daemon.done().ok
    state = read_state(states(daemon.folder)[0], daemon.model)
    assert (state.frames_done, state.trajectory.revision) == (2, 1)


def test_a_state_that_is_written_is_not_held_in_memory(tmp_path: Path) -> None:
    engine, _ = make_engine(refine_enabled=False)
    feed(engine, office(0, 2))
    writer = StateWriter(tmp_path)
    state = engine_state(engine, room_maker(engine)())
    held = weakref.ref(state.refiner.arrays["rows"])
    writer.put(state, Cursor(epoch=1, next_seq=2, settings={}), [1])
    del state
    written = threading.Event()
    while writer.busy:
        written.wait(0.01)
    gc.collect()
    assert held() is None
    writer.close()
    assert [saved.error for saved in writer.collect()] == [None]
    engine.close()

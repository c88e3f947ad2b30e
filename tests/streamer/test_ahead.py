"""Corrections announced in the middle of a batch end as if they had come right after it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_helpers import Reader, make_engine, same
from hypothesis import example, given, settings
from hypothesis import strategies as st
from map_strategies import random_similarity
from strip_walk import wall_frame

from gs_decoder import ChunkUpdate, MoveUpdate
from streamer.frames import Frame
from streamer.session import publication
from streamer.session.corrections import StaleRevision, rigid
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.spill_files import SpillFolder
from ttt_core.streaming import StreamingConfig, StreamingModel

pytestmark = pytest.mark.timeout(300)


MODEL = StreamingModel(StreamingConfig(network=None)).eval()
BATCH, BATCHES = 3, 4
LOOKS = 2 * BATCH + 14
"""How often a batch of new key frames lets somebody look up: after each chunk that came from the
disk or left for it, each frame, while it predicts, after each key frame, for each worker's view and
share of the splats in two steps of refinement, and after each. Most move no more than three chunks;
where there are fewer looks, what is due later does not come."""


@dataclass(frozen=True)
class Correction:
    """In which batch, at which look it comes; what it names."""

    batch: int
    look: int
    named: frozenset[int]
    seed: int
    upto: int | None


def frames_of(batch: int) -> list[Frame]:
    """Along the wall and back, so far that what was left comes into sight again."""
    seqs = range(batch * BATCH, (batch + 1) * BATCH)
    there = BATCH * BATCHES // 2
    return [wall_frame(seq, 3.0 * (there - abs(there - seq))) for seq in seqs]


def fresh(folder: Path) -> tuple[Engine, Reader]:
    """Room for few chunks: the others leave in the middle of a batch, and come back."""
    engine, reader = make_engine(
        model=MODEL, chunk_budget=60, resident_budget=300, map_budget=500, refine_steps=2
    )
    engine.spill_to(SpillFolder(folder, kept=True))
    return engine, reader


def announce(engine: Engine, revision: int, correction: Correction) -> int:
    """Named frames move each by a motion of its own, as a bent walk does."""
    known = [seq for seq in sorted(correction.named) if seq in engine.trajectory]
    motion = random_similarity(correction.seed)
    # Near enough to where they were that frames still see what they saw.
    motion = np.eye(4) + 0.02 * (motion - np.eye(4))
    u, _, vt = np.linalg.svd(motion[:3, :3])
    motion[:3, :3] = (1.0 + 0.01 * (correction.seed % 5)) * u @ vt
    entries = {seq: motion @ engine.trajectory.pose(seq) for seq in known}
    return engine.announce_poses(revision, entries, by="seq", upto=correction.upto).moved


corrections = st.lists(
    st.builds(
        Correction,
        batch=st.sampled_from([0, 1, 2, 2, 2, 3]),
        look=st.integers(0, LOOKS - 1),
        named=st.frozensets(st.integers(0, BATCH * BATCHES - 1), min_size=1, max_size=4),
        seed=st.integers(0, 1000),
        upto=st.none() | st.integers(0, BATCH * BATCHES),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=10, deadline=None)
@given(corrections=corrections)
# Chunks with their views leave for the disk in the middle of the third batch.
@example(corrections=[Correction(2, 0, frozenset({0}), 3, None)])
@example(corrections=[Correction(2, n, frozenset({0, 5}), 4 + n, None) for n in (1, 3)])
def test_in_the_middle_of_a_batch_is_right_after_it(corrections: list[Correction]) -> None:
    corrections = sorted(corrections, key=lambda c: (c.batch, c.look))
    with tempfile.TemporaryDirectory() as home:
        (engine, reader), (twin, _) = (fresh(Path(home) / name) for name in ("one", "two"))
        for batch in range(BATCHES):
            due = deque((n, c) for n, c in enumerate(corrections) if c.batch == batch)
            interrupter = Interrupter(engine, reader, due)
            engine.process(frames_of(batch), attend=interrupter)
            twin.process(frames_of(batch))
            for revision, correction in interrupter.came:
                announce(twin, revision, correction)
                twin.follow_poses()
            same(engine_state(engine), engine_state(twin))
            assert_shown(engine, reader)
        engine.publish()
        assert reader.mirror.equals(engine.map)
        engine.close()
        twin.close()


@dataclass
class Interrupter:
    """Announces corrections at the looks for which they are due."""

    engine: Engine
    reader: Reader
    due: deque[tuple[int, Correction]]
    looks: int = 0
    came: list[tuple[int, Correction]] = field(default_factory=list)

    def __call__(self, _: Future[Any] | None) -> None:
        while self.due and self.due[0][1].look <= self.looks:
            self.came.append(self.due.popleft())
            announce(self.engine, *self.came[-1])
            assert_shown(self.engine, self.reader)
        self.looks += 1


def assert_shown(engine: Engine, reader: Reader) -> None:
    """What readers have is where the corrected trajectory has it, the batch under way included."""
    for seq, camera in reader.cameras.items():
        assert np.allclose(camera, rigid(engine.trajectory.pose(seq)), atol=1e-12)
    for chunk in reader.mirror.chunks.values():
        # A chunk's splats know the scale that its frame had when it came.
        pose = rigid(engine.trajectory.pose(chunk.frame_seq))
        assert np.allclose(rigid(chunk.T_world_chunk), pose, atol=1e-9)


def test_readers_are_told_while_the_model_predicts(tmp_path: Path) -> None:
    engine, reader = fresh(tmp_path)
    engine.process(frames_of(0))
    shift = np.eye(4)
    shift[2, 3] = -1.0
    told = []

    def attend(under_way: Future[Any] | None) -> None:
        if under_way is None or told:
            return
        came, splats = len(reader.log), engine.refiner.parameters.rows.copy()
        named = {0: shift @ engine.trajectory.pose(0)}
        told.append(engine.announce_poses(1, named, by="seq", upto=None).moved)
        with pytest.raises(StaleRevision):
            engine.announce_poses(1, named, by="seq", upto=None)
        (update,) = reader.log[came:]
        assert isinstance(update, MoveUpdate)
        assert len(update.moves) == told[-1]
        # What is worked on does not move under the batch.
        assert np.array_equal(engine.refiner.parameters.rows, splats)

    engine.process(frames_of(1), attend=attend)
    assert told == [len([c for c in engine.map.chunks.values() if c.frame_seq < BATCH])]
    assert told[0] > 0
    for chunk in engine.map.chunks.values():
        assert np.isclose(chunk.T_world_chunk[2, 3], -1.0)
    engine.close()


@pytest.mark.parametrize("phase", ["_view_gradient", "_update_rows"])
def test_readers_are_told_while_a_step_is_done(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (engine, reader), (twin, _) = (fresh(tmp_path / name) for name in ("one", "two"))
    shift = np.eye(4)
    shift[2, 3] = -1.0
    held_up, may, log = threading.Event(), threading.Event(), []
    for one in (engine, twin):
        one.process(frames_of(0))
    work = getattr(engine.refiner, phase)

    def held(*arguments: Any) -> Any:
        held_up.set()
        assert may.wait(60)
        return work(*arguments)

    def correct(one: Engine) -> None:
        one.announce_poses(1, {0: shift @ one.trajectory.pose(0)}, by="seq", upto=None)

    def attend(under_way: Future[Any] | None) -> None:
        if under_way is None or log:
            return
        while not (under_way.done() or held_up.is_set()):
            time.sleep(1e-3)
        if held_up.is_set():
            came = len(reader.log)
            correct(engine)
            log.extend(reader.log[came:])
            assert not under_way.done()
            may.set()

    monkeypatch.setattr(engine.refiner, phase, held)
    engine.refine(attend)
    engine.follow_poses()
    twin.refine()
    correct(twin)
    twin.follow_poses()
    (update,) = log
    assert isinstance(update, MoveUpdate)
    same(engine_state(engine), engine_state(twin))
    engine.close()
    twin.close()


def test_readers_are_told_while_the_memory_follows_another_correction(tmp_path: Path) -> None:
    (engine, reader), (twin, _) = (fresh(tmp_path / name) for name in ("one", "two"))
    told = []

    def correct(one: Engine, revision: int) -> None:
        shift = np.eye(4)
        shift[2, 3] = -revision
        one.announce_poses(revision, {0: shift @ one.trajectory.pose(0)}, by="seq", upto=None)

    def attend(under_way: Future[Any] | None) -> None:
        if under_way is not None and not told:
            came = len(reader.log)
            correct(engine, 2)
            told.extend(reader.log[came:])

    for one in (engine, twin):
        one.process(frames_of(0))
        correct(one, 1)
    engine.follow_poses(attend)
    twin.follow_poses()
    correct(twin, 2)
    twin.follow_poses()
    (update,) = told
    assert isinstance(update, MoveUpdate)
    assert engine.ahead.take() is None
    same(engine_state(engine), engine_state(twin))
    engine.close()
    twin.close()


@pytest.mark.parametrize("most", ["PORTION", "PORTION_SPLATS"])
def test_readers_are_told_between_portions_of_a_publication(
    most: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    portion = 4
    engine, reader = make_engine(model=MODEL, chunk_budget=60, refine_steps=2)
    # Chunks are full, so that so many splats are as many chunks.
    monkeypatch.setattr(publication, most, portion if most == "PORTION" else 60 * portion)
    frames = [wall_frame(seq, 2.0 * seq) for seq in range(portion + 4)]
    engine.process(frames)
    shift = np.eye(4)
    shift[2, 3] = -1.0
    engine.refiner.doubt(np.arange(engine.refiner.parameters.count), 0.01)
    seen = []

    def attend(under_way: Future[Any] | None) -> None:
        seen.append(sum(isinstance(update, ChunkUpdate) for update in reader.log[came:]))
        engine.announce_poses(1, {0: shift @ engine.trajectory.pose(0)}, by="seq", upto=None)

    came, changed = len(reader.log), len(engine.publication.changed())
    assert portion < changed <= 2 * portion
    engine.publication.everything(attend)
    # Readers had one portion then, and after the correction the rest.
    assert seen == [portion]
    first, *moves = [type(update) for update in reader.log[came + portion :]][:2]
    assert first is MoveUpdate, moves
    engine.follow_poses()
    assert reader.mirror.equals(engine.map)
    assert not engine.publication.changed()
    for chunk in engine.map.chunks.values():
        assert np.isclose(chunk.T_world_chunk[2, 3], -1.0)
    engine.close()


def test_a_model_that_fails_aside_fails_the_batch(tmp_path: Path) -> None:
    class Broken(StreamingModel):
        def stream(self, state: Any, batch: Any) -> Any:
            raise RuntimeError("no memory")

    engine, _ = make_engine(model=Broken(StreamingConfig(network=None)).eval())
    with pytest.raises(RuntimeError, match="no memory"):
        engine.process(frames_of(0), attend=lambda _: None)
    engine.close()

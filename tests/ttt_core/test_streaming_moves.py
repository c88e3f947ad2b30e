"""Corrected poses reach what the stream carries: views for matching, and the memory itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from streaming_cases import batches, build, run, same_state, with_random_head

from ttt_core import StreamingModel, StreamingState
from ttt_core.memory import MemoryState, RidgeMemory


def moved_by(offset: tuple[float, float, float], turn: float = 0.0) -> np.ndarray:
    move = np.eye(4)
    cos, sin = np.cos(turn), np.sin(turn)
    move[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
    move[:3, 3] = offset
    return move


def poses_of(state: StreamingState) -> dict[int, np.ndarray]:
    return {record.key: record.c2w.numpy() for record in state.records}


def answers(model: StreamingModel, memory: MemoryState, places: torch.Tensor) -> torch.Tensor:
    """Everything that a memory says of places."""
    assert model.network.memory is not None
    values, doubt = model.network.memory.read(memory, places)
    return torch.cat((values, doubt[..., None]), dim=-1)


@pytest.fixture(scope="module")
def places() -> torch.Tensor:
    return torch.randn(1, 200, 3, generator=torch.Generator().manual_seed(0))


def test_kept_views_move() -> None:
    model = build()
    stream = batches(2)
    states, predictions = run(model, stream)
    move = moved_by((10.0, 0.0, -4.0))
    state = states[1]
    corrected = {view.key: move @ view.c2w for view in state.views}
    corrected[999] = np.eye(4)
    moved = model.move(state, corrected)
    assert [view.key for view in moved.views] == [view.key for view in state.views]
    for view, old in zip(moved.views, state.views):
        assert np.array_equal(view.c2w, move @ old.c2w) and np.array_equal(view.gray, old.gray)
    assert moved.frame is state.frame
    # with the new batch moved as well, matching against the kept views finds the same depths
    batch = replace(stream[1], c2w=torch.from_numpy(move) @ stream[1].c2w)
    _, after = model.stream(moved, batch)
    ratio = torch.log(after.depth / predictions[1].depth).abs()
    assert ratio.median() < 1e-3
    _, unmoved = model.stream(state, batch)
    assert torch.log(unmoved.depth / predictions[1].depth).abs().mean() > ratio.mean()


def test_there_and_back_restores_the_memory(places: torch.Tensor) -> None:
    model = with_random_head()
    states, _ = run(model, batches(3))
    before = states[-1]
    turn = moved_by((0.4, -0.1, 0.3), turn=0.3)
    there = model.move(before, {k: turn @ pose for k, pose in poses_of(before).items()})
    back = model.move(there, poses_of(before))
    was, away, now = (answers(model, s.memory, places) for s in (before, there, back))
    assert (away - was).abs().max() > 0.1
    torch.testing.assert_close(now, was, rtol=0, atol=2e-3)
    assert int(back.memory["written"]) == int(before.memory["written"])
    for old, new in zip(before.records, back.records):
        assert torch.equal(old.c2w, new.c2w) and new.written == old.written


def test_a_world_that_moves_sideways_moves_the_memory(places: torch.Tensor) -> None:
    """Every key frame moved by one translation: as if the memory itself had been translated."""
    model = with_random_head()
    states, _ = run(model, batches(3))
    state = states[-1]
    assert state.frame is not None and isinstance(model.network.memory, RidgeMemory)
    offset = np.array([0.7, -0.2, 0.5])
    move = moved_by(tuple(offset))
    moved = model.move(state, {k: move @ pose for k, pose in poses_of(state).items()})
    local = torch.from_numpy(offset / float(state.frame.scale)).float()
    expected = model.network.memory.translate(state.memory, local[None])
    torch.testing.assert_close(
        answers(model, moved.memory, places),
        answers(model, expected, places),
        rtol=0,
        atol=2e-3,
    )
    # read where things went, the memory says what it said before
    torch.testing.assert_close(
        answers(model, moved.memory, places + local),
        answers(model, state.memory, places),
        rtol=0,
        atol=2e-3,
    )


def test_growth_alone_moves_what_was_written(places: torch.Tensor) -> None:
    """A world that grew about the first camera: depths and baselines by one factor, and back."""
    model = with_random_head()
    states, _ = run(model, batches(2))
    state = states[-1]
    origin = next(iter(poses_of(state).values()))[:3, 3]
    grown = {}
    for key, pose in poses_of(state).items():
        grown[key] = pose.copy()
        grown[key][:3, 3] = origin + 1.25 * (pose[:3, 3] - origin)
    larger = model.move(state, grown, dict.fromkeys(grown, 1.25))
    for old, new in zip(state.records, larger.records):
        expected = old.record.log_depth + np.log(1.25)
        torch.testing.assert_close(new.record.log_depth, expected)
    back = model.move(larger, poses_of(state), dict.fromkeys(grown, 1 / 1.25))
    was, away, now = (answers(model, s.memory, places) for s in (state, larger, back))
    assert (away - was).abs().max() > 0.05
    torch.testing.assert_close(now, was, rtol=0, atol=2e-3)


def test_one_corrected_frame_is_as_if_it_had_been_written_there(places: torch.Tensor) -> None:
    model = with_random_head()
    states, _ = run(model, batches(3))
    state = states[-1]
    network, frame = model.network, state.frame
    assert frame is not None and network.memory is not None
    corrected = moved_by((0.5, 0.1, 0.2), turn=-0.2) @ poses_of(state)[2]
    moved = model.move(state, {2: corrected})
    # the same records written from nothing, batch by batch, with the new pose
    rewritten = network.memory.initial_state(1)
    for batch in range(3):
        samples = [
            network.writer.samples(
                record.record,
                record.fxfycxcy[None, None],
                frame.localize(record.c2w).float()[None, None],
            )
            for record in moved.records
            if record.written == batch
        ]
        joined = (torch.cat(parts, dim=1) for parts in zip(*samples, strict=True))
        rewritten = network.memory.write(rewritten, *joined)
    torch.testing.assert_close(
        answers(model, moved.memory, places),
        answers(model, rewritten, places),
        rtol=0,
        atol=2e-3,
    )


def test_confirmed_and_unknown_poses_change_nothing_that_can_be_seen(places: torch.Tensor) -> None:
    model = build()
    states, _ = run(model, batches(2))
    state = states[-1]
    unknown = model.move(state, {999: np.eye(4)})
    assert same_state(unknown, state)
    confirmed = model.move(state, poses_of(state))
    torch.testing.assert_close(
        answers(model, confirmed.memory, places),
        answers(model, state.memory, places),
        rtol=0,
        atol=1e-3,
    )
    assert same_state(model.move(model.initial_state(), poses_of(state)), model.initial_state())


@pytest.mark.parametrize("memory", ["swiglu", "tokens", "none"])
def test_memories_that_cannot_be_edited_stay_as_they_are(memory: str) -> None:
    model = build(memory)
    states, _ = run(model, batches(2))
    state = states[-1]
    move = moved_by((1.0, 0.0, 0.0))
    moved = model.move(state, {view.key: move @ view.c2w for view in state.views})
    assert moved.memory is state.memory and state.records == ()
    assert np.array_equal(moved.views[0].c2w, move @ state.views[0].c2w)

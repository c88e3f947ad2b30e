"""Corrected poses reach what the stream carries: views for matching, and the memory itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming_cases import batches, build, run, same_state, with_random_head

from ttt_core import (
    StateMismatchError,
    StreamingModel,
    StreamingState,
    load_streaming_state,
    save_streaming_state,
)
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


def assert_as_if_written_there(
    model: StreamingModel, state: StreamingState, places: torch.Tensor
) -> None:
    """The memory says what it would say had every record been written where it is said to be."""
    network, frame = model.network, state.frame
    assert frame is not None and network.memory is not None
    expected = network.memory.initial_state(1)
    for batch in range(int(state.memory["written"])):
        samples = [
            network.writer.samples(
                record.record,
                record.fxfycxcy[None, None],
                frame.localize(record.c2w).float()[None, None],
            )
            for record in state.records
            if record.written == batch
        ]
        joined = (torch.cat(parts, dim=1) for parts in zip(*samples, strict=True))
        expected = network.memory.write(expected, *joined)
    torch.testing.assert_close(
        answers(model, state.memory, places),
        answers(model, expected, places),
        rtol=0,
        atol=2e-3,
    )


def waiting(state: StreamingState) -> list[int]:
    return [record.key for record in state.records if record.pending is not None]


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


def test_there_and_back_restores_a_surface_grid() -> None:
    model = with_random_head("grid")
    states, _ = run(model, batches(3))
    before = states[-1]
    turn = moved_by((0.4, -0.1, 0.3), turn=0.3)
    there = model.move(before, {k: turn @ pose for k, pose in poses_of(before).items()})
    back = model.move(there, poses_of(before))
    was, away, now = (held(state.memory) for state in (before, there, back))
    assert was and len(away.keys() & was.keys()) < 0.5 * len(was)
    for corner, sums in now.items():
        expected = was.get(corner, torch.zeros_like(sums))
        torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-3)


def held(memory: MemoryState) -> dict[int, torch.Tensor]:
    """The sums of a surface grid by corner, where there are any."""
    tags, sums = memory["grid_tags"][0], memory["grid_sums"][0]
    there = sums[:, 0] > 1e-3
    return dict(zip(tags[there].tolist(), sums[there], strict=True))


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
    corrected = moved_by((0.5, 0.1, 0.2), turn=-0.2) @ poses_of(state)[2]
    moved = model.move(state, {2: corrected})
    assert np.array_equal(poses_of(moved)[2], corrected)
    assert_as_if_written_there(model, moved, places)


def test_confirmed_and_unknown_poses_change_nothing() -> None:
    model = build()
    states, _ = run(model, batches(2))
    state = states[-1]
    unknown = model.move(state, {999: np.eye(4)})
    assert same_state(unknown, state)
    assert same_state(model.move(state, poses_of(state)), state)
    assert same_state(model.move(model.initial_state(), poses_of(state)), model.initial_state())


@pytest.mark.parametrize("memory", ["swiglu", "tokens", "anchored", "none"])
def test_memories_that_cannot_be_edited_stay_as_they_are(memory: str) -> None:
    model = build(memory)
    states, _ = run(model, batches(2))
    state = states[-1]
    move = moved_by((1.0, 0.0, 0.0))
    moved = model.move(state, {view.key: move @ view.c2w for view in state.views})
    assert moved.memory is state.memory and state.records == ()
    assert np.array_equal(moved.views[0].c2w, move @ state.views[0].c2w)


def test_a_few_at_a_time_newest_first_until_all_are_where_they_belong(
    places: torch.Tensor,
) -> None:
    model = with_random_head(moved_at_once=2)
    stream = batches(5)
    states, _ = run(model, stream[:3])
    turn = moved_by((0.4, -0.1, 0.3), turn=0.3)
    corrected = {key: turn @ pose for key, pose in poses_of(states[-1]).items()}
    state = model.move(states[-1], corrected)
    assert waiting(state) == [0, 1, 2, 3]
    assert all(np.array_equal(v.c2w, corrected[v.key]) for v in state.views)
    assert_as_if_written_there(model, state, places)
    for batch, left in zip(stream[3:], ([0, 1], [])):
        state, _ = model.stream(state, replace(batch, c2w=torch.from_numpy(turn) @ batch.c2w))
        assert waiting(state) == left
        assert_as_if_written_there(model, state, places)
    for key, pose in corrected.items():
        assert np.array_equal(poses_of(state)[key], pose)


def test_late_is_the_same_as_at_once(places: torch.Tensor) -> None:
    """Untrained, what is written does not depend on what was read."""
    ends = []
    for at_once in (1, 16):
        model = build(moved_at_once=at_once)
        states, _ = run(model, batches(2))
        turn = moved_by((0.4, -0.1, 0.3), turn=0.3)
        poses = {key: turn @ pose for key, pose in poses_of(states[-1]).items()}
        state = model.move(states[-1], poses, dict.fromkeys(poses, 1.1))
        assert len(waiting(state)) == 4 - min(at_once, 4)
        batch = batches(3)[2]
        state, _ = model.stream(state, replace(batch, c2w=torch.from_numpy(turn) @ batch.c2w))
        for left in (1, 0, 0):
            state = model.move(state, {})
            assert len(waiting(state)) == (left if at_once == 1 else 0)
        ends.append((answers(model, state.memory, places), state))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=0, atol=2e-3)
    for one, other in zip(ends[0][1].records, ends[1][1].records):
        assert torch.equal(one.c2w, other.c2w)
        assert torch.equal(one.record.log_depth, other.record.log_depth)


def test_what_waits_is_saved_with_the_state(tmp_path: Path) -> None:
    model = with_random_head(moved_at_once=1)
    stream = batches(3)
    states, _ = run(model, stream[:2])
    move = moved_by((0.3, 0.0, 0.1))
    poses = {key: move @ pose for key, pose in poses_of(states[-1]).items()}
    state = model.move(states[-1], poses, {0: 1.2})
    assert waiting(state) == [0, 1, 2]
    save_streaming_state(state, tmp_path / "state.safetensors")
    loaded = load_streaming_state(tmp_path / "state.safetensors")
    assert same_state(state, loaded) and waiting(loaded) == [0, 1, 2]
    ours, theirs = (model.stream(s, stream[2])[0] for s in (state, loaded))
    assert same_state(ours, theirs) and waiting(theirs) == [0, 1]
    ours, theirs = (model.move(model.move(s, {}), {}) for s in (ours, theirs))
    assert same_state(ours, theirs) and not waiting(theirs)
    tensors = {n: t for n, t in state.to_tensors().items() if n != "record.1.pending.c2w"}
    with pytest.raises(StateMismatchError, match=r"record lacks .'pending.c2w'"):
        StreamingState.from_tensors(tensors)


def test_a_second_correction_overtakes_the_first(places: torch.Tensor) -> None:
    model = with_random_head(moved_at_once=2)
    states, _ = run(model, batches(2))
    first, second = moved_by((0.4, 0.0, 0.3)), moved_by((-0.2, 0.1, 0.0), turn=0.2)
    before = poses_of(states[-1])
    keys = dict.fromkeys(before)
    state = model.move(states[-1], {k: first @ before[k] for k in keys}, dict.fromkeys(keys, 1.25))
    assert waiting(state) == [0, 1]
    state = model.move(state, {k: second @ before[k] for k in keys}, dict.fromkeys(keys, 1.1))
    assert waiting(state) == [0, 1]
    state = model.move(state, {})
    assert not waiting(state)
    for old, new in zip(states[-1].records, state.records):
        assert np.array_equal(new.c2w.numpy(), second @ before[old.key])
        grown = old.record.log_depth + np.log(1.25 * 1.1)
        torch.testing.assert_close(new.record.log_depth, grown)
    assert_as_if_written_there(model, state, places)


def test_a_correction_that_is_withdrawn_while_it_waits_leaves_no_trace() -> None:
    model = build(moved_at_once=1)
    states, _ = run(model, batches(1))
    before = poses_of(states[-1])
    there = model.move(
        states[-1], {k: moved_by((1.0, 0.0, 0.0)) @ before[k] for k in before}, {0: 1.25}
    )
    assert waiting(there) == [0]
    back = model.move(there, {0: before[0]}, {0: 1 / 1.25})
    assert not waiting(back) and same_state(
        replace(back, views=()),
        replace(there, views=(), records=back.records, anchor=states[-1].anchor),
    )
    assert torch.equal(back.records[0].record.log_depth, states[-1].records[0].record.log_depth)


def test_small_corrections_are_left_until_they_add_up() -> None:
    model = build()
    states, _ = run(model, batches(1))
    state = states[-1]
    assert state.frame is not None
    written = poses_of(state)
    nudges = [
        moved_by((0.0006 * float(state.frame.scale), 0.0, 0.0)),
        moved_by((0.0, 0.0, 0.0), turn=np.radians(0.03)),
    ]
    for nudge in nudges:
        once = model.move(state, {1: written[1] @ nudge})
        assert once.memory is state.memory and np.array_equal(poses_of(once)[1], written[1])
        twice = model.move(once, {1: written[1] @ nudge @ nudge})
        assert not torch.equal(twice.memory["gram"], state.memory["gram"])
        assert np.array_equal(poses_of(twice)[1], written[1] @ nudge @ nudge)
    grown = model.move(state, {1: written[1]}, {1: 1.0001})
    assert not torch.equal(grown.memory["gram"], state.memory["gram"])

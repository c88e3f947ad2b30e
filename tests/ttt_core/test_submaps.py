"""Several sub-maps in a stream: opened, left, taken up again, moved as wholes, saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streaming_cases import HEIGHT, WIDTH, batches, build, run, same_state, with_random_head
from textured_room import view_batch

from ttt_core import (
    ConfigError,
    StateMismatchError,
    StreamingConfig,
    StreamingModel,
    StreamingState,
    ViewBatch,
    load_streaming_state,
    save_streaming_state,
)
from ttt_core.default_model import compact_model
from ttt_core.memory import MemoryState
from ttt_core.submap import SubmapFrame
from ttt_core.submaps import Anchor, Submap, bounded, chosen

FAR = 100.0
"""Metres from one room to the next: beyond any reach."""


def room(number: int, first: int) -> ViewBatch:
    """Views `first` and next of the corner, in a place and with wallpaper of its own for every
    room, with measured depth so that no room has another unit."""
    world = np.eye(4)
    world[0, 3] = FAR * number
    batch, depth = view_batch(
        range(first, first + 2), height=HEIGHT, width=WIDTH, world=world, wallpaper=17.0 * number
    )
    keys = tuple(1000 * number + key for key in batch.keys)
    # Where all is measured nothing is corrected, so a part of it is not.
    depth[..., WIDTH // 2 :] = 0.0
    return replace(batch, keys=keys, sensor_depth=depth)


def streamed(model: StreamingModel, *rooms: tuple[int, int]) -> StreamingState:
    state = model.initial_state()
    for number, first in rooms:
        state, _ = model.stream(state, room(number, first))
    return state


def same_memory(a: MemoryState, b: MemoryState) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a.tensors)


def test_a_stream_that_stays_has_one_submap() -> None:
    states, _ = run(build(), batches(4))
    assert all(state.left == () for state in states)
    assert states[-1].anchor is not None and states[-1].anchor.key == 0


def test_a_new_place_has_fast_weights_of_its_own() -> None:
    model = with_random_head()
    state = streamed(model, (0, 0), (1, 0))
    alone = streamed(model, (1, 0))
    assert same_memory(state.memory, alone.memory)
    assert state.frame is not None and alone.frame is not None
    assert torch.equal(state.frame.world_from_submap, alone.frame.world_from_submap)
    assert state.anchor is not None and state.anchor.key == 1000
    (left,) = state.left
    assert left.anchor.key == 0
    assert same_memory(left.memory, streamed(model, (0, 0)).memory)
    # Key frames for matching are the world's, not a sub-map's.
    assert [view.key for view in state.views] == [0, 1, 1000, 1001]
    assert [record.key for record in state.records] == [1000, 1001]


def test_who_comes_back_finds_what_was_written() -> None:
    model = with_random_head()
    direct = streamed(model, (0, 0), (0, 2))
    around = streamed(model, (0, 0), (1, 0), (2, 0), (0, 2))
    assert same_memory(around.memory, direct.memory)
    assert [record.key for record in around.records] == [0, 1, 2, 3]
    assert [submap.anchor.key for submap in around.left] == [1000, 2000]
    # Only to ask takes nothing up, and opens nothing.
    asked = model.query(streamed(model, (0, 0), (1, 0)), room(0, 2))
    assert torch.equal(asked.depth, model.query(streamed(model, (0, 0), (1, 0)), room(0, 2)).depth)
    elsewhere = model.query(streamed(model, (1, 0)), room(0, 2))
    assert not torch.equal(asked.depth, elsewhere.depth)


def test_without_a_network_nothing_is_opened() -> None:
    model = StreamingModel(StreamingConfig(network=None))
    state, first = streamed(model, (0, 0), (1, 0)), streamed(model, (0, 0))
    assert state.frame is not None and first.frame is not None
    assert torch.equal(state.frame.scale, first.frame.scale)
    assert state.left == ()
    assert state.anchor is not None and state.anchor.key == 0


def test_what_is_carried_is_bounded() -> None:
    model = build(kept_submaps=3, kept_records=5, kept_views=4, recent_views=2)
    state = streamed(model, *((number, 0) for number in range(6)))
    assert [submap.anchor.key for submap in state.left] == [3000, 4000]
    kept = [record.key for submap in state.left for record in submap.records]
    # Of the ones left the last keep their records, the newest of them first.
    assert kept == [3001, 4000, 4001]
    assert [record.key for record in state.records] == [5000, 5001]
    size = state.nbytes
    for number in range(6, 9):
        state, _ = model.stream(state, room(number, 0))
    assert state.nbytes == size
    assert compact_model(None, kept_submaps=3).config.kept_submaps == 3
    with pytest.raises(ConfigError, match="kept_submaps"):
        StreamingConfig(kept_submaps=0)
    with pytest.raises(ConfigError, match="submap_reach"):
        StreamingConfig(submap_reach=0.0)


def similarity(scale: float) -> np.ndarray:
    world = np.eye(4)
    world[:3, :3] = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]]) * scale
    world[:3, 3] = 5.0, -2.0, 1.0
    return world


@pytest.mark.parametrize("scale", [1.0, 1.6])
def test_a_submap_that_was_left_moves_as_a_whole(scale: float) -> None:
    """Corrected as one, and taken up again: as if it had been there all the time."""
    model = with_random_head()
    state = streamed(model, (0, 0), (0, 2), (1, 0))
    world = similarity(scale)
    poses = {}
    for record in state.left[0].records:
        pose = world @ record.c2w.numpy()
        pose[:3, :3] /= scale
        poses[record.key] = pose
    moved = model.move(state, poses, dict.fromkeys(poses, scale))
    (left,) = moved.left
    assert same_memory(left.memory, state.left[0].memory)
    assert all(record.pending is None for record in left.records)
    assert torch.isclose(left.frame.scale, scale * state.left[0].frame.scale)
    for record in left.records:
        assert np.allclose(record.c2w.numpy(), poses[record.key])
    back = room(0, 4)
    c2w = torch.from_numpy(world) @ back.c2w
    c2w[:, :3, :3] /= scale
    assert back.sensor_depth is not None
    now, ours = model.stream(moved, replace(back, c2w=c2w, sensor_depth=scale * back.sensor_depth))
    then, theirs = model.stream(state, back)
    assert now.anchor is not None and now.anchor.key == 0
    # The prior finds the same depths but for rounding, and so does what corrects it.
    ratio = torch.log(ours.depth / theirs.depth / scale).abs()
    assert ratio.median() < 2e-3
    assert len(now.records) == len(then.records)


def test_a_key_frame_that_moved_on_its_own_is_rewritten_on_the_return() -> None:
    model = with_random_head()
    state = streamed(model, (0, 0), (0, 2), (1, 0))
    record = state.left[0].records[2]
    pose = record.c2w.numpy().copy()
    pose[0, 3] += 0.3
    moved = model.move(state, {record.key: pose})
    (left,) = moved.left
    assert [r.key for r in left.records if r.pending is not None] == [record.key]
    assert same_memory(left.memory, state.left[0].memory)
    # As a correction does to it that comes before the camera leaves.
    stayed = model.move(streamed(model, (0, 0), (0, 2)), {record.key: pose})
    # Matching looks for points in all key frames; here it has to find the same ones.
    stayed = replace(stayed, views=moved.views)
    back, _ = model.stream(moved, room(0, 4))
    expected, _ = model.stream(stayed, room(0, 4))
    assert all(r.pending is None for r in back.records)
    for name, tensor in expected.memory.tensors.items():
        torch.testing.assert_close(back.memory[name], tensor, rtol=1e-5, atol=1e-5)


def test_the_anchor_follows_while_its_submap_is_present() -> None:
    """What was rewritten before the camera left is not moved once more afterwards."""
    model = with_random_head()
    state = streamed(model, (0, 0), (0, 2))
    shift = np.eye(4)
    shift[1, 3] = 0.4
    poses = {r.key: shift @ r.c2w.numpy() for r in state.records}
    state = model.move(state, poses)
    assert state.anchor is not None and np.allclose(state.anchor.c2w.numpy(), poses[0])
    state, _ = model.stream(state, room(1, 0))
    again = model.move(state, poses)
    assert torch.allclose(
        again.left[0].frame.world_from_submap, state.left[0].frame.world_from_submap
    )
    assert all(record.pending is None for record in again.left[0].records)


def test_all_of_them_are_saved_bit_for_bit(tmp_path: Path) -> None:
    model = with_random_head()
    state = streamed(model, (0, 0), (1, 0), (2, 0))
    pose = state.left[0].records[0].c2w.numpy() + 0.0
    pose[0, 3] += 0.2
    state = model.move(state, {1: pose})
    save_streaming_state(state, tmp_path / "state.safetensors")
    loaded = load_streaming_state(tmp_path / "state.safetensors")
    assert same_state(state, loaded)
    ours, theirs = (model.stream(s, room(0, 2)) for s in (state, loaded))
    assert same_state(ours[0], theirs[0])
    assert torch.equal(ours[1].depth, theirs[1].depth)
    tensors = state.to_tensors()
    for name in ("left.0.frame.scale", "left.0.frame.anchor_c2w"):
        with pytest.raises(StateMismatchError, match="frame"):
            StreamingState.from_tensors({n: t for n, t in tensors.items() if n != name})
    without = {n: t for n, t in tensors.items() if not n.startswith("left.0.frame.")}
    with pytest.raises(StateMismatchError, match="no frame"):
        StreamingState.from_tensors(without)


def placed(anchor: int, x: float, scale: float = 1.0) -> Submap:
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[0, 3] = x
    frame = SubmapFrame(c2w, torch.tensor(scale, dtype=torch.float64))
    return Submap(Anchor(anchor, c2w), frame, MemoryState())


def cameras(x: float) -> torch.Tensor:
    return placed(0, x).frame.world_from_submap[None]


@given(
    now=st.floats(-30.0, 30.0),
    others=st.lists(st.tuples(st.floats(-30.0, 30.0), st.floats(0.5, 2.0)), max_size=5),
    x=st.floats(-30.0, 30.0),
)
def test_the_chosen_submap_is_one_that_reaches_there(
    now: float, others: list[tuple[float, float]], x: float
) -> None:
    present = placed(0, now)
    rest = [placed(1 + i, at, scale) for i, (at, scale) in enumerate(others)]
    reach = 4.0
    found = chosen(present, rest, cameras(x), reach)
    if found is None:
        assert present.distance(cameras(x)) > reach
        assert all(other.distance(cameras(x)) > 0.75 * reach for other in rest)
        return
    assert found.distance(cameras(x)) <= reach
    # It is still the one if nothing moves: nothing flickers.
    remaining = [s for s in (present, *rest) if s is not found]
    assert chosen(found, remaining, cameras(x), reach) is found


def test_what_was_left_last_stays() -> None:
    submaps = [placed(number, 0.0) for number in range(4)]
    assert [s.anchor.key for s in bounded(submaps, most=2, records=0)] == [2, 3]
    assert bounded(submaps, most=0, records=3) == ()

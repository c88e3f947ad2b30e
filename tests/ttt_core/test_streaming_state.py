"""What the stream carries: bounded, the same after it was saved, refused where it is damaged."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from streaming_cases import HEIGHT, WIDTH, batches, build, run, same_state, with_random_head

from ttt_core import (
    StateMismatchError,
    StreamingState,
    load_streaming_state,
    save_streaming_state,
)
from ttt_core.network import MEMORIES
from ttt_core.state import write_tensors


@pytest.mark.parametrize("memory", MEMORIES)
def test_saved_state_continues_bit_for_bit_in_a_model_built_anew(
    memory: str, tmp_path: Path
) -> None:
    stream = batches(3)
    states, _ = run(with_random_head(memory), stream[:2])
    recorded = [0, 1, 2, 3] if memory in ("ridge", "grid") else []
    assert [r.key for r in states[-1].records] == recorded
    save_streaming_state(states[-1], tmp_path / "state.safetensors")
    loaded = load_streaming_state(tmp_path / "state.safetensors")
    assert same_state(states[-1], loaded)
    # a model built anew must be the network that wrote the state
    (after, ours), (after_loaded, theirs) = (
        with_random_head(memory).stream(states[-1], stream[2]),
        with_random_head(memory).stream(loaded, stream[2]),
    )
    assert same_state(after, after_loaded)
    assert torch.equal(ours.depth, theirs.depth) and torch.equal(ours.confidence, theirs.confidence)


def test_corrections_reach_a_loaded_state(tmp_path: Path) -> None:
    model = build()
    states, _ = run(model, batches(2))
    save_streaming_state(states[-1], tmp_path / "state.safetensors")
    loaded = load_streaming_state(tmp_path / "state.safetensors")
    pose = states[-1].records[1].c2w.clone()
    pose[0, 3] += 0.3
    ours, theirs = (model.move(state, {1: pose}) for state in (states[-1], loaded))
    assert same_state(ours, theirs) and not same_state(ours, states[-1])


def test_fresh_state_saves_and_loads(tmp_path: Path) -> None:
    state = build().initial_state()
    save_streaming_state(state, tmp_path / "fresh.safetensors")
    loaded = load_streaming_state(tmp_path / "fresh.safetensors")
    assert loaded.frame is None and loaded.views == () and loaded.records == ()
    assert same_state(state, loaded)


def test_damaged_state_is_refused() -> None:
    model = build()
    batch = batches(1)[0]
    state, _ = model.stream(model.initial_state(), batch)
    tensors = state.to_tensors()
    for lost, message in (
        ("views.keys", "views.keys"),
        ("frame.scale", "frame"),
        ("view.1.gray", "view 1 .key 1. lacks .'gray'"),
        ("record.1.features", "record lacks .'features'"),
    ):
        with pytest.raises(StateMismatchError, match=message):
            StreamingState.from_tensors({k: t for k, t in tensors.items() if k != lost})
    damaged = StreamingState.from_tensors(
        {k: t for k, t in tensors.items() if k != "memory.moment"}
    )
    with pytest.raises(StateMismatchError, match="do not fit this model"):
        model.stream(damaged, batch)


def test_masks_survive_saving(tmp_path: Path) -> None:
    model = build()
    batch = batches(1)[0]
    valid = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    valid[:, :, :20] = False
    state, prediction = model.stream(model.initial_state(), replace(batch, valid=valid))
    assert not prediction.confidence[~valid].any() and prediction.confidence[valid].any()
    save_streaming_state(state, tmp_path / "state.safetensors")
    assert same_state(state, load_streaming_state(tmp_path / "state.safetensors"))


def test_masked_pixels_stay_without_a_say_whatever_the_head_thinks() -> None:
    model = with_random_head()
    valid = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    valid[:, 10:30] = False
    _, prediction = model.stream(model.initial_state(), replace(batches(1)[0], valid=valid))
    assert not prediction.confidence[~valid].any()


def test_kept_views_and_records_are_bounded() -> None:
    model = build(kept_views=5, recent_views=2, kept_records=3)
    stream = batches(5)
    states, _ = run(model, stream)
    assert [len(state.views) for state in states] == [0, 2, 4, 5, 5, 5]
    assert [view.key for view in states[-1].views][-2:] == [8, 9]
    assert [len(state.records) for state in states] == [0, 2, 3, 3, 3, 3]
    assert [(r.key, r.written) for r in states[-1].records] == [(7, 3), (8, 4), (9, 4)]
    assert states[-1].nbytes == states[-2].nbytes
    again, _ = model.stream(states[-1], stream[-1])
    assert [v.key for v in again.views] == [v.key for v in states[-1].views]


def test_no_records_are_kept_where_none_are_wanted() -> None:
    model = build(kept_records=0)
    states, _ = run(model, batches(2))
    assert states[-1].records == ()


def test_a_record_holds_its_own_tensors() -> None:
    """Records outlive their batch: a view into it would keep all of it alive."""
    states, _ = run(build(), batches(1, per_batch=4))
    for record in states[-1].records:
        for name, tensor in record.to_tensors().items():
            held = tensor.untyped_storage().nbytes()
            assert held == tensor.numel() * tensor.element_size(), name


def test_writing_tensors_of_every_size_leaves_no_types_behind(tmp_path: Path) -> None:
    """A type of ctypes for each size would stay for ever: a daemon saves for weeks."""
    before = len(ctypes._pointer_type_cache)
    for size in range(1, 20):
        write_tensors({"state": torch.zeros(size)}, tmp_path / "state.safetensors")
    assert len(ctypes._pointer_type_cache) == before

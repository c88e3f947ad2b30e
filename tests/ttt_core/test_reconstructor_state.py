"""States and checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reconstructor_cases import random_views, tiny_model
from safetensors.torch import save_file

from ttt_core import (
    CheckpointError,
    ReconstructorState,
    StateMismatchError,
    load_parameters,
    load_state,
    save_state,
)


@pytest.mark.parametrize("elastic", [0.0, 0.2])
@torch.no_grad()
def test_saved_state_continues_bit_for_bit(tmp_path: Path, elastic: float) -> None:
    model, inputs = tiny_model(elastic_lambda=elastic), random_views(2, batch=2)
    state, _ = model.stream(model.initial_state(2), *inputs)
    save_state(state, tmp_path / "state.safetensors")
    loaded = load_state(tmp_path / "state.safetensors")
    ours, theirs = state.to_tensors(), loaded.to_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    more = random_views(2, batch=2, seed=8)
    (after, raw), (after_loaded, raw_loaded) = (
        model.stream(state, *more),
        model.stream(loaded, *more),
    )
    assert torch.equal(raw.raw, raw_loaded.raw)
    assert torch.equal(after.layers[-1].weights.w1, after_loaded.layers[-1].weights.w1)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


@torch.no_grad()
def test_fresh_state_saves_too(tmp_path: Path) -> None:
    """Weights and anchor share memory at first, which safetensors would refuse."""
    state = tiny_model(elastic_lambda=0.2).initial_state(1)
    save_state(state, tmp_path / "state.safetensors")
    loaded = load_state(tmp_path / "state.safetensors")
    assert torch.equal(loaded.layers[0].weights.w0, state.layers[0].weights.w0)


def test_state_does_not_follow_later_training() -> None:
    model = tiny_model()
    state = model.initial_state(1).detach()
    before = state.layers[0].weights.w0.clone()
    with torch.no_grad():
        model.blocks[0].module_list[1].f.w0.zero_()
    assert torch.equal(state.layers[0].weights.w0, before)


def test_damaged_states_are_refused() -> None:
    tensors = tiny_model().initial_state(1).to_tensors()
    with pytest.raises(StateMismatchError, match=r"layers\.0\.weights\.w9"):
        ReconstructorState.from_tensors({**tensors, "layers.0.weights.w9": torch.zeros(1)})
    for lost in ("layers.0.weights.w1", "layers.1.norms.w2"):
        with pytest.raises(StateMismatchError, match="incomplete"):
            ReconstructorState.from_tensors({k: t for k, t in tensors.items() if k != lost})
    whole_layer = {k: t for k, t in tensors.items() if not k.startswith("layers.0.")}
    with pytest.raises(StateMismatchError, match="incomplete"):
        ReconstructorState.from_tensors(whole_layer)


def test_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(tiny_model().initial_state(1), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StateMismatchError, match=r"state\.safetensors"):
        load_state(path)


def test_state_of_another_model_is_refused() -> None:
    model, inputs = tiny_model(), random_views(1)
    for other, batch, match in (
        (tiny_model(layers=3), 1, "3 layers"),
        (tiny_model(fast_weight_head_dim=16), 1, "w0"),
        (tiny_model(elastic_lambda=0.1), 1, "elastic"),
        (model, 2, "batch size 1"),
    ):
        with pytest.raises(StateMismatchError, match=match):
            model.stream(other.initial_state(batch), *inputs)
        with pytest.raises(StateMismatchError, match=match):
            model.query(other.initial_state(batch), *inputs)
    with pytest.raises(StateMismatchError, match="batch_size is 0"):
        model.initial_state(0)


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_checkpoints_load_whole_or_not_at_all(tmp_path: Path, kind: str) -> None:
    source = tiny_model(seed=1)
    extra = {"depth_anything.pretrained.weight": torch.zeros(3)}

    def write(tensors: dict[str, torch.Tensor]) -> Path:
        path = tmp_path / ("model.pt" if kind == "torch" else "model.safetensors")
        if kind == "torch":
            torch.save({"model": tensors}, path)
        else:
            save_file({k: t.clone() for k, t in tensors.items()}, path)
        return path

    good = dict(source.state_dict())
    target = tiny_model(seed=2)
    load_parameters(target, write({**good, **extra}))
    assert all(torch.equal(t, good[name]) for name, t in target.state_dict().items())

    untouched = tiny_model(seed=3)
    before = {name: t.clone() for name, t in untouched.state_dict().items()}
    wrong_prefix = {f"module.{name}": t for name, t in good.items()}
    lacking = {name: t for name, t in good.items() if name != "decoder.0.weight"}
    misshapen = {**good, "decoder.0.weight": torch.zeros(5)}
    for tensors, match in (
        (wrong_prefix, "missing"),
        (lacking, "1 missing .decoder.0.weight"),
        ({**good, "surprise": torch.zeros(1)}, "1 unknown .surprise"),
        (misshapen, "of another shape"),
    ):
        with pytest.raises(CheckpointError, match=match):
            load_parameters(untouched, write(tensors))
    assert all(torch.equal(t, before[name]) for name, t in untouched.state_dict().items())


def test_unreadable_checkpoints_say_so(tmp_path: Path) -> None:
    model = tiny_model()
    (tmp_path / "junk.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "junk.safetensors").write_bytes(b"not a checkpoint")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    torch.save({"model": {"x": Path("a")}}, tmp_path / "code.pt")
    for name in ("junk.pt", "junk.safetensors", "other.pt", "code.pt", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_parameters(model, tmp_path / name)

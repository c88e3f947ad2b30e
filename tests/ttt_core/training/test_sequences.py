"""Streams built for training: as the product would see them, causal, and whole on disk."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from posed_rooms import QUIET, SMALL, room
from safetensors.torch import save_file

from ttt_core import StreamingConfig, StreamingModel, ViewBatch
from ttt_core.errors import ConfigError, SequenceError
from ttt_core.matching import CELL_CHANNELS
from ttt_core.training.build import StreamSpec, build_sequence
from ttt_core.training.pose_noise import PoseNoise
from ttt_core.training.samples import (
    PriorMaps,
    TrainingSequence,
    load_sequence,
    save_sequence,
)


def tensors(sequence: TrainingSequence) -> dict[str, torch.Tensor]:
    found = {
        f.name: getattr(sequence, f.name)
        for f in fields(sequence)
        if isinstance(getattr(sequence, f.name), torch.Tensor)
    }
    found["unit"] = torch.tensor(sequence.unit)
    for group in ("prior", "prior_alone"):
        maps = getattr(sequence, group)
        if maps is not None:
            found |= {f"{group}.{f.name}": getattr(maps, f.name) for f in fields(PriorMaps)}
    return found


def assert_same(a: TrainingSequence, b: TrainingSequence) -> None:
    mine, other = tensors(a), tensors(b)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture(scope="module")
def built() -> TrainingSequence:
    return build_sequence(room(6), SMALL)


def test_contents(built: TrainingSequence) -> None:
    assert built.batch.tolist() == [0, 0, 1, 1, 2, 2]
    assert built.prior.cells.shape == (6, 12, 16, len(CELL_CHANNELS))
    assert built.prior_alone is not None
    assert not built.map_depth[:2].any()
    assert (built.map_depth[2:] > 0).float().mean() > 0.05
    assert (built.prior.depth > 0).all()
    assert torch.equal(built.true_depth, room(6).depth.half())
    first = slice(0, 2)
    assert torch.equal(built.prior.depth[first], built.prior_alone.depth[first])
    assert not torch.equal(built.prior.depth[2:], built.prior_alone.depth[2:])


def test_prior_is_the_streaming_models(built: TrainingSequence) -> None:
    model = StreamingModel(StreamingConfig())
    state = model.initial_state()
    map_depth = None
    for start in range(0, 4, 2):
        part = slice(start, start + 2)
        if start:
            map_depth = built.map_depth[part].float()
        batch = ViewBatch(
            keys=(start, start + 1),
            image=built.image[part].float() / 255,
            fxfycxcy=built.fxfycxcy[part],
            c2w=built.c2w[part],
            map_depth=map_depth,
        )
        state, prediction = model.stream(state, batch)
        # The stored map is rounded to float16, and with it the ends of the depth range.
        close = torch.isclose(prediction.depth, built.prior.depth[part].float(), rtol=2e-3)
        assert close.float().mean() > 0.98
    assert state.frame is not None
    assert float(state.frame.scale) == pytest.approx(built.unit, rel=1e-6)


def test_later_views_change_nothing_earlier(built: TrainingSequence) -> None:
    posed = room(6)
    image, depth, c2w = posed.image.clone(), posed.depth.clone(), posed.c2w.clone()
    image[4:] = 255 - image[4:]
    depth[4:] *= 2
    c2w[4:, 0, 3] += 0.1
    other = build_sequence(replace(posed, image=image, depth=depth, c2w=c2w), SMALL)
    mine, theirs = tensors(built), tensors(other)
    assert mine.pop("unit") == theirs.pop("unit")
    for name, value in mine.items():
        assert torch.equal(value[:4], theirs[name][:4]), name
    assert not torch.equal(mine["prior.depth"][4:], theirs["prior.depth"][4:])


def test_same_seed_same_stream() -> None:
    spec = replace(SMALL, noise=PoseNoise(share=1.0))
    posed = room(6)
    first = build_sequence(posed, spec, seed=5)
    assert_same(first, build_sequence(posed, spec, seed=5))
    assert not torch.equal(first.c2w, build_sequence(posed, spec, seed=6).c2w)


def test_noise_reaches_the_told_poses_only() -> None:
    posed = room(6)
    spec = replace(SMALL, noise=PoseNoise(share=1.0), alone=False)
    noisy = build_sequence(posed, spec)
    assert noisy.prior_alone is None
    assert not torch.equal(noisy.c2w, posed.c2w)
    assert torch.equal(noisy.true_depth, posed.depth.half())
    turn = noisy.c2w[:, :3, :3]
    assert torch.allclose(turn @ turn.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    # without depth the unit of the noise comes from the prior
    blind = build_sequence(replace(posed, depth=torch.zeros_like(posed.depth)), spec)
    moved, told = (s.c2w[:, :3, 3] - posed.c2w[:, :3, 3] for s in (blind, noisy))
    assert torch.allclose(moved, told, rtol=0.5)
    assert not blind.true_depth.any()


def test_noise_is_as_large_as_asked_and_drifts() -> None:
    noise = PoseNoise(rotation_deg=0.5, translation=0.01, share=1.0)
    exact = np.tile(np.eye(4), (4000, 1, 1))
    told = noise.disturb(exact, 2.0, np.random.default_rng(0))
    length = np.sqrt((told[:, :3, 3] ** 2).sum(1).mean())
    assert length == pytest.approx(0.02, rel=0.1)
    angle = np.degrees(np.arccos(np.clip((np.trace(told[:, :3, :3].T) - 1) / 2, -1, 1)))
    assert np.sqrt((angle**2).mean()) == pytest.approx(0.5, rel=0.1)
    shift = told[:, :3, 3]
    following = (shift[1:] * shift[:-1]).sum() / (shift**2).sum()
    assert following == pytest.approx(0.5 * np.exp(-1 / 8), abs=0.08)
    few = noise.disturb(exact[:7], 2.0, np.random.default_rng(0))
    assert np.array_equal(few, told[:7])
    quiet = replace(noise, share=0.0)
    assert np.array_equal(quiet.disturb(exact, 2.0, np.random.default_rng(0)), exact)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_worlds_of_any_unit(built: TrainingSequence, scale: float) -> None:
    posed = room(6)
    c2w = posed.c2w.clone()
    c2w[:, :3, 3] *= scale
    other = build_sequence(replace(posed, c2w=c2w, depth=posed.depth * scale), SMALL)
    assert 0.1 < other.unit < 10
    mine = built.prior.depth.float() / built.unit
    assert torch.isclose(other.prior.depth.float() / other.unit, mine, rtol=2e-3).all()
    assert torch.allclose(
        other.true_depth.float() / other.unit, posed.depth / built.unit, rtol=2e-3
    )


def test_sky_and_masked_pixels() -> None:
    posed = room(6)
    depth, valid = posed.depth.clone(), torch.ones_like(posed.depth, dtype=torch.bool)
    depth[:, :4] = 0
    valid[:, :, :5] = False
    built = build_sequence(replace(posed, depth=depth, sky=depth == 0, valid=valid), SMALL)
    assert built.sky[:, :4, 5:].all()
    assert not built.sky[:, :, :5].any()
    assert not built.true_depth[:, :, :5].any()
    assert (built.image[..., :5] == 128).all()
    assert not built.prior.confidence[:, :, :5].any()


def test_round_trip(built: TrainingSequence, tmp_path: Path) -> None:
    save_sequence(built, tmp_path / "a.safetensors")
    assert_same(load_sequence(tmp_path / "a.safetensors"), built)
    lone = replace(built, prior_alone=None)
    save_sequence(lone, tmp_path / "b.safetensors")
    assert load_sequence(tmp_path / "b.safetensors").prior_alone is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_files_that_are_no_sequences(built: TrainingSequence, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SequenceError, match="no training sequence"):
        load_sequence(path)
    save_sequence(built, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SequenceError, match="cannot be read"):
        load_sequence(path)
    with pytest.raises(SequenceError, match="cannot be read"):
        load_sequence(tmp_path / "none.safetensors")


def test_wrong_shapes(built: TrainingSequence) -> None:
    for name, value in {
        "image": built.image.float(),
        "true_depth": built.true_depth[:, :-1],
        "batch": torch.tensor([0, 0, 2, 2, 3, 3]),
        "keys": torch.zeros(6, dtype=torch.int64),
        "prior": replace(built.prior, cells=built.prior.cells[..., :-1]),
        "unit": 0.0,
    }.items():
        with pytest.raises(SequenceError, match=name if name != "prior" else "cells"):
            replace(built, **{name: value})
    with pytest.raises(SequenceError, match="need 6"):
        build_sequence(room(5), SMALL)
    with pytest.raises(ConfigError, match="batches"):
        StreamSpec(batches=0, noise=QUIET)

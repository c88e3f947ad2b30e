"""The streaming model on views of a textured corner with known depth, through the real prior."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming_cases import HEIGHT, WIDTH, batches, build, run, same_state, with_random_head
from textured_room import camera_path, view_batch

from streamer.sources import load_frame, open_capture
from ttt_core import (
    CheckpointError,
    StateMismatchError,
    StreamingModel,
    ViewBatch,
    default_model,
)
from ttt_core.matching import MatchingPrior, PosedImage, PriorConfig
from ttt_core.network import MEMORIES, NetworkConfig
from ttt_core.training.export import export_compact

CARRIED = [memory for memory in MEMORIES if memory != "none"]


@pytest.fixture(scope="module")
def model() -> StreamingModel:
    return build()


def posed(batch: ViewBatch) -> list[PosedImage]:
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    images = []
    for i, key in enumerate(batch.keys):
        fx, fy, cx, cy = batch.fxfycxcy[i].double().tolist()
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        gray = (batch.image[i] * luma).sum(0).numpy()
        images.append(PosedImage(key, gray, K, batch.c2w[i].numpy()))
    return images


@pytest.mark.parametrize("memory", MEMORIES)
def test_untrained_model_returns_the_prior_bit_for_bit(memory: str) -> None:
    model = build(memory)
    stream = batches(2)
    states, predictions = run(model, stream)
    for batch, before, prediction in zip(stream, states, predictions):
        prior = MatchingPrior(model.config.prior).predict(posed(batch), before.views)
        for i, expected in enumerate(prior):
            assert np.array_equal(prediction.depth[i].numpy(), expected.depth)
            assert np.array_equal(prediction.confidence[i].numpy(), expected.confidence)
        assert torch.equal(prediction.color, batch.image)
        for name in ("log_scale_residual", "opacity_logit_residual", "rotation_residual"):
            assert not getattr(prediction, name).any()


def test_prior_is_right_about_the_corner(model: StreamingModel) -> None:
    state = model.initial_state()
    for keys in (range(4), range(4, 8)):
        batch, truth = view_batch(keys, height=HEIGHT, width=WIDTH)
        state, prediction = model.stream(state, batch)
        error = (prediction.depth - truth).abs() / truth
        assert error.median() < 0.06
        assert error[prediction.confidence > 0.7].median() < 0.05
    assert state.frame is not None
    assert 2 < float(state.frame.scale) < 6
    assert torch.equal(state.frame.world_from_submap, torch.from_numpy(camera_path(1)[0]))


def test_untrained_model_says_so() -> None:
    untrained = build()
    assert untrained.trained is False
    assert "no trained weights" in untrained.describe() and "adds nothing" in untrained.describe()
    acting = with_random_head()
    assert acting.trained is True
    assert "trained" in acting.describe() and "adds nothing" not in acting.describe()


@pytest.mark.parametrize("memory", CARRIED)
def test_fast_weights_run_and_are_carried(memory: str) -> None:
    states, _ = run(build(memory), batches(3))
    if memory == "grid":  # of the first batch the prior is too unsure for any of it to be held
        states = states[1:]
    fast = {
        "ridge": "solution",
        "swiglu": "w1",
        "grid": "grid_sums",
        "tokens": "layers.0.weights.w1",
        "anchored": "anchored.w1",
    }[memory]
    for before, after in pairwise(states):
        old, new = before.memory[fast], after.memory[fast]
        assert (new - old).norm() > 1e-2 * new.norm()
        assert int(after.memory["written"]) == int(before.memory["written"]) + 1
    assert len({state.memory.nbytes for state in states}) == 1


@pytest.mark.parametrize("memory", CARRIED)
def test_a_head_that_acts_reads_the_carried_memory(memory: str) -> None:
    model = with_random_head(memory, std=0.3)
    stream = batches(3)
    states, predictions = run(model, stream)
    _, plain = run(build(memory), stream[:1])
    assert (predictions[0].depth - plain[0].depth).abs().max() > 1e-3
    assert (predictions[0].color - plain[0].color).abs().max() > 1e-3
    for prediction in predictions:
        assert torch.isfinite(prediction.depth).all() and (prediction.depth > 0).all()
        assert prediction.confidence.min() >= 0 and prediction.confidence.max() <= 1
        assert prediction.rotation_residual.any() and prediction.log_scale_residual.any()
    # same views, same matching sources, older memory: only the fast weights can tell the two apart
    forgetful = replace(states[-1], memory=states[0].memory)
    with_memory, without = (model.query(s, stream[-1]) for s in (states[-1], forgetful))
    assert (with_memory.depth - without.depth).abs().max() > 1e-4


def test_query_changes_nothing() -> None:
    model = with_random_head()
    stream = batches(2)
    states, predictions = run(model, stream)
    kept = {name: t.clone() for name, t in states[-1].to_tensors().items()}
    answer = model.query(states[-1], stream[-1])
    assert all(torch.equal(t, kept[name]) for name, t in states[-1].to_tensors().items())
    # what was predicted for these views was predicted with the memory before they were written
    again = model.query(replace(states[-1], memory=states[-2].memory), stream[-1])
    torch.testing.assert_close(again.depth, predictions[-1].depth, rtol=1e-3, atol=0)
    torch.testing.assert_close(again.color, predictions[-1].color, rtol=0, atol=1e-3)
    assert (answer.depth - again.depth).abs().max() > 1e-5


def test_later_batches_never_change_earlier_states(model: StreamingModel) -> None:
    stream = batches(3)
    states, _ = run(model, stream[:2])
    copies = [{n: t.clone() for n, t in s.to_tensors().items()} for s in states]
    model.stream(states[-1], stream[2])
    for state, copy in zip(states, copies):
        assert all(torch.equal(t, copy[name]) for name, t in state.to_tensors().items())


def test_sensor_depth_passes_through_whatever_the_head_says() -> None:
    model = with_random_head()
    batch, truth = view_batch(range(2), height=HEIGHT, width=WIDTH)
    sensor = torch.where(torch.arange(WIDTH) < 40, truth, 0.0)
    _, prediction = model.stream(model.initial_state(), replace(batch, sensor_depth=sensor))
    measured = sensor > 0
    torch.testing.assert_close(prediction.depth[measured], sensor[measured], rtol=1e-6, atol=0)
    _, without = model.stream(model.initial_state(), batch)
    assert (without.depth[measured] - sensor[measured]).abs().max() > 1e-2


def test_what_a_sensor_measured_is_what_the_memory_holds() -> None:
    model = with_random_head(std=0.3)
    batch, truth = view_batch(range(2), height=HEIGHT, width=WIDTH)
    valid = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    valid[:, :, :32] = False
    known = replace(batch, sensor_depth=truth, valid=valid)
    state, prediction = model.stream(model.initial_state(), known)
    torch.testing.assert_close(prediction.depth[valid], truth[valid], rtol=1e-6, atol=0)
    assert state.frame is not None
    for view, kept in enumerate(state.records):
        record = kept.record
        x, y = (record.pixels[0, 0] - 0.5).long().unbind(-1)
        writes = (record.weights[0, 0] > 0).flatten(1).any(-1)
        assert torch.equal(writes, x >= 32) and writes.any()
        depth = record.log_depth[0, 0].exp() * state.frame.scale
        torch.testing.assert_close(
            depth[writes].float(), truth[view, y, x][writes], rtol=1e-5, atol=0
        )


def test_rendered_map_reaches_the_network() -> None:
    model = with_random_head()
    batch, truth = view_batch(range(2), height=HEIGHT, width=WIDTH)
    sensor = truth.clone()  # fixes the prior, so that only the network can see the map
    answers = []
    for map_depth in (None, truth, 1.3 * truth):
        known = replace(batch, sensor_depth=sensor, map_depth=map_depth)
        answers.append(model.stream(model.initial_state(), known)[1].color)
    assert (answers[0] - answers[1]).abs().max() > 1e-4
    assert (answers[1] - answers[2]).abs().max() > 1e-4


def test_frame_and_unit_are_fixed_by_the_first_batch(model: StreamingModel) -> None:
    states, _ = run(model, batches(3))
    frames = [state.frame for state in states[1:]]
    assert all(frame is frames[0] for frame in frames) and states[0].frame is None


def test_world_frame_does_not_matter() -> None:
    """Another world (turned, far away, other unit): the same depths in that unit."""
    model = with_random_head()
    angle = 0.8
    cos, sin = np.cos(angle), np.sin(angle)
    world = np.eye(4)
    world[:3, :3] = 3.0 * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    world[:3, 3] = [120.0, -40.0, 7.0]
    states, predictions = [], []
    for transform in (None, world):
        stream = [
            view_batch(range(2 * i, 2 * i + 2), height=HEIGHT, width=WIDTH, world=transform)[0]
            for i in range(2)
        ]
        run_states, run_predictions = run(model, stream)
        states.append(run_states[-1])
        predictions.append(run_predictions[-1])
    ratio = torch.log(predictions[1].depth / (3 * predictions[0].depth)).abs()
    assert ratio.median() < 1e-3 and (ratio > 0.01).float().mean() < 0.05
    ours, theirs = (s.frame for s in states)
    assert ours is not None and theirs is not None
    torch.testing.assert_close(theirs.scale, 3 * ours.scale, rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [(45, 70), (37, 51)])
def test_any_image_size(size: tuple[int, int]) -> None:
    model = with_random_head()
    height, width = size
    state = model.initial_state()
    state, _ = model.stream(state, batches(1)[0])
    batch, _ = view_batch(range(2, 5), height=height, width=width)
    state, prediction = model.stream(state, batch)
    assert prediction.depth.shape == prediction.confidence.shape == (3, height, width)
    assert prediction.color.shape == prediction.rotation_residual.shape == (3, 3, height, width)
    assert torch.isfinite(prediction.depth).all()
    assert [view.key for view in state.views] == [0, 1, 2, 3, 4]
    assert [record.key for record in state.records] == [0, 1, 2, 3, 4]


def test_padding_does_not_shift_the_residuals() -> None:
    """A head that copies what it sees of a pixel puts it onto that pixel."""
    model = build()
    network = model.network
    for layer in (network.cell_head_2, network.pixel_in):
        layer.weight.zero_()
        layer.bias.zero_()
    red_in, red_out = 5, 3
    network.pixel_in.weight[0, red_in, 1, 1] = 1.0
    network.pixel_out.weight[red_out, 0] = 1.0
    batch, _ = view_batch(range(1), height=45, width=70)
    _, prediction = model.stream(model.initial_state(), batch)
    expected = torch.nn.functional.gelu(2 * batch.image[:, 0] - 1)
    added = (prediction.color - batch.image)[:, 0]
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-5)


def test_weights_load_whole_or_not_at_all_with_the_prior_they_know(tmp_path: Path) -> None:
    acting = with_random_head()
    weights = acting.network.state_dict()
    config = {"network": asdict(acting.config.network)}

    def write(name: str, tensors: dict[str, torch.Tensor]) -> Path:
        path = tmp_path / name
        export_compact(path, tensors, config=config, record={}, dtype="float32")
        return path

    loaded = default_model(write("whole.safetensors", weights))
    assert loaded.trained
    batch = batches(1)[0]
    (_, ours), (_, theirs) = (m.stream(m.initial_state(), batch) for m in (acting, loaded))
    assert torch.equal(ours.depth, theirs.depth)
    assert loaded.config.prior == PriorConfig()
    config["prior"] = {"planes": 32, "sources": 2, "kept_views": 6, "recent_views": 3}
    told = default_model(write("prior.safetensors", weights)).config
    assert (told.prior.planes, told.prior.sources) == (32, 2)
    assert (told.kept_views, told.recent_views) == (6, 3)
    config["prior"] = {"planes": 1}
    with pytest.raises(CheckpointError, match="planes is 1"):
        default_model(write("other.safetensors", weights))
    config.pop("prior")
    partial = dict(list(weights.items())[1:])
    with pytest.raises(CheckpointError, match="1 missing"):
        default_model(write("partial.safetensors", partial))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a working CUDA device")
@pytest.mark.parametrize("memory", CARRIED)
def test_network_on_a_gpu_carries_the_same_memory(memory: str) -> None:
    stream = batches(2)
    ours, theirs = (
        run(with_random_head(memory).to(device), stream)[0][-1] for device in ("cpu", "cuda")
    )
    for name, tensor in ours.memory.tensors.items():
        other = theirs.memory[name]
        assert other.is_cuda
        if name == "grid_tags":  # who comes first has the better slot
            counts = [int(tags.count_nonzero()) for tags in (tensor, other)]
            assert min(counts) > 0.98 * max(counts) > 0
            continue
        if name == "grid_sums":
            tensor, other = tensor.sum(1), other.sum(1)
        scale = float(tensor.abs().max())
        torch.testing.assert_close(tensor, other.cpu(), rtol=0, atol=1e-2 * scale)


def test_state_of_another_model_is_refused(model: StreamingModel) -> None:
    batch = batches(1)[0]
    for other in (build("swiglu"), build("none")):
        with pytest.raises(StateMismatchError, match="another configuration"):
            model.stream(other.initial_state(), batch)
    with pytest.raises(StateMismatchError, match="no batch yet"):
        model.query(model.initial_state(), batch)


@pytest.mark.parametrize("memory", MEMORIES)
def test_warm_up_leaves_no_trace(memory: str) -> None:
    batch = batches(1)[0]
    fresh = with_random_head(memory)
    before, _ = fresh.stream(fresh.initial_state(), batch)
    fresh.warm_up(HEIGHT, WIDTH)
    after, _ = fresh.stream(fresh.initial_state(), batch)
    assert same_state(before, after)


def test_a_model_built_twice_is_the_same() -> None:
    """Untrained parameters are drawn from the configuration's seed, whatever was drawn before."""
    torch.manual_seed(5)
    one = build().network.state_dict()
    torch.manual_seed(6)
    before = torch.get_rng_state()
    two = build().network.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(t, two[name]) for name, t in one.items())
    other = build(seed=1).network.state_dict()
    assert not torch.equal(one["cell_stem.weight"], other["cell_stem.weight"])
    assert NetworkConfig() == build().config.network


def test_real_frames_of_a_room(capture_dir) -> None:
    """Depth of a hand-held walk against the device's own depth sensor."""
    capture = open_capture(capture_dir("hololens_office"))
    frames = [
        load_frame(capture, frame, seq=i, long_side=120, with_depth=True)
        for i, frame in enumerate(capture.frames[0:48:6])
    ]
    model = build()
    state = model.initial_state()
    errors, confidences = [], []
    for part in (frames[:4], frames[4:]):
        pixels = torch.from_numpy(np.stack([frame.image for frame in part]))
        batch = ViewBatch(
            keys=tuple(frame.seq for frame in part),
            image=pixels.permute(0, 3, 1, 2).float() / 255,
            fxfycxcy=torch.tensor(
                [[f.K[0, 0], f.K[1, 1], f.K[0, 2], f.K[1, 2]] for f in part], dtype=torch.float32
            ),
            c2w=torch.from_numpy(np.stack([f.c2w for f in part if f.c2w is not None])),
        )
        state, prediction = model.stream(state, batch)
        measured = torch.from_numpy(np.stack([f.depth for f in part if f.depth is not None]))
        known = measured > 0
        errors.append(((prediction.depth - measured).abs() / measured)[known])
        confidences.append(prediction.confidence[known])
    error, confidence = torch.cat(errors), torch.cat(confidences)
    assert len(error) > 5_000
    assert error.median() < 0.15
    confident = confidence > 0.7
    assert confident.float().mean() > 0.1 and error[confident].median() < 0.08

"""The streaming model on views of a textured corner with known depth, through the real prior."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from textured_room import camera_path, view_batch

from streamer.sources import load_frame, open_capture
from ttt_core import (
    CheckpointError,
    Prediction,
    StateMismatchError,
    StreamingConfig,
    StreamingModel,
    StreamingState,
    ViewBatch,
    default_model,
    load_streaming_state,
    save_streaming_state,
)
from ttt_core.matching import CELL_CHANNELS, MatchingPrior, PosedImage
from ttt_core.residual_network import NetworkInput

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def model() -> StreamingModel:
    return default_model()


def batches(count: int, per_batch: int = 2) -> list[ViewBatch]:
    return [
        view_batch(range(per_batch * i, per_batch * (i + 1)), height=HEIGHT, width=WIDTH)[0]
        for i in range(count)
    ]


def run(
    model: StreamingModel, stream: list[ViewBatch]
) -> tuple[list[StreamingState], list[Prediction]]:
    states, predictions = [model.initial_state()], []
    for batch in stream:
        state, prediction = model.stream(states[-1], batch)
        states.append(state)
        predictions.append(prediction)
    return states, predictions


def with_random_head(seed: int = 0, std: float = 0.02) -> StreamingModel:
    """A model whose head acts, as a trained one would."""
    model = default_model()
    generator = torch.Generator().manual_seed(seed)
    head = model.network.head.weight
    head.copy_(std * torch.randn(head.shape, generator=generator))
    return model


def same_state(a: StreamingState, b: StreamingState) -> bool:
    ours, theirs = a.to_tensors(), b.to_tensors()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[k]) for k, t in ours.items())


def posed(batch: ViewBatch) -> list[PosedImage]:
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    images = []
    for i, key in enumerate(batch.keys):
        fx, fy, cx, cy = batch.fxfycxcy[i].double().tolist()
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        gray = (batch.image[i] * luma).sum(0).numpy()
        images.append(PosedImage(key, gray, K, batch.c2w[i].numpy()))
    return images


def test_untrained_model_returns_the_prior_bit_for_bit(model: StreamingModel) -> None:
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


def test_untrained_model_says_so(model: StreamingModel) -> None:
    assert model.trained is False
    assert "no trained weights" in model.describe() and "adds nothing" in model.describe()
    acting = with_random_head()
    assert acting.trained is True
    assert "trained" in acting.describe() and "adds nothing" not in acting.describe()


def test_fast_weights_run_and_are_carried(model: StreamingModel) -> None:
    states, _ = run(model, batches(3))
    for before, after in pairwise(states):
        for old, new in zip(before.memory.layers, after.memory.layers):
            for name in ("w0", "w1", "w2"):
                change = getattr(new.weights, name) - getattr(old.weights, name)
                assert change.norm() > 1e-2 * getattr(old.weights, name).norm()
            assert torch.equal(old.norms.w0, new.norms.w0)
    assert len({state.memory.nbytes for state in states}) == 1


def test_a_head_that_acts_reads_the_carried_memory() -> None:
    model = with_random_head()
    stream = batches(3)
    states, predictions = run(model, stream)
    prior = default_model()
    _, plain = run(prior, stream[:1])
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


def test_corrections_of_depth_are_bounded() -> None:
    model = with_random_head(std=50.0)
    batch = batches(1)[0]
    (_, prediction), (_, plain) = (
        m.stream(m.initial_state(), batch) for m in (model, default_model())
    )
    ratio = torch.log(prediction.depth / plain.depth).abs()
    limit = model.config.depth_residual_limit
    assert 0.9 * limit < ratio.max() < 1.001 * limit


def test_query_repeats_the_last_batch_and_changes_nothing() -> None:
    model = with_random_head()
    stream = batches(2)
    states, predictions = run(model, stream)
    kept = {name: t.clone() for name, t in states[-1].to_tensors().items()}
    answer = model.query(states[-1], stream[-1])
    assert all(torch.equal(t, kept[name]) for name, t in states[-1].to_tensors().items())
    torch.testing.assert_close(answer.depth, predictions[-1].depth, rtol=1e-3, atol=0)
    torch.testing.assert_close(answer.color, predictions[-1].color, rtol=0, atol=1e-3)


def test_later_batches_never_change_earlier_states(model: StreamingModel) -> None:
    stream = batches(3)
    states, _ = run(model, stream[:2])
    copies = [{n: t.clone() for n, t in s.to_tensors().items()} for s in states]
    model.stream(states[-1], stream[2])
    for state, copy in zip(states, copies):
        assert all(torch.equal(t, copy[name]) for name, t in state.to_tensors().items())


def test_saved_state_continues_bit_for_bit_in_a_model_built_anew(tmp_path: Path) -> None:
    stream = batches(3)
    states, _ = run(default_model(), stream[:2])
    save_streaming_state(states[-1], tmp_path / "state.safetensors")
    loaded = load_streaming_state(tmp_path / "state.safetensors")
    assert same_state(states[-1], loaded)
    # a model built anew must be the network that wrote the state
    (after, ours), (after_loaded, theirs) = (
        default_model().stream(states[-1], stream[2]),
        default_model().stream(loaded, stream[2]),
    )
    assert same_state(after, after_loaded)
    assert torch.equal(ours.depth, theirs.depth) and torch.equal(ours.confidence, theirs.confidence)


def test_fresh_state_saves_and_loads(model: StreamingModel, tmp_path: Path) -> None:
    state = model.initial_state()
    save_streaming_state(state, tmp_path / "fresh.safetensors")
    loaded = load_streaming_state(tmp_path / "fresh.safetensors")
    assert loaded.frame is None and loaded.views == () and same_state(state, loaded)


def test_damaged_state_is_refused(model: StreamingModel) -> None:
    state, _ = model.stream(model.initial_state(), batches(1)[0])
    tensors = state.to_tensors()
    for lost, message in (
        ("views.keys", "views.keys"),
        ("frame.scale", "frame"),
        ("view.1.gray", "view 1 .key 1. lacks .'gray'"),
        ("memory.layers.1.norms.w0", "incomplete"),
    ):
        with pytest.raises(StateMismatchError, match=message):
            StreamingState.from_tensors({k: t for k, t in tensors.items() if k != lost})


def test_masks_survive_saving(model: StreamingModel, tmp_path: Path) -> None:
    batch = batches(1)[0]
    valid = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    valid[:, :, :20] = False
    state, prediction = model.stream(model.initial_state(), replace(batch, valid=valid))
    assert not prediction.confidence[~valid].any() and prediction.confidence[valid].any()
    save_streaming_state(state, tmp_path / "state.safetensors")
    assert same_state(state, load_streaming_state(tmp_path / "state.safetensors"))


def test_sensor_depth_passes_through_whatever_the_head_says() -> None:
    model = with_random_head()
    batch, truth = view_batch(range(2), height=HEIGHT, width=WIDTH)
    sensor = torch.where(torch.arange(WIDTH) < 40, truth, 0.0)
    _, prediction = model.stream(model.initial_state(), replace(batch, sensor_depth=sensor))
    measured = sensor > 0
    torch.testing.assert_close(prediction.depth[measured], sensor[measured], rtol=1e-6, atol=0)
    _, without = model.stream(model.initial_state(), batch)
    assert (without.depth[measured] - sensor[measured]).abs().max() > 1e-2


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


def test_world_frame_does_not_matter(model: StreamingModel) -> None:
    """Another world (turned, far away, other unit): the same depths in that unit."""
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


def test_rebase_moves_the_kept_views(model: StreamingModel) -> None:
    stream = batches(2)
    states, predictions = run(model, stream)
    move = np.eye(4)
    move[:3, 3] = [10.0, 0.0, -4.0]
    state = states[1]
    corrected = {view.key: move @ view.c2w for view in state.views}
    corrected[999] = np.eye(4)
    moved = state.rebase(corrected)
    assert [view.key for view in moved.views] == [view.key for view in state.views]
    for view, old in zip(moved.views, state.views):
        assert np.array_equal(view.c2w, move @ old.c2w) and np.array_equal(view.gray, old.gray)
    assert moved.memory is state.memory and moved.frame is state.frame
    # with the new batch moved as well, matching against the kept views finds the same depths
    batch = replace(stream[1], c2w=torch.from_numpy(move) @ stream[1].c2w)
    _, after = model.stream(moved, batch)
    ratio = torch.log(after.depth / predictions[1].depth).abs()
    assert ratio.median() < 1e-3
    _, unmoved = model.stream(state, batch)
    assert torch.log(unmoved.depth / predictions[1].depth).abs().mean() > ratio.mean()


@pytest.mark.parametrize("size", [(45, 70), (37, 51)])
def test_any_image_size(model: StreamingModel, size: tuple[int, int]) -> None:
    height, width = size
    state = model.initial_state()
    state, _ = model.stream(state, batches(1)[0])
    batch, _ = view_batch(range(2, 5), height=height, width=width)
    state, prediction = model.stream(state, batch)
    assert prediction.depth.shape == prediction.confidence.shape == (3, height, width)
    assert prediction.color.shape == prediction.rotation_residual.shape == (3, 3, height, width)
    assert torch.isfinite(prediction.depth).all()
    assert [view.key for view in state.views] == [0, 1, 2, 3, 4]


def test_padding_does_not_shift_the_residuals() -> None:
    """Every pixel of a token gets its own output: a head that copies into colour shows the grid."""
    model = default_model()
    patch = model.config.patch_size
    head = model.network.head.weight.view(patch, patch, 12, -1)
    ramp = torch.arange(patch * patch, dtype=torch.float32).view(patch, patch)
    head[:, :, 2] = ramp[..., None] * torch.randn(1, 1, head.shape[-1], generator=_seeded(3))
    batch, _ = view_batch(range(1), height=45, width=70)
    _, prediction = model.stream(model.initial_state(), batch)
    red = (prediction.color - batch.image)[0, 0]
    slope = red[1::patch, 0::patch][:5, :8] / patch  # row 1, column 0 of a patch: ramp = patch
    for token_row in range(5):
        for token_column in range(8):
            y, x = token_row * patch, token_column * patch
            tile = red[y : y + patch, x : x + patch]
            expected = ramp * slope[token_row, token_column]
            torch.testing.assert_close(tile, expected, rtol=1e-3, atol=1e-3)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kept_views_are_bounded() -> None:
    model = StreamingModel(StreamingConfig(kept_views=5, recent_views=2)).requires_grad_(False)
    states, _ = run(model, batches(5))
    assert [len(state.views) for state in states] == [0, 2, 4, 5, 5, 5]
    assert [view.key for view in states[-1].views][-2:] == [8, 9]
    assert states[-1].nbytes == states[-2].nbytes
    again, _ = model.stream(states[-1], batches(5)[-1])
    assert [v.key for v in again.views] == [v.key for v in states[-1].views]


def test_weights_load_whole_or_not_at_all(tmp_path: Path) -> None:
    acting = with_random_head()
    weights = acting.network.state_dict()
    save_file({k: t.clone() for k, t in weights.items()}, tmp_path / "w.safetensors")
    loaded = default_model(tmp_path / "w.safetensors")
    assert loaded.trained
    batch = batches(1)[0]
    (_, ours), (_, theirs) = (m.stream(m.initial_state(), batch) for m in (acting, loaded))
    assert torch.equal(ours.depth, theirs.depth)
    partial = dict(list(weights.items())[1:])
    save_file({k: t.clone() for k, t in partial.items()}, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match="1 missing"):
        default_model(tmp_path / "p.safetensors")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a working CUDA device")
def test_network_on_a_gpu_carries_the_same_memory() -> None:
    batch = batches(1)[0]
    states = [
        (model := default_model(device=device)).stream(model.initial_state(), batch)[0]
        for device in ("cpu", "cuda")
    ]
    ours, theirs = (state.memory.layers[0].weights for state in states)
    assert theirs.w0.is_cuda
    torch.testing.assert_close(ours.w0, theirs.w0.cpu(), rtol=0, atol=1e-3)


def test_state_of_another_model_is_refused(model: StreamingModel) -> None:
    other = StreamingModel(StreamingConfig(layers=2))
    batch = batches(1)[0]
    with pytest.raises(StateMismatchError, match="another configuration"):
        model.stream(other.initial_state(), batch)
    with pytest.raises(StateMismatchError, match="no batch yet"):
        model.query(model.initial_state(), batch)


def test_warm_up_leaves_no_trace(model: StreamingModel) -> None:
    batch = batches(1)[0]
    fresh = default_model()
    before, _ = fresh.stream(fresh.initial_state(), batch)
    fresh.warm_up(HEIGHT, WIDTH)
    after, _ = fresh.stream(fresh.initial_state(), batch)
    assert same_state(before, after)


def test_network_trains_through_two_batches(model: StreamingModel) -> None:
    """A loss on the second batch reaches every parameter, and the first batch's pixels."""
    network = with_random_head().network.requires_grad_(True)
    generator = _seeded(1)
    pixels = torch.rand(2, 1, 16, 24, 16, generator=generator, requires_grad=True)
    cells = torch.rand(2, 1, 4, 6, len(CELL_CHANNELS), generator=generator)
    memory = network.initial_state()
    for step in range(2):
        residuals, memory = network(NetworkInput(pixels[step], cells[step]), memory, write=True)
    sum(r.square().mean() for r in residuals.values()).backward()
    assert pixels.grad is not None and pixels.grad[0].abs().max() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_real_frames_of_a_room(capture_dir) -> None:
    """Depth of a hand-held walk against the device's own depth sensor."""
    capture = open_capture(capture_dir("hololens_office"))
    frames = [
        load_frame(capture, frame, seq=i, long_side=120, with_depth=True)
        for i, frame in enumerate(capture.frames[0:48:6])
    ]
    model = default_model()
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

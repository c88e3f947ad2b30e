"""Input that no depth can be told from: an unsure answer or a named error, never NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from streaming_cases import batches, build, with_random_head
from textured_room import view_batch

from ttt_core import (
    ImageError,
    IntrinsicsError,
    PoseError,
    Prediction,
    StreamingModel,
    StreamingState,
    ViewBatch,
    default_model,
)
from ttt_core.network import MEMORIES

Stream = list[ViewBatch]


CARRIED = [memory for memory in MEMORIES if memory not in ("grid", "none")]


@pytest.fixture(scope="module", params=[*CARRIED, "prior", "packaged"])
def model(request: pytest.FixtureRequest) -> StreamingModel:
    """With a head that acts, for every other memory; the prior alone; what is packaged (grid)."""
    if request.param == "prior":
        return build()
    if request.param == "packaged":
        packaged = default_model("packaged")
        assert isinstance(packaged, StreamingModel)
        return packaged
    return with_random_head(request.param, std=0.1)


def run(model: StreamingModel, stream: Stream) -> tuple[StreamingState, list[Prediction]]:
    """Everything predicted and carried is sound after every batch."""
    state, predictions = model.initial_state(), []
    for batch in stream:
        state, prediction = model.stream(state, batch)
        predictions.append(prediction)
        for field in fields(Prediction):
            assert getattr(prediction, field.name).isfinite().all(), field.name
        assert (prediction.depth > 0).all()
        assert prediction.confidence.min() >= 0 and prediction.confidence.max() <= 1
        for name, tensor in state.to_tensors().items():
            assert tensor.isfinite().all(), name
    return state, predictions


def one_view_at_first() -> Stream:
    return [view_batch(range(1))[0]]


def back_to_back() -> Stream:
    """Two views that share nothing."""
    poses = torch.from_numpy(np.stack([np.eye(4), np.diag([-1.0, 1.0, -1.0, 1.0])]))
    return [replace(batches(1)[0], c2w=poses)]


def turning_on_the_spot() -> Stream:
    stream = batches(2, per_batch=4)
    for batch in stream:
        batch.c2w[:, :3, 3] = 0.0
    return stream


def standing_still() -> Stream:
    return [replace(b, c2w=torch.eye(4).double().repeat(4, 1, 1)) for b in batches(2, per_batch=4)]


def all_black() -> Stream:
    return [replace(batch, image=torch.zeros_like(batch.image)) for batch in batches(2)]


def all_masked() -> Stream:
    return [
        replace(b, valid=torch.zeros(b.image[:, 0].shape, dtype=torch.bool)) for b in batches(2)
    ]


def poses_of_nowhere(reach: float) -> Stream:
    """Every view somewhere else, turned somehow."""
    stream = batches(2, per_batch=4)
    rng = np.random.default_rng(0)
    for batch in stream:
        for pose in batch.c2w.numpy():
            turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            pose[:3, :3] = turn * np.sign(np.linalg.det(turn))
            pose[:3, 3] = reach * rng.normal(size=3)
    return stream


def lost_tracking() -> Stream:
    """A good start, then poses of nowhere."""
    return [batches(1)[0], poses_of_nowhere(1e6)[1]]


@pytest.mark.parametrize(
    ("make", "sure"),
    [
        (one_view_at_first, 0.0),
        (back_to_back, 0.0),
        (turning_on_the_spot, 0.0),
        (standing_still, 0.0),
        (all_black, 0.0),
        (all_masked, 0.0),
        (lambda: poses_of_nowhere(10.0), 0.2),
        (lambda: poses_of_nowhere(1e9), 0.2),
        (lost_tracking, 0.2),
    ],
)
def test_what_cannot_be_known_is_not_believed(
    model: StreamingModel, make: Callable[[], Stream], sure: float
) -> None:
    """sure: share of pixels that may be more confident than a half, by accidental matches."""
    _, predictions = run(model, make())
    for prediction in predictions:
        assert (prediction.confidence > 0.5).float().mean() <= sure


@pytest.mark.parametrize("make", [one_view_at_first, turning_on_the_spot, standing_still])
@pytest.mark.parametrize("memory", ["packaged", "ridge"])
def test_what_was_matched_with_nothing_is_not_remembered(
    make: Callable[[], Stream], memory: str
) -> None:
    model = default_model("packaged") if memory == "packaged" else with_random_head(memory, std=0.1)
    assert isinstance(model, StreamingModel)
    seen, _ = run(model, batches(1))
    unseen, _ = run(model, make()[:1])
    sums = {"packaged": ("grid_tags", "grid_sums"), "ridge": ("gram", "moment")}[memory]
    for name in sums:
        assert seen.memory[name].any(), name
        assert not unseen.memory[name].any(), name


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_any_unit_of_length_gives_the_same_in_it(model: StreamingModel, scale: float) -> None:
    world = np.diag([scale, scale, scale, 1.0])
    stream = [
        [view_batch(range(2 * i, 2 * i + 2), world=w)[0] for i in range(2)]
        for w in (np.eye(4), world)
    ]
    (_, plain), (_, scaled) = (run(model, part) for part in stream)
    ratio = torch.log(scaled[-1].depth / (scale * plain[-1].depth)).abs()
    assert ratio.median() < 1e-3
    change = (scaled[-1].confidence - plain[-1].confidence).abs()
    assert change.median() < 1e-2


@pytest.mark.parametrize("size", [(48, 1), (1, 64), (1, 1), (3, 2)])
def test_images_of_a_line_or_of_one_pixel(model: StreamingModel, size: tuple[int, int]) -> None:
    height, width = size
    stream = [view_batch(range(2 * i, 2 * i + 2), height=height, width=width)[0] for i in range(2)]
    _, predictions = run(model, stream)
    assert predictions[-1].depth.shape == (2, height, width)


def test_a_stream_recovers_after_bad_batches(model: StreamingModel) -> None:
    """Nothing that was carried out of a bad batch spoils the good ones behind it."""
    good = batches(4)
    black = [replace(b, keys=(100 + 2 * i, 101 + 2 * i)) for i, b in enumerate(all_black())]
    _, predictions = run(model, [good[0], *black, *good[1:]])
    truth = view_batch(range(6, 8))[1]
    error = (predictions[-1].depth - truth).abs() / truth
    assert error.median() < 0.35  # of an untrained head; the prior's is below 0.06


@pytest.mark.parametrize("share", [1e-4, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_no_numbers_are_refused_by_name(share: float, value: float) -> None:
    batch = batches(1)[0]
    wrong = batch.image.clone(memory_format=torch.contiguous_format)
    wrong.view(-1)[: max(1, int(share * wrong.numel()))] = value
    with pytest.raises(ImageError, match=r"image of keys \(0, 1\) is not finite"):
        replace(batch, image=wrong)


@pytest.mark.parametrize("factor", [(0.0, 1, 1, 1), (1, -1.0, 1, 1), (1, 1, float("nan"), 1)])
def test_cameras_that_cannot_be_are_refused_by_name(factor: tuple[float, ...]) -> None:
    batch = batches(1)[0]
    with pytest.raises(IntrinsicsError, match="give finite pixels"):
        replace(batch, fxfycxcy=batch.fxfycxcy * torch.tensor(factor))


def test_poses_beyond_computing_are_refused_by_name() -> None:
    batch = batches(1)[0]
    with pytest.raises(PoseError, match="tracking was lost"):
        replace(batch, c2w=poses_of_nowhere(1e60)[0].c2w[:2])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e-30])
@pytest.mark.parametrize("name", ["map_depth", "sensor_depth"])
def test_impossible_depth_makes_nothing_that_cannot_be(
    model: StreamingModel, name: str, value: float
) -> None:
    stream = []
    for batch in batches(2):
        depth = torch.full(batch.image[:, 0].shape, 4.0)
        depth[:, :, ::3] = value
        stream.append(replace(batch, **{name: depth}))
    run(model, stream)


def test_corrections_to_nowhere_leave_a_sound_memory(model: StreamingModel) -> None:
    state, _ = run(model, batches(2))
    wild = dict(enumerate(poses_of_nowhere(1e6)[0].c2w.numpy()))
    moved = model.move(state, wild, {0: 1e-6, 1: 1e6})
    _, prediction = model.stream(moved, batches(3)[2])
    assert prediction.depth.isfinite().all() and prediction.confidence.isfinite().all()
    for name, tensor in moved.to_tensors().items():
        assert tensor.isfinite().all(), name

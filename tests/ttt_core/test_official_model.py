"""A released model behind the engine's interface: what gets across, frames, state, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from official_cases import one_head, tttlrm_file
from safetensors.torch import load_file
from textured_room import view_batch

from gs_decoder import FootprintConfig, decode_splats, splats_from_depth
from gs_decoder.rotations import quaternion_from_matrix
from ttt_core import ConfigError, Prediction, StateMismatchError, ViewBatch
from ttt_core.official import OfficialModel, OfficialState, load_official
from ttt_core.official_splats import FAR, SplatLayout, predict_pixels
from ttt_core.poses import normalize_poses
from ttt_core.reconstructor import Reconstruction
from ttt_core.state import write_tensors
from ttt_core.stream_model import StreamModel
from ttt_core.tokens import camera_rays, splat_order

HEIGHT, WIDTH = 10, 15  # neither is a multiple of the patch, 4


@pytest.fixture(scope="module")
def model() -> OfficialModel:
    return OfficialModel(one_head(sh_degree=1))


def batches(count: int, views: int = 3) -> list[ViewBatch]:
    return [
        view_batch(range(views * i, views * (i + 1)), height=HEIGHT, width=WIDTH)[0]
        for i in range(count)
    ]


def run(
    model: OfficialModel, stream: list[ViewBatch]
) -> tuple[list[OfficialState], list[Prediction]]:
    states, predictions = [model.initial_state()], []
    for batch in stream:
        state, prediction = model.stream(states[-1], batch)
        states.append(state)
        predictions.append(prediction)
    return states, predictions


def assert_sound(prediction: Prediction, batch: ViewBatch) -> None:
    views, _, height, width = batch.image.shape
    assert prediction.depth.shape == prediction.confidence.shape == (views, height, width)
    for name in ("color", "log_scale_residual", "rotation_residual"):
        assert getattr(prediction, name).shape == (views, 3, height, width)
    assert prediction.opacity_logit_residual.shape == (views, height, width)
    for name in Prediction.__dataclass_fields__:
        value = getattr(prediction, name)
        assert value.dtype == torch.float32 and torch.isfinite(value).all(), name
    assert (prediction.depth > 0).all()
    assert prediction.confidence.min() >= 0 and prediction.confidence.max() <= 1
    assert prediction.color.min() >= 0 and prediction.color.max() <= 1


def same(a: Prediction, b: Prediction) -> bool:
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in Prediction.__dataclass_fields__)


def test_it_is_a_model_that_the_engine_can_run(model: OfficialModel) -> None:
    whole: StreamModel[OfficialState] = model
    assert whole.trained is True and whole.device.type == "cpu"
    assert "non-commercial" in whole.describe() and "2 layers of width 16" in whole.describe()
    whole.warm_up(HEIGHT, WIDTH)
    size = sum(
        t.numel() * t.element_size()
        for name, t in model.initial_state().to_tensors().items()
        if ".weights." in name
    )
    assert f"{size / 1e6:.1f} MB of fast weights" in whole.describe()


def test_the_first_batch_is_the_released_computation(model: OfficialModel) -> None:
    """Whole patches, so that no padding lies between the two."""
    batch = view_batch(range(3), height=12, width=16)[0]
    poses = normalize_poses(batch.c2w, "first_cam")
    state, prediction = model.stream(model.initial_state(), batch)
    assert state.frame is not None
    assert torch.equal(state.frame.world_from_submap, batch.c2w[0])
    assert float(state.frame.scale) == float(poses.scene_scale)
    output = model.reconstructor.reconstruct(
        batch.image[None], batch.fxfycxcy[None], poses.normalized[None]
    )
    splats = decode_splats(output.raw, output.ray_origins, output.ray_directions, sh_degree=1)
    # splats of the released decoder, in the world, seen from their own cameras
    frame = state.frame
    means = splats.means[0].double() * frame.scale @ frame.world_from_submap[:3, :3].T
    means = (means + frame.world_from_submap[:3, 3]).view(3, -1, 3)
    opacities = splats.opacities.view(3, -1)
    flat = splat_order(torch.stack((prediction.depth, prediction.confidence), -1)[None], 4).view(
        3, -1, 2
    )
    pixel = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij"), -1)
    pixel = splat_order(pixel.expand(1, 3, 12, 16, 2), 4).view(3, -1, 2)
    for view in range(3):
        local = (means[view] - batch.c2w[view, :3, 3]) @ batch.c2w[view, :3, :3]
        assert torch.allclose(local[:, 2], flat[view, :, 0].double(), rtol=1e-4)
        fx, fy, cx, cy = batch.fxfycxcy[view].double()
        assert torch.allclose(local[:, 0] / local[:, 2] * fx + cx, pixel[view, :, 1].double() + 0.5)
        assert torch.allclose(local[:, 1] / local[:, 2] * fy + cy, pixel[view, :, 0].double() + 0.5)
        assert torch.allclose(opacities[view], flat[view, :, 1], atol=1e-6)


def one_view(
    log_scale: tuple[float, float, float],
    quaternion: torch.Tensor,
    *,
    distance: float = 2.0,
    opacity: float = 0.8,
    size: int = 8,
) -> tuple[Prediction, torch.Tensor]:
    """A view whose decoder says the same of every pixel; the prediction and fxfycxcy."""
    fxfycxcy = torch.tensor([[9.0, 9.0, size / 2, size / 2]])
    rays = camera_rays(fxfycxcy[None], torch.eye(4)[None, None], size, size)
    raw = torch.zeros(1, size * size, 3 + 3 + 8)
    raw[..., :3] = float(torch.logit(torch.tensor(distance / FAR, dtype=torch.float64)))
    raw[..., 3:6] = torch.tensor([0.5, -0.3, 9.0])
    raw[..., 6:9] = torch.tensor(log_scale) + 2.3
    raw[..., 9:13] = quaternion
    raw[..., 13] = float(torch.logit(torch.tensor(opacity))) + 2
    directions = splat_order(rays.directions, 4)
    output = Reconstruction(raw, (), torch.zeros_like(directions), directions)
    return predict_pixels(output, fxfycxcy, (size, size), patch_size=4, unit=3.0), fxfycxcy


def test_layout_constants_are_those_of_the_reader() -> None:
    layout, reader = SplatLayout(), FootprintConfig()
    assert layout.sigma == reader.sigma(1.0)
    for name in ("renderer_blur", "thickness", "opacity_gain", "opacity_midpoint"):
        assert getattr(layout, name) == getattr(reader, name)


@pytest.mark.parametrize("turn", [0.0, 0.7])
@pytest.mark.parametrize("opacity", [0.1, 0.5, 0.9])
def test_a_disc_across_the_view_comes_out_as_it_went_in(turn: float, opacity: float) -> None:
    cos, sin = np.cos(turn), np.sin(turn)  # about the line of sight
    rotation = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]).float()
    width = 0.35 * 2.0 / 9.0  # a pixel's own splat at this distance, so that the blur is no matter
    prediction, fxfycxcy = one_view(
        (float(np.log(width)), float(np.log(width)), float(np.log(width * 0.1))),
        2.5 * quaternion_from_matrix(rotation[None])[0],
        opacity=opacity,
    )
    splats = splats_from_depth(
        prediction.depth[0],
        prediction.confidence[0],
        prediction.color[0],
        fxfycxcy[0],
        log_scale_residual=prediction.log_scale_residual[0],
        opacity_logit_residual=prediction.opacity_logit_residual[0],
    )
    assert torch.allclose(splats.opacities, torch.tensor(opacity), atol=1e-4)
    assert torch.allclose(splats.means.norm(dim=-1), torch.tensor(6.0), rtol=1e-4)
    middle = 8 * 4 + 4
    scales = splats.scales[middle] / 3.0
    assert torch.allclose(scales[1], torch.tensor(width), rtol=0.02)
    assert torch.allclose(scales[2], torch.tensor(0.1 * width), rtol=0.02)
    expected = (0.5 + 0.28209479177387814 * torch.tensor([0.5, -0.3, 9.0])).clamp(0, 1)
    assert torch.allclose(prediction.color[0, :, 2, 5], expected)
    assert not prediction.rotation_residual.any()


def test_wider_splats_are_wider_and_needles_along_the_ray_are_not() -> None:
    upright = torch.tensor([1.0, 0, 0, 0])
    narrow = one_view((-4.0, -4.0, -4.0), upright)[0].log_scale_residual[0, :, 4, 4]
    wide = one_view((-2.0, -2.0, -2.0), upright)[0].log_scale_residual[0, :, 4, 4]
    needle = one_view((-4.0, -4.0, -2.0), upright)[0].log_scale_residual[0, :, 4, 4]
    assert (wide > narrow + 0.3).all()
    assert torch.allclose(needle, narrow, atol=0.1)
    tiny = one_view((-300.0, -300.0, -300.0), torch.zeros(4))[0]
    assert torch.isfinite(tiny.log_scale_residual).all()


def test_prediction_does_not_depend_on_the_world(model: OfficialModel) -> None:
    moved = np.eye(4)
    turn = 0.8
    moved[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    moved[:3, 3] = 4.5e5, 5.4e6, 300.0
    plain = view_batch(range(3), height=HEIGHT, width=WIDTH)[0]
    scaled = plain.c2w.clone()
    scaled[:, :3, 3] *= 8.0
    elsewhere = replace(plain, c2w=torch.from_numpy(moved) @ scaled)
    _, (here,) = run(model, [plain])
    _, (there,) = run(model, [elsewhere])
    assert torch.allclose(8 * here.depth, there.depth, rtol=1e-3)
    assert torch.allclose(here.confidence, there.confidence, atol=1e-3)


def test_the_frame_stays_and_the_memory_is_read(model: OfficialModel) -> None:
    stream = batches(3)
    states, predictions = run(model, stream)
    for batch, prediction in zip(stream, predictions):
        assert_sound(prediction, batch)
    assert states[2].frame is states[3].frame is states[1].frame
    assert len({state.nbytes for state in states[1:]}) == 1
    forgetful = replace(states[2], memory=states[0].memory)
    assert not same(model.stream(forgetful, stream[2])[1], predictions[2])
    again = model.query(states[3], stream[2])
    assert same(again, predictions[2])  # a read with what the same views have just written
    before = {name: t.clone() for name, t in states[1].to_tensors().items()}
    model.query(states[1], stream[0])
    model.stream(states[1], stream[1])
    assert all(torch.equal(t, before[name]) for name, t in states[1].to_tensors().items())


def test_a_restored_state_goes_on_bit_for_bit(model: OfficialModel, tmp_path: Path) -> None:
    stream = batches(3)
    states, predictions = run(model, stream)
    write_tensors(states[2].to_tensors(), tmp_path / "state.safetensors")
    restored = OfficialState.from_tensors(load_file(tmp_path / "state.safetensors"))
    state, prediction = model.stream(restored, stream[2])
    assert same(prediction, predictions[2])
    ours, theirs = state.to_tensors(), states[3].to_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[name]) for name, t in ours.items())
    fresh = OfficialState.from_tensors(model.initial_state().to_tensors())
    assert fresh.frame is None
    assert same(model.stream(fresh, stream[0])[1], predictions[0])


def test_states_that_do_not_fit(model: OfficialModel) -> None:
    (batch,) = batches(1)
    with pytest.raises(StateMismatchError, match="no batch yet"):
        model.query(model.initial_state(), batch)
    other = OfficialModel(one_head(layers=3, sh_degree=1)).initial_state()
    with pytest.raises(StateMismatchError, match="3 layers, this model 2"):
        model.stream(other, batch)
    tensors = run(model, [batch])[0][1].to_tensors()
    for wrong, message in (
        ({}, "0 tensors of fast weights"),
        ({**tensors, "views.keys": torch.zeros(1)}, "'views.keys' is unknown"),
        ({k: t for k, t in tensors.items() if k != "frame.scale"}, "world_from_submap"),
    ):
        with pytest.raises(StateMismatchError, match=message):
            OfficialState.from_tensors(wrong)


def test_corrected_poses_leave_the_state(model: OfficialModel) -> None:
    state = run(model, batches(1))[0][1]
    assert model.move(state, {0: np.eye(4)}, {0: 2.0}) is state


def test_a_given_unit(model: OfficialModel) -> None:
    fixed = OfficialModel(model.reconstructor, unit=5.0)
    ((state, _),) = [fixed.stream(fixed.initial_state(), b) for b in batches(1)]
    assert state.frame is not None and float(state.frame.scale) == 5.0
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="unit is"):
            OfficialModel(model.reconstructor, unit=wrong)


def test_sensor_depth_and_masks(model: OfficialModel) -> None:
    (batch,) = batches(1)
    depth = torch.zeros(3, HEIGHT, WIDTH)
    depth[:, :5] = 2.5
    valid = torch.ones(3, HEIGHT, WIDTH, dtype=torch.bool)
    valid[:, :, :4] = False
    _, (plain,) = run(model, [batch])
    _, (sensed,) = run(model, [replace(batch, sensor_depth=depth)])
    assert (sensed.depth[:, :5] == 2.5).all() and (sensed.confidence[:, :5] > 0.9).all()
    assert not sensed.log_scale_residual[:, :, :5].any()
    assert not sensed.opacity_logit_residual[:, :5].any()
    assert torch.equal(sensed.depth[:, 5:], plain.depth[:, 5:])
    _, (masked,) = run(model, [replace(batch, sensor_depth=depth, valid=valid)])
    assert not masked.confidence[:, :, :4].any() and masked.confidence[:, :, 4:].all()
    # what lies under the mask does not matter
    hidden = torch.where(valid[:, None], batch.image, torch.rand_like(batch.image))
    _, (other,) = run(model, [replace(batch, image=hidden, sensor_depth=depth, valid=valid)])
    assert same(other, masked)
    assert_sound(masked, batch)


@pytest.mark.parametrize(
    ("height", "width", "views"), [(1, 1, 1), (48, 1, 2), (3, 64, 2), (4, 4, 1)]
)
def test_small_pictures(model: OfficialModel, height: int, width: int, views: int) -> None:
    batch = view_batch(range(views), height=height, width=width)[0]
    _, (prediction,) = run(model, [batch])
    assert_sound(prediction, batch)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e4])
def test_hard_input(model: OfficialModel, scale: float) -> None:
    """Darkness, one place, worlds of any size, cameras far from where the stream began."""
    first, second = batches(2)
    for batch in (first, second):
        batch.c2w[:, :3, 3] *= scale
    turning = first.c2w.clone()
    turning[:, :3, 3] = turning[:1, :3, 3]
    far = second.c2w.clone()
    far[:, :3, 3] += 1e14  # about the farthest that a batch takes
    stream = [
        replace(first, c2w=turning),
        replace(second, image=torch.zeros_like(second.image)),
        replace(second, c2w=far),
        first,
    ]
    states, predictions = run(model, stream)
    for batch, prediction in zip(stream, predictions):
        assert_sound(prediction, batch)
    assert all(torch.isfinite(t).all() for t in states[-1].to_tensors().values())


def test_a_file_becomes_a_model(tmp_path: Path) -> None:
    source = one_head(sh_degree=1, qk_norm_eps=0.0078125)
    loaded = load_official(tttlrm_file(tmp_path / "model.pt", source))
    (batch,) = batches(1)
    _, (expected,) = run(OfficialModel(source), [batch])
    _, (given,) = run(loaded, [batch])
    assert same(expected, given)
    assert not any(p.requires_grad for p in loaded.reconstructor.parameters())

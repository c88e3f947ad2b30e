"""Input that no depth can be told from, through the engine: a sound map, whatever the head does.

What sensors and masks can get wrong stands in `test_engine.py`, what a sender can in
`tests/end_to_end/test_bad_input.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import Reader, feed, make_engine, office

from streamer.frames import Frame
from streamer.session.engine import Engine
from ttt_core import StreamingModel

pytestmark = pytest.mark.timeout(600)


def with_random_head() -> StreamingModel:
    """A model whose head acts as a trained one's does, but knows nothing."""
    model = StreamingModel().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name in ("prior_planes", "ray_3", "planes", "pixel_out"):
        weight = getattr(model.network, name).weight
        weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=["prior", "acting"])
def model(request: pytest.FixtureRequest) -> StreamingModel:
    if request.param == "acting":
        return with_random_head()
    return StreamingModel().eval().requires_grad_(False)


def placed(frames: list[Frame], poses: np.ndarray) -> list[Frame]:
    return [replace(frame, c2w=pose) for frame, pose in zip(frames, poses, strict=True)]


def a_single_view() -> list[Frame]:
    return office(0, 1)


def looking_away_from_each_other() -> list[Frame]:
    poses = np.tile(np.eye(4), (4, 1, 1))
    for number, pose in enumerate(poses):
        turn = np.radians(90.0 * number)
        pose[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)
        pose[0, 3] = 0.1 * number
    return placed(office(0, 4), poses)


def poses_of_nowhere() -> list[Frame]:
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (8, 1, 1))
    for pose in poses:
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        pose[:3, :3] = turn * np.sign(np.linalg.det(turn))
        pose[:3, 3] = 1e4 * rng.normal(size=3)
    return placed(office(0, 8), poses)


def tracking_lost_on_the_way() -> list[Frame]:
    return office(0, 4) + poses_of_nowhere()[4:]


def in_another_unit(scale: float) -> list[Frame]:
    frames = office(0, 8)
    for frame in frames:
        assert frame.c2w is not None
        frame.c2w[:3, 3] *= scale
    return frames


def one_pixel_wide() -> list[Frame]:
    return [replace(f, image=np.ascontiguousarray(f.image[:, :1])) for f in office(0, 8)]


def turning_on_the_spot() -> list[Frame]:
    frames = office(0, 8)
    for frame in frames:
        assert frame.c2w is not None
        frame.c2w[:3, 3] = 0.0
    return frames


def all_black() -> list[Frame]:
    return [replace(frame, image=np.zeros_like(frame.image)) for frame in office(0, 8)]


def assert_sound(engine: Engine, reader: Reader) -> None:
    """Finite splats, and whoever reads holds the same."""
    engine.publish()
    for chunk in engine.map.chunks.values():
        chunk.splats.check_values()
    assert engine.map.count == engine.refiner.parameters.count
    assert reader.mirror.equals(engine.map)
    for name, tensor in engine.model_state.to_tensors().items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize(
    "make",
    [
        a_single_view,
        looking_away_from_each_other,
        turning_on_the_spot,
        all_black,
        poses_of_nowhere,
        tracking_lost_on_the_way,
        lambda: in_another_unit(1e-3),
        lambda: in_another_unit(1e4),
        one_pixel_wide,
    ],
)
def test_no_input_makes_a_map_that_cannot_be(
    make: Callable[[], list[Frame]], model: StreamingModel
) -> None:
    engine, reader = make_engine(model=model)
    frames = make()
    feed(engine, frames)
    assert_sound(engine, reader)
    for _ in range(2):
        engine.refine()
    assert_sound(engine, reader)
    assert engine.frames_done == len(frames)
    status = engine.status()
    assert status.psnr is None or np.isfinite(status.psnr)
    engine.close()


def test_corrections_to_nowhere_and_back_leave_a_sound_map(model: StreamingModel) -> None:
    engine, reader = make_engine(model=model)
    frames = office(0, 8)
    feed(engine, frames)
    there = {frame.seq: pose.c2w for frame, pose in zip(frames, poses_of_nowhere(), strict=True)}
    engine.apply_poses(1, there, by="seq", upto=None)
    assert_sound(engine, reader)
    engine.apply_poses(2, {f.seq: f.c2w for f in frames}, by="seq", upto=None)
    feed(engine, office(8, 12))
    assert_sound(engine, reader)
    engine.close()

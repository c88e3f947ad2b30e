"""Batches of views are checked where they are made."""

from __future__ import annotations

import pytest
import torch

from ttt_core import ConfigError, PoseError, ShapeError, StreamingConfig, SubmapFrame, ViewBatch


def fields(**changes: object) -> dict:
    good = {
        "keys": (7, 9),
        "image": torch.rand(2, 3, 8, 12),
        "fxfycxcy": torch.ones(2, 4),
        "c2w": torch.eye(4, dtype=torch.float64).repeat(2, 1, 1),
        "sensor_depth": torch.zeros(2, 8, 12),
        "map_depth": torch.zeros(2, 8, 12),
        "valid": torch.ones(2, 8, 12, dtype=torch.bool),
    }
    return {**good, **changes}


def test_good_batch() -> None:
    assert ViewBatch(**fields()).keys == (7, 9)
    ViewBatch(**fields(sensor_depth=None, map_depth=None, valid=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.rand(2, 8, 12, 3)}, "image has shape"),
        (
            {"image": torch.rand(2, 3, 8, 12).double()},
            r"image is torch.float64 .*give torch.float32",
        ),
        ({"keys": (7,)}, r"keys is \(7,\).*2 distinct"),
        ({"keys": (7, 7)}, r"2 distinct"),
        ({"fxfycxcy": torch.ones(1, 4)}, r"fxfycxcy is .*\(2, 4\)"),
        ({"c2w": torch.eye(4).repeat(2, 1, 1)}, r"c2w is torch.float32 .*give torch.float64"),
        ({"sensor_depth": torch.zeros(2, 8, 11)}, r"sensor_depth is .*\(2, 8, 12\)"),
        ({"map_depth": torch.zeros(2, 8, 12).double()}, "map_depth is torch.float64"),
        ({"valid": torch.ones(2, 8, 12)}, r"valid is torch.float32 .*torch.bool"),
    ],
)
def test_shapes_and_dtypes(changes: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        ViewBatch(**fields(**changes))


def test_poses_must_be_finite() -> None:
    with pytest.raises(PoseError, match=r"\(7, 9\) is not finite"):
        ViewBatch(**fields(c2w=torch.full((2, 4, 4), torch.nan, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recent_views": 0}, "recent_views is 0"),
        ({"kept_views": 4, "recent_views": 5}, "recent_views is 5"),
        ({"kept_records": -1}, "kept_records is -1"),
        ({"moved_at_once": 0}, "moved_at_once is 0"),
    ],
)
def test_streaming_config(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StreamingConfig(**changes)


def test_submap_unit_is_the_confident_median() -> None:
    depth = torch.tensor([[[2.0, 3.0, 4.0, 90.0, 95.0]]])
    confident = torch.tensor([[[0.9, 0.9, 0.9, 0.1, 0.1]]])
    c2w = torch.eye(4, dtype=torch.float64)[None].clone()
    c2w[0, :3, 3] = torch.tensor([5.0, 6.0, 7.0])
    frame = SubmapFrame.from_first_batch(c2w, depth, confident)
    assert frame.scale == 3 and frame.scale.dtype == torch.float64
    assert SubmapFrame.from_first_batch(c2w, depth, 0 * confident).scale == 4
    point = torch.tensor([8.0, 6.0, 4.0, 1.0], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:, 3] = point
    local = frame.localize(pose[None])[0]
    assert local[:3, 3].tolist() == [1.0, 0.0, -1.0]
    back = frame.world_from_submap[:3, :3] @ (frame.scale * local[:3, 3])
    torch.testing.assert_close(back + frame.world_from_submap[:3, 3], point[:3])

"""Pose normalisation against the released code, and the way back to the world."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reconstructor_cases import random_views
from safetensors.torch import load_file
from torch import Tensor

from ttt_core import PoseError, normalize_poses

METHODS = ("mean_cam", "first_cam")


def back_to_world(normalized: Tensor, frame: Tensor, scale: Tensor) -> Tensor:
    poses = normalized.clone()
    poses[..., :3, 3] *= scale[..., None, None]
    return frame[..., None, :, :] @ poses


@pytest.mark.parametrize("method", METHODS)
def test_fixture(fixture_file, method: str) -> None:
    tensors = load_file(fixture_file("tttlrm/dev_pose_norm.safetensors"))
    normalized, frame, scale = normalize_poses(tensors["c2w"], method)
    assert normalized.dtype == frame.dtype == scale.dtype == torch.float64
    exact = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(normalized, tensors[f"{method}/c2w"], **exact)
    torch.testing.assert_close(1 / scale, tensors[f"{method}/returned_scale"][0], **exact)
    torch.testing.assert_close(back_to_world(normalized, frame, scale), tensors["c2w"], **exact)
    if method == "mean_cam":
        inverse = torch.linalg.inv(frame)
        torch.testing.assert_close(inverse, tensors["mean_cam/returned_apos"], **exact)


@pytest.mark.parametrize("method", METHODS)
def test_way_back_holds_for_points_and_far_from_the_origin(method: str) -> None:
    c2w = random_views(5, batch=2)[2].double()
    c2w[..., :3, 3] += torch.tensor([4.5e5, 5.4e6, 300.0], dtype=torch.float64)  # UTM metres
    normalized, frame, scale = normalize_poses(c2w, method)
    assert normalized[..., :3, 3].abs().amax((-1, -2)).tolist() == [1.0, 1.0]
    torch.testing.assert_close(back_to_world(normalized, frame, scale), c2w, rtol=0, atol=1e-6)
    point = torch.tensor([0.1, -0.2, 2.0], dtype=torch.float64)  # in each camera, world units
    in_world = c2w[..., :3, :3] @ point + c2w[..., :3, 3]
    in_normalized = normalized[..., :3, :3] @ point / scale[:, None, None] + normalized[..., :3, 3]
    returned = (frame[:, None, :3, :3] @ (scale[:, None, None] * in_normalized)[..., None])[..., 0]
    torch.testing.assert_close(returned + frame[:, None, :3, 3], in_world, rtol=0, atol=1e-6)


def test_first_camera_becomes_the_identity_and_numpy_is_welcome() -> None:
    c2w = random_views(3)[2][0].numpy().astype(np.float32)
    normalized, frame, _ = normalize_poses(c2w, "first_cam")
    torch.testing.assert_close(normalized[0], torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(frame, torch.from_numpy(c2w[0]).double())


@pytest.mark.parametrize("method", METHODS)
def test_cameras_in_one_place_keep_their_scale(method: str) -> None:
    c2w = random_views(3)[2][0].double()
    c2w[:, :3, 3] = torch.tensor([7.0, 8.0, 9.0])
    normalized, frame, scale = normalize_poses(c2w, method)
    assert scale == 1
    torch.testing.assert_close(back_to_world(normalized, frame, scale), c2w)


def test_unusable_poses() -> None:
    c2w = random_views(2)[2][0]
    with pytest.raises(PoseError, match="shape"):
        normalize_poses(c2w[0])
    with pytest.raises(PoseError, match="method is 'median'"):
        normalize_poses(c2w, "median")
    with pytest.raises(PoseError, match="finite"):
        normalize_poses(torch.full((2, 4, 4), torch.nan))
    opposite = torch.eye(4).repeat(2, 1, 1)
    opposite[1, 0, 0] = opposite[1, 2, 2] = -1
    with pytest.raises(PoseError, match="first_cam"):
        normalize_poses(opposite)
    assert normalize_poses(opposite, "first_cam").scene_scale == 1

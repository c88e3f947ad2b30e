"""Normalisation of camera poses: the frame and unit that a reconstructor works in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttt_core.errors import PoseError


class NormalizedPoses(NamedTuple):
    """Poses in the normalised frame and the way back.

    The way back for a pose is `world_from_normalized @ S(pose)` and for a point
    `world_from_normalized @ [scene_scale * point, 1]`, where `S` multiplies the translation by
    `scene_scale` and leaves the rotation alone.
    """

    normalized: Tensor  # (..., V, 4, 4) float64, largest |translation component| 1
    world_from_normalized: Tensor  # (..., 4, 4) float64, rigid, in world units
    scene_scale: Tensor  # (...) float64: world units of one normalised unit


def _unit(vector: Tensor, what: str) -> Tensor:
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    if not (length > 1e-9).all():
        raise PoseError(
            f"the {what} of the cameras cancel out, so that they define no mean camera: "
            'use method="first_cam"'
        )
    return vector / length


def _mean_camera(c2w: Tensor) -> Tensor:
    """Frame of the mean camera: mean optical axis, mean y made orthogonal to it, mean position."""
    z = _unit(c2w[..., :3, 2].mean(-2), "optical axes")
    y = c2w[..., :3, 1].mean(-2)
    x = _unit(torch.linalg.cross(y, z), "y axes")
    frame = torch.zeros_like(c2w[..., 0, :, :])
    frame[..., :3, 0] = x
    frame[..., :3, 1] = torch.linalg.cross(z, x)
    frame[..., :3, 2] = z
    frame[..., :3, 3] = c2w[..., :3, 3].mean(-2)
    frame[..., 3, 3] = 1
    return frame


def normalize_poses(c2w: Tensor | np.ndarray, method: str = "mean_cam") -> NormalizedPoses:
    """Move cameras into a common frame and scale them into the unit box, in float64.

    Args:
        c2w: (..., V, 4, 4) camera-to-world, OpenCV axes, any dtype.
        method: "mean_cam" centres on the mean camera, "first_cam" on camera 0.

    Returns:
        `(normalized, world_from_normalized, scene_scale)`. The released code returns something
        else beside the poses: 1 / scene_scale, and for "mean_cam" the inverse of
        `world_from_normalized`, for "first_cam" always the identity, which loses the world frame.
        Cameras that all share one place have no extent: their scene_scale is 1.

    Raises:
        PoseError: wrong shape, not finite, unknown method, or axes that cancel out.
    """
    poses = torch.as_tensor(c2w).to(torch.float64)
    if poses.dim() < 3 or poses.shape[-2:] != (4, 4) or poses.shape[-3] == 0:
        raise PoseError(f"c2w has shape {tuple(poses.shape)}: give (..., V, 4, 4) with V >= 1")
    if not torch.isfinite(poses).all():
        raise PoseError("c2w holds values that are not finite: drop those cameras first")
    if method == "mean_cam":
        frame = _mean_camera(poses)
    elif method == "first_cam":
        frame = poses[..., 0, :, :].clone()
    else:
        raise PoseError(f'method is {method!r}: give "mean_cam" or "first_cam"')
    normalized = torch.linalg.inv(frame)[..., None, :, :] @ poses
    extent = normalized[..., :3, 3].abs().amax((-1, -2))
    # rounding leaves 1e-16 where all cameras share one place: that is no extent either
    reach = poses[..., :3, 3].abs().amax((-1, -2)).clamp(min=1)
    scale = torch.where(extent > 1e-12 * reach, extent, torch.ones_like(extent))
    normalized[..., :3, 3] /= scale[..., None, None]
    return NormalizedPoses(normalized, frame, scale)

"""Poses at the door: checked, then turned into camera-to-world with OpenCV axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.camera import CameraModel
from streamer.conventions import (
    FARTHEST_M,
    ORTHONORMAL_TOLERANCE,
    PoseError,
    check_pose,
    to_opencv,
)
from streamer.protocol import ProtocolError


def frame_pose(
    pose: Sequence[float] | None, convention: str, camera: CameraModel
) -> NDArray[np.float64]:
    """(4, 4) camera-to-world with OpenCV axes from a FRAME's pose.

    Raises:
        ProtocolError: `no_pose`, `bad_pose`.
    """
    if pose is None:
        raise ProtocolError(
            "no_pose",
            "pose: missing, and this daemon has no tracker running: "
            "send camera-to-world as 16 numbers with every frame",
        )
    try:
        matrix = check_pose(pose)
    except PoseError as error:
        raise ProtocolError("bad_pose", str(error)) from None
    return to_opencv(matrix, convention, camera.T_body_camera)


def axes_from_opencv(convention: str, camera: CameraModel | None) -> NDArray[np.float64]:
    """(4, 4) A such that `pose @ A` has OpenCV axes: every convention turns or moves the camera
    in its own frame and leaves the world alone."""
    return to_opencv(np.eye(4), convention, camera.T_body_camera if camera else None)


def corrected_poses(entries: Sequence[tuple[int, list[float]]]) -> NDArray[np.float64]:
    """(N, 4, 4) poses of POSES, each a similarity with a uniform scale.

    Raises:
        ProtocolError: `bad_pose`, naming the entry.
    """
    poses = np.array([pose for _, pose in entries], np.float64).reshape(-1, 4, 4)
    # Thousands of poses come at once after a loop closure: they are checked together, and only
    # what looks wrong is looked at again for the sake of the message.
    for index in np.flatnonzero(~_plausible(poses)).tolist():
        try:
            check_pose(poses[index], f"poses[{index}] (of {entries[index][0]})", allow_scale=True)
        except PoseError as error:
            raise ProtocolError("bad_pose", str(error)) from None
    return poses


def opencv_entries(
    keys: Sequence[int],
    poses: NDArray[np.float64],
    axes: NDArray[np.float64] | Mapping[int, NDArray[np.float64]],
) -> list[tuple[int, list[float]]]:
    """(key, pose with OpenCV axes) of corrected poses (N, 4, 4).

    Args:
        axes: (4, 4) of all of them, or by key; keys without are left out.
    """
    if isinstance(axes, Mapping):
        known = [index for index, key in enumerate(keys) if key in axes]
        keys, poses = [keys[index] for index in known], poses[known]
        axes = np.reshape([axes[key] for key in keys], (-1, 4, 4))
    return list(zip(keys, (poses @ axes).reshape(-1, 16).tolist(), strict=True))


def _plausible(poses: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        rotation = poses[:, :3, :3]
        determinant = np.linalg.det(rotation)
        scaled = rotation / np.cbrt(determinant)[:, None, None]
        error = np.abs(np.swapaxes(scaled, 1, 2) @ scaled - np.eye(3)).max(axis=(1, 2))
        last_row = np.abs(poses[:, 3] - (0.0, 0.0, 0.0, 1.0)).max(axis=1)
        finite = np.isfinite(poses).all(axis=(1, 2))
        finite &= np.abs(poses[:, :3, 3]).max(axis=1) <= FARTHEST_M
        return finite & (determinant > 0) & (error < ORTHONORMAL_TOLERANCE) & (last_row < 1e-7)

"""Camera axes and poses: whatever the sender uses becomes OpenCV axes here, and nowhere else.

Inside the daemon a pose is camera-to-world, 4x4 float64, with OpenCV camera axes (x right, y down,
z forward). The world frame is the sender's and stays as it is. Quaternions inside are ``wxyz``;
the order is part of every name that carries one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamer.suggest import did_you_mean

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest entry of |RᵀR − I| that still passes as a rotation (wire-protocol.md, `bad_pose`)."""
FARTHEST_M = 1e9
"""Cameras farther from the origin were lost; float64 still tells micrometres here."""

# Columns are where the OpenCV axes of the camera lie in the camera axes of the convention.
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])

CONVENTIONS = ("opencv", "opengl", "arkit", "ros_optical", "ros_body")


class ConventionError(ValueError):
    """An unknown pose convention, or one that lacks what it needs."""


class PoseError(ValueError):
    """A pose that is no rigid motion; the message says what is wrong with it."""


def to_opencv(
    pose: npt.ArrayLike,  # [4, 4]
    convention: str,
    T_body_camera: npt.ArrayLike | None = None,  # [4, 4]
) -> np.ndarray:
    """Turns a pose of a stated convention into camera-to-world with OpenCV camera axes.

    Args:
        pose: [4, 4] camera-to-world (``ros_body``: body-to-world).
        convention: ``opencv``: x right, y down, z forward. ``ros_optical``: the same axes
            (REP 103, frames that end in ``_optical``). ``opengl``: x right, y up, z back
            (nerfstudio, Blender). ``arkit``: the same axes as OpenGL, for the image as the sensor
            delivers it (landscape). ``ros_body``: the pose of a body (REP 103: x forward, y left,
            z up) that carries the camera.
        T_body_camera: [4, 4] for ``ros_body``: the camera's *optical* frame in the body's frame,
            what ``tf2_echo base_link camera_optical_frame`` prints.

    Returns:
        [4, 4] float64. The pose is converted, not checked: see `check_pose`.
    """
    matrix = np.asarray(pose, dtype=np.float64)
    if convention in ("opencv", "ros_optical"):
        return matrix.copy()
    if convention in ("opengl", "arkit"):
        return matrix @ _FLIP_YZ
    if convention == "ros_body":
        if T_body_camera is None:
            raise ConventionError(
                "convention 'ros_body' gives the pose of the body: each camera needs "
                "T_body_camera (16 floats, the optical frame in the body's frame)"
            )
        return matrix @ np.asarray(T_body_camera, dtype=np.float64).reshape(4, 4)
    check_convention(convention)
    raise AssertionError(convention)


def check_convention(convention: str) -> str:
    """Returns a known convention's name, raises `ConventionError` for any other."""
    if convention not in CONVENTIONS:
        raise ConventionError(
            f"convention {convention!r} is unknown: {did_you_mean(convention, CONVENTIONS)}"
        )
    return convention


def check_pose(
    pose: npt.ArrayLike, field: str = "pose", *, allow_scale: bool = False
) -> np.ndarray:
    """Returns ``pose`` as [4, 4] float64 if it is a rigid motion.

    Args:
        pose: 4x4 or 16 numbers, row-major.
        field: how the message calls it.
        allow_scale: a uniform positive scale of the rotation passes too (a similarity).

    Raises:
        PoseError: wrong shape, not finite, farther than `FARTHEST_M`, a last row other than
            0 0 0 1, a rotation that is scaled, sheared or left-handed by more than
            `ORTHONORMAL_TOLERANCE`.
    """
    try:
        matrix = np.asarray(pose, dtype=np.float64)
    except (TypeError, ValueError):
        raise PoseError(f"{field}: 4x4 numbers are needed, row-major, not {pose!r:.60}") from None
    if matrix.size != 16:
        raise PoseError(
            f"{field}: {matrix.size} numbers of shape {matrix.shape}; "
            "a camera-to-world matrix has 4x4 = 16, row-major"
        )
    matrix = matrix.reshape(4, 4)
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise PoseError(
            f"{field}: entry [{row}][{column}] is {matrix[row, column]}; "
            "leave frames without tracking out"
        )
    if np.abs(matrix[3] - (0.0, 0.0, 0.0, 1.0)).max() > 1e-6:
        hint = (
            "it looks transposed (the translation belongs into the last column)"
            if np.abs(matrix[:3, 3]).max() == 0.0
            else "send a row-major camera-to-world matrix"
        )
        raise PoseError(f"{field}: last row is {_row(matrix[3])}, not 0 0 0 1; {hint}")
    if np.abs(matrix[:3, 3]).max() > FARTHEST_M:
        raise PoseError(
            f"{field}: {np.abs(matrix[:3, 3]).max():.3g} m from the origin, the limit is "
            f"{FARTHEST_M:g}; leave frames out whose tracking was lost"
        )
    rotation = matrix[:3, :3]
    determinant = float(np.linalg.det(rotation))
    scale = float(np.cbrt(abs(determinant)))
    if scale < 1e-9:
        raise PoseError(f"{field}: the rotation is singular (determinant {determinant:.3g})")
    if _orthonormal_error(rotation / scale) > ORTHONORMAL_TOLERANCE:
        raise PoseError(
            f"{field}: the rotation's columns are not orthonormal (|RᵀR − I| up to "
            f"{_orthonormal_error(rotation / scale):.3g}, allowed {ORTHONORMAL_TOLERANCE:g}); "
            "orthonormalise it (nearest rotation by SVD)"
        )
    if determinant < 0.0:
        raise PoseError(
            f"{field}: the rotation is left-handed (determinant {determinant:.3g}); "
            "one axis is mirrored: state the convention the poses really have"
        )
    if not allow_scale and _orthonormal_error(rotation) > ORTHONORMAL_TOLERANCE:
        raise PoseError(
            f"{field}: the rotation is scaled by {scale:.6g}; divide the upper left 3x3 by it"
        )
    return matrix


def _orthonormal_error(rotation: np.ndarray) -> float:
    return float(np.abs(rotation.T @ rotation - np.eye(3)).max())


def _row(row: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in row)


def wxyz_from_xyzw(quat_xyzw: npt.ArrayLike) -> np.ndarray:
    """[..., 4] xyzw (ROS, TUM, scipy) → [..., 4] wxyz (here, COLMAP, 3DGS PLY)."""
    return np.roll(np.asarray(quat_xyzw, dtype=np.float64), 1, axis=-1)


def xyzw_from_wxyz(quat_wxyz: npt.ArrayLike) -> np.ndarray:
    """[..., 4] wxyz → [..., 4] xyzw."""
    return np.roll(np.asarray(quat_wxyz, dtype=np.float64), -1, axis=-1)


def matrix_from_wxyz(quat_wxyz: npt.ArrayLike) -> np.ndarray:
    """[..., 4] quaternions of any length but zero → [..., 3, 3] rotations."""
    quat = np.asarray(quat_wxyz, dtype=np.float64)
    norm = np.linalg.norm(quat, axis=-1, keepdims=True)
    if not np.isfinite(norm).all() or (norm < 1e-12).any():
        raise PoseError(f"quaternion {_row(quat.reshape(-1, 4)[0])} has no direction")
    w, x, y, z = np.moveaxis(quat / norm, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def wxyz_from_matrix(rotation: npt.ArrayLike) -> np.ndarray:
    """[..., 3, 3] rotations → [..., 4] unit quaternions with w ≥ 0.

    By the largest eigenvector of Bar-Itzhack's symmetric 4x4 matrix (2000, "New method for
    extracting the quaternion from a rotation matrix"): no case distinctions, and the nearest
    quaternion where the matrix is only nearly a rotation.
    """
    m = np.asarray(rotation, dtype=np.float64)
    k = np.empty((*m.shape[:-2], 4, 4))
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    k[..., :3, :3] = m + np.swapaxes(m, -1, -2) - trace[..., None, None] * np.eye(3)
    axis = np.stack(
        [
            m[..., 2, 1] - m[..., 1, 2],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 1, 0] - m[..., 0, 1],
        ],
        axis=-1,
    )
    k[..., 3, :3] = axis
    k[..., :3, 3] = axis
    k[..., 3, 3] = trace
    vectors = np.linalg.eigh(k)[1]
    quat_wxyz = wxyz_from_xyzw(vectors[..., :, -1])
    return np.where(quat_wxyz[..., :1] < 0.0, -quat_wxyz, quat_wxyz)


def pose_from_wxyz(
    quat_wxyz: npt.ArrayLike, translation: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Quaternion and translation → [4, 4] float64."""
    matrix = np.eye(4)
    matrix[:3, :3] = matrix_from_wxyz(quat_wxyz)
    matrix[:3, 3] = translation
    return matrix


def inverse_pose(pose: np.ndarray) -> np.ndarray:
    """[..., 4, 4] rigid motion → its inverse (world-to-camera ↔ camera-to-world)."""
    inverse = np.zeros_like(pose, dtype=np.float64)
    rotation_T = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation_T
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_T, pose[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def interpolate_pose(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """The pose at ``weight`` (0 … 1) between two: slerp of the rotation, line of the position."""
    a_wxyz, b_wxyz = wxyz_from_matrix(np.stack([first[:3, :3], second[:3, :3]]))
    cosine = float(a_wxyz @ b_wxyz)
    if cosine < 0.0:
        b_wxyz, cosine = -b_wxyz, -cosine
    angle = float(np.arccos(min(cosine, 1.0)))
    if angle < 1e-6:
        quat_wxyz = (1.0 - weight) * a_wxyz + weight * b_wxyz
    else:
        quat_wxyz = (
            np.sin((1.0 - weight) * angle) * a_wxyz + np.sin(weight * angle) * b_wxyz
        ) / np.sin(angle)
    return pose_from_wxyz(quat_wxyz, (1.0 - weight) * first[:3, 3] + weight * second[:3, 3])

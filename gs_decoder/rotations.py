"""Rotations and similarities: quaternions in `wxyz` order, 4x4 transforms in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor

# How far M·Mᵀ may be from s²·I, relative to s²: poses come as float32 text and binary alike.
_ORTHOGONALITY_TOLERANCE = 2e-3


class InvalidSimilarity(ValueError):
    """A 4x4 matrix that is not rotation, uniform scale and translation."""


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """`x -> scale * rotation @ x + translation`, all float64."""

    scale: float
    rotation: np.ndarray  # (3, 3), determinant +1
    translation: np.ndarray  # (3,)

    def matrix(self) -> np.ndarray:
        """The same as a (4, 4) float64 matrix."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix


def split_similarity(matrix: npt.ArrayLike | Tensor, name: str = "similarity") -> Similarity:
    """Take a (4, 4) similarity apart.

    Raises:
        InvalidSimilarity: not (4, 4), not finite, mirrored, sheared or of unequal scale, or with
            a last row other than 0 0 0 1; the message begins with `name`.
    """
    values = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else matrix
    T = np.asarray(values, dtype=np.float64)
    if T.shape != (4, 4):
        raise InvalidSimilarity(f"{name} has shape {T.shape}: give a 4x4 matrix")
    if not np.isfinite(T).all():
        raise InvalidSimilarity(f"{name} holds values that are not finite: {T.tolist()}")
    if not np.allclose(T[3], (0.0, 0.0, 0.0, 1.0), atol=1e-6):
        raise InvalidSimilarity(f"{name} has the last row {T[3].tolist()}: it must be 0 0 0 1")
    linear = T[:3, :3]
    determinant = float(np.linalg.det(linear))
    if determinant <= 0:
        raise InvalidSimilarity(
            f"{name} has determinant {determinant:.3g}: give a right-handed rotation times a "
            "positive scale"
        )
    scale = determinant ** (1.0 / 3.0)
    rotation = linear / scale
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > _ORTHOGONALITY_TOLERANCE:
        raise InvalidSimilarity(
            f"{name} is off by {error:.2g} from a rotation times one scale: remove shear and "
            "unequal scales"
        )
    return Similarity(scale=scale, rotation=rotation, translation=T[:3, 3].copy())


def are_similarities(matrices: np.ndarray) -> np.ndarray:
    """(N,) bool: which of (N, 4, 4) float64 `split_similarity` would take."""
    with np.errstate(all="ignore"):
        linear = matrices[:, :3, :3]
        determinant = np.linalg.det(linear)
        rotation = linear / np.cbrt(determinant)[:, None, None]
        error = np.abs(rotation @ np.swapaxes(rotation, 1, 2) - np.eye(3)).max(axis=(1, 2))
        last_row = np.isclose(matrices[:, 3], (0.0, 0.0, 0.0, 1.0), atol=1e-6).all(axis=1)
        finite = np.isfinite(matrices).all(axis=(1, 2))
        return finite & last_row & (determinant > 0) & (error <= _ORTHOGONALITY_TOLERANCE)


def inverse_similarity(matrix: npt.ArrayLike | Tensor) -> np.ndarray:
    """The (4, 4) float64 inverse of a similarity."""
    T = split_similarity(matrix)
    inverse = np.eye(4)
    inverse[:3, :3] = T.rotation.T / T.scale
    inverse[:3, 3] = -(inverse[:3, :3] @ T.translation)
    return inverse


def quaternion_from_matrix(rotation: Tensor) -> Tensor:
    """(..., 3, 3) rotations to unit quaternions (..., 4) wxyz with w >= 0.

    Each of Shepperd's four forms is exact and only ill-conditioned where its own component is
    small, so the one with the largest component is taken.
    """
    if rotation.shape[-2:] != (3, 3):
        raise ValueError(f"rotation has shape {tuple(rotation.shape)}: expected (..., 3, 3)")
    m = rotation
    m00, m01, m02 = m[..., 0, 0], m[..., 0, 1], m[..., 0, 2]
    m10, m11, m12 = m[..., 1, 0], m[..., 1, 1], m[..., 1, 2]
    m20, m21, m22 = m[..., 2, 0], m[..., 2, 1], m[..., 2, 2]
    # (..., 4, 4): row i is 4·q_i·q, so that its diagonal is 4·q_i².
    outer = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12], -1),
            torch.stack([m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = outer.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quats = functional.normalize(row, dim=-1)
    return torch.where(quats[..., :1] < 0, -quats, quats)


def matrix_from_quaternion(quats_wxyz: Tensor) -> Tensor:
    """(..., 4) quaternions wxyz of any length to rotations (..., 3, 3)."""
    w, x, y, z = functional.normalize(quats_wxyz, dim=-1).unbind(-1)
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )


def multiply_quaternions(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product (..., 4) wxyz: first `right` turns, then `left`."""
    aw, ax, ay, az = left.unbind(-1)
    bw, bx, by, bz = right.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def quaternion_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """(..., 3) rotation vectors in radians to unit quaternions (..., 4) wxyz.

    Differentiable at zero: sin(θ/2)/θ is sinc, which torch continues there.
    """
    squared = (axis_angle * axis_angle).sum(-1, keepdim=True)
    # sqrt has no gradient at 0; below 1e-12 the angle does not matter in float32.
    half = 0.5 * torch.sqrt(squared.clamp_min(1e-24))
    return torch.cat([torch.cos(half), 0.5 * torch.sinc(half / torch.pi) * axis_angle], -1)


def left_multiplication(quat_wxyz: Tensor) -> Tensor:
    """(4, 4) matrix L with `L @ q` = quat · q."""
    w, x, y, z = quat_wxyz.unbind(-1)
    return torch.stack(
        [
            torch.stack([w, -x, -y, -z]),
            torch.stack([x, w, -z, y]),
            torch.stack([y, z, w, -x]),
            torch.stack([z, -y, x, w]),
        ]
    )

"""Real spherical harmonics of degree 0..3, with the signs and order of 3DGS and gsplat.

A colour is `max(0, 0.5 + sum_k sh[k] * Y_k(direction))`, the direction running from the camera
centre to the splat, in the frame that the splats live in.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
C3 = (
    0.5900435899266435,
    2.890611442640554,
    0.4570457994644658,
    0.3731763325901154,
    1.445305721320277,
)
MAX_DEGREE = 3


def degree_of(coefficients: int) -> int:
    """SH degree of a set of 1, 4, 9 or 16 coefficients; ValueError for any other number."""
    degree = math.isqrt(max(coefficients, 0)) - 1
    if degree not in range(MAX_DEGREE + 1) or (degree + 1) ** 2 != coefficients:
        raise ValueError(f"{coefficients} SH coefficients: expected 1, 4, 9 or 16 (degree 0 to 3)")
    return degree


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Basis values (..., (degree + 1)²) at unit directions (..., 3)."""
    if degree not in range(MAX_DEGREE + 1):
        raise ValueError(f"SH degree {degree}: expected 0 to {MAX_DEGREE}")
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, C0)]
    if degree >= 1:
        values += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            C2[0] * x * y,
            -C2[0] * y * z,
            C2[1] * (2 * zz - xx - yy),
            -C2[0] * x * z,
            C2[2] * (xx - yy),
        ]
    if degree >= 3:
        values += [
            -C3[0] * y * (3 * xx - yy),
            C3[1] * x * y * z,
            -C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -C3[2] * x * (4 * zz - xx - yy),
            C3[4] * z * (xx - yy),
            -C3[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(values, -1)


def evaluate_sh(sh: Tensor, directions: Tensor) -> Tensor:
    """Colours (..., 3) of coefficients (..., K, 3) seen along unit directions (..., 3)."""
    basis = sh_basis(directions, degree_of(sh.shape[-2]))
    return ((basis[..., None] * sh).sum(-2) + 0.5).clamp_min(0.0)


def sh_from_rgb(rgb: Tensor) -> Tensor:
    """Coefficient 0 of a colour that looks the same from everywhere."""
    return (rgb - 0.5) / C0


def rgb_from_sh(dc: Tensor) -> Tensor:
    """The direction-independent part of the colour, from coefficient 0; not clamped."""
    return 0.5 + C0 * dc


@lru_cache(maxsize=1)
def _sampling() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Fixed directions (n, 3) and, per band, the (2l+1, n) map from values there to coefficients.

    Every band is closed under rotation, so a band's values at enough directions determine its
    coefficients: the pseudo-inverse recovers them to rounding.
    """
    count = 32
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    angle = np.pi * (1.0 + 5.0**0.5) * index
    radius = np.sqrt(1.0 - z * z)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1)
    directions = torch.from_numpy(points)
    basis = sh_basis(directions, MAX_DEGREE)
    solvers = tuple(
        torch.linalg.pinv(basis[:, band * band : (band + 1) ** 2])
        for band in range(1, MAX_DEGREE + 1)
    )
    return directions, solvers


def sh_rotation(rotation: npt.ArrayLike | Tensor, degree: int) -> list[Tensor]:
    """One (..., 2l+1, 2l+1) float64 matrix per band l = 1..degree of (..., 3, 3) rotations.

    `coefficients' = matrix @ coefficients` is the function turned with the splats:
    f'(R d) = f(d).
    """
    R = torch.as_tensor(np.asarray(rotation, dtype=np.float64))
    directions, solvers = _sampling()
    turned = sh_basis(directions @ R, degree)  # row i is R^T d_i
    return [
        solvers[band - 1] @ turned[..., band * band : (band + 1) ** 2]
        for band in range(1, degree + 1)
    ]


def rotate_sh(sh: Tensor, rotation: npt.ArrayLike | Tensor) -> Tensor:
    """Turn coefficients (..., K, 3) by one (3, 3) rotation."""
    degree = degree_of(sh.shape[-2])
    if degree == 0:
        return sh
    parts = [sh[..., :1, :]]
    for band, matrix in enumerate(sh_rotation(rotation, degree), start=1):
        parts.append(matrix.to(sh) @ sh[..., band * band : (band + 1) ** 2, :])
    return torch.cat(parts, -2)

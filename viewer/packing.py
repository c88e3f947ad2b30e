"""Splats as the page's renderer takes them: centres, 16-bit covariances, 8-bit colours.

The renderer keeps covariances in float16. Divided by the square of a length of the map's own
scale (and centres by that length, which the node then multiplies back) they stay in the range
where float16 is exact to 0.05 %, whatever the map's unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gs_decoder import Similarity, Splats

SH_DC = 0.28209479177387814

# Standard deviations that float16 holds, squared, as a normal number (6.1e-5 to 65504).
_SIGMA_LOW, _SIGMA_HIGH = 0.01, 250.0
# Below this share of the longest axis, rounding the covariance to 11 bits may leave it indefinite
# and the renderer drops the splat.
_THINNEST = 0.04
# The renderer divides zero by zero where the projected axes coincide with the picture's.
_LEAST_CORRELATION = 0.01
# Of every number of ten bits, the bits apart: bit i at place 2i.
_SPREAD = np.sum([(np.arange(1024) >> bit & 1) << (2 * bit) for bit in range(10)], axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class PackedSplats:
    """Rows for `GaussianSplatHandle.set_gaussians`, in units of `unit` metres."""

    centers: np.ndarray  # (N, 3) float32
    covariances: np.ndarray  # (N, 3, 3) float32
    rgbs: np.ndarray  # (N, 3) uint8
    opacities: np.ndarray  # (N, 1) uint8


def pack_splats(splats: Splats, unit: float, pose: Similarity | None = None) -> PackedSplats:
    """The rows of N splats.

    Colours are those of SH degree 0: the renderer knows no view dependence.

    Args:
        unit: metres.
        pose: from the frame of the splats to that of the rows; None: they are in one frame.
    """
    arrays = splats.to_numpy()
    finite = np.ones(splats.count, dtype=bool)
    for array in arrays.values():
        finite &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if not finite.all():
        # One centre that is not a number breaks the browser's sort of the whole map.
        arrays = {name: _zero_rows(array, ~finite) for name, array in arrays.items()}
    inverse = np.float32(1.0 / unit)
    centers, scales = arrays["means"], arrays["scales"]
    rotations = rotations_from_quats(arrays["quats_wxyz"])
    if pose is not None:
        centers = centers @ (pose.scale * pose.rotation).T.astype(np.float32)
        centers += pose.translation.astype(np.float32)
        scales = scales * np.float32(pose.scale)
        rotations = pose.rotation.astype(np.float32) @ rotations
    scales = np.clip(scales * inverse, _SIGMA_LOW, _SIGMA_HIGH)
    scales = np.maximum(scales, _THINNEST * scales.max(axis=1, keepdims=True))
    axes = rotations * scales[:, None, :]
    covariances = axes @ axes.transpose(0, 2, 1)
    _add_least_correlation(covariances)
    dc = arrays["sh"][:, 0, :]
    return PackedSplats(
        centers=centers * inverse,
        covariances=covariances,
        rgbs=_to_uint8(0.5 + SH_DC * dc),
        opacities=_to_uint8(arrays["opacities"][:, None]),
    )


def typical_size(splats: Splats) -> float:
    """Median over the splats of the geometric mean of their scales, metres; 1 for no splats."""
    scales = splats.to_numpy()["scales"]
    if len(scales) == 0:
        return 1.0
    sizes = np.exp(np.log(np.maximum(scales, 1e-12)).mean(axis=1))
    return float(np.median(sizes))


def place_order(splats: Splats) -> np.ndarray:
    """(N,) indices that put a key frame's splats along a Z-curve over its picture.

    The browser shows new rows in the depth order of the old ones until it has sorted again. Along
    the curve a row holds nearly the same place before and after a change; by importance it holds
    any place, and every update would flash.
    """
    means = splats.to_numpy()["means"]
    slopes = np.nan_to_num(means[:, :2] / np.maximum(means[:, 2:], 1e-6))
    cells = np.clip((slopes + 1.5) * (1024 / 3.0), 0, 1023).astype(np.int64)
    return np.argsort(_SPREAD[cells[:, 0]] | _SPREAD[cells[:, 1]] << 1, kind="stable")


def rotations_from_quats(quats_wxyz: np.ndarray) -> np.ndarray:
    """(N, 4) quaternions of any length but zero to (N, 3, 3) rotations, same type."""
    norms = np.linalg.norm(quats_wxyz, axis=1, keepdims=True)
    w, x, y, z = (quats_wxyz / np.maximum(norms, 1e-30)).T
    rotations = np.empty((len(quats_wxyz), 3, 3), dtype=quats_wxyz.dtype)
    rotations[:, 0, 0] = 1 - 2 * (y * y + z * z)
    rotations[:, 0, 1] = 2 * (x * y - w * z)
    rotations[:, 0, 2] = 2 * (x * z + w * y)
    rotations[:, 1, 0] = 2 * (x * y + w * z)
    rotations[:, 1, 1] = 1 - 2 * (x * x + z * z)
    rotations[:, 1, 2] = 2 * (y * z - w * x)
    rotations[:, 2, 0] = 2 * (x * z - w * y)
    rotations[:, 2, 1] = 2 * (y * z + w * x)
    rotations[:, 2, 2] = 1 - 2 * (x * x + y * y)
    return rotations


def _zero_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[rows] = 0
    return array


def _add_least_correlation(covariances: np.ndarray) -> None:
    variances = np.stack([covariances[:, i, i] for i in range(3)])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        least = _LEAST_CORRELATION * np.sqrt(variances[i] * variances[j])
        value = covariances[:, i, j]
        value = np.where(np.abs(value) < least, np.copysign(least, value), value)
        covariances[:, i, j] = covariances[:, j, i] = value


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)

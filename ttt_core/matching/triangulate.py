"""Sparse points from features that views with known cameras share (SIFT, Lowe 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from ttt_core.matching.geometry import relative
from ttt_core.matching.views import PosedImage

_MAX_FEATURES = 300
_RATIO = 0.8
_EPIPOLAR_TOLERANCE = 1.5
_LEAST_PARALLAX = 1.5
_MAX_AXIS_ANGLE = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Corners of one view. pixels: (n,2) float64; descriptors: (n,128) float32 of unit length."""

    pixels: NDArray[np.float64]
    descriptors: NDArray[np.float32]


def detect_features(view: PosedImage) -> Features:
    """SIFT features inside the valid part of `view`."""
    # Descriptors reach beyond their feature: what is masked must look the same whatever it is.
    gray = view.gray if view.valid is None else np.where(view.valid, view.gray, np.float32(0.5))
    gray = np.nan_to_num(gray, nan=0.5)
    picture = (np.clip(gray, 0.0, 1.0) * 255.0).astype(np.uint8)
    mask = None if view.valid is None else view.valid.astype(np.uint8)
    detector = cv2.SIFT_create(nfeatures=_MAX_FEATURES, contrastThreshold=0.02)  # type: ignore[attr-defined]
    found, raw = detector.detectAndCompute(picture, mask)
    if raw is None or len(found) == 0:
        return Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32))
    # OpenCV counts from the centre of the first pixel.
    pixels = np.array([point.pt for point in found], np.float64) + 0.5
    # The square root makes Euclidean distance a Hellinger distance (Arandjelovic, CVPR 2012).
    descriptors = np.sqrt(raw / np.maximum(raw.sum(1, keepdims=True), 1e-6))
    return Features(pixels, descriptors.astype(np.float32))


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _most_similar(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    forward: NDArray[np.int64],
    backward: NDArray[np.int64],
    best: NDArray[np.float32],
    second: NDArray[np.float32],
) -> None:
    """Nearest row of `b` for every row of `a`, with its similarity and the next one's, and back.

    A BLAS product does the same, but wakes threads that cost more than the work.
    """
    best_back = np.full(b.shape[0], np.float32(-2.0))
    for i in range(a.shape[0]):
        best[i] = np.float32(-2.0)
        second[i] = np.float32(-2.0)
        for j in range(b.shape[0]):
            similarity = np.float32(0.0)
            for k in range(a.shape[1]):
                similarity += a[i, k] * b[j, k]
            if similarity > best[i]:
                second[i] = best[i]
                best[i] = similarity
                forward[i] = j
            elif similarity > second[i]:
                second[i] = similarity
            if similarity > best_back[j]:
                best_back[j] = similarity
                backward[j] = i


def triangulate_pair(
    view: PosedImage, features: Features, other: PosedImage, other_features: Features
) -> NDArray[np.float64]:
    """(n,3) world points of matched features, those with too little parallax left out."""
    none = np.zeros((0, 3))
    if len(features.pixels) < 2 or len(other_features.pixels) < 2:
        return none
    count = len(features.pixels)
    forward, backward = np.empty(count, np.int64), np.empty(len(other_features.pixels), np.int64)
    best, second = np.empty(count, np.float32), np.empty(count, np.float32)
    _most_similar(features.descriptors, other_features.descriptors, forward, backward, best, second)
    # Squared distances of unit vectors are 2 - 2 * similarity.
    mutual = backward[forward] == np.arange(count)
    good = mutual & (1.0 - best < _RATIO**2 * (1.0 - second))
    if not good.any():
        return none
    a = features.pixels[good]
    b = other_features.pixels[forward[good]]
    move = relative(view, other)
    ones = np.ones((len(a), 1))
    at_infinity = np.concatenate([a, ones], 1) @ move.rotation.T
    e = move.offset
    # With inverse depth q, b = (r + q e) / (r_w + q e_w), two equations linear in q: least squares
    # along the epipolar line; the distance from the line is looked at below.
    lhs = b * e[2] - e[:2]
    rhs = at_infinity[:, :2] - b * at_infinity[:, 2:]
    norm = (lhs**2).sum(1)
    q = (lhs * rhs).sum(1) / np.maximum(norm, 1e-300)
    scale = at_infinity[:, 2] + q * e[2]
    usable = (norm > 0) & (q > 0) & (scale > 1e-6) & (at_infinity[:, 2] > 1e-6)
    if not usable.any():
        return none
    a, b, q, scale = a[usable], b[usable], q[usable], scale[usable]
    at_infinity = at_infinity[usable]
    projected = (at_infinity[:, :2] + q[:, None] * e[:2]) / scale[:, None]
    miss = np.linalg.norm(projected - b, axis=1)
    parallax = np.linalg.norm(projected - at_infinity[:, :2] / at_infinity[:, 2:], axis=1)
    fine = (miss < _EPIPOLAR_TOLERANCE) & (parallax > _LEAST_PARALLAX)
    rays = np.concatenate([a[fine], np.ones((int(fine.sum()), 1))], 1) @ np.linalg.inv(view.K).T
    return (rays / q[fine, None]) @ view.c2w[:3, :3].T + view.center


def nearest_in_pose(
    view: PosedImage, candidates: Sequence[PosedImage], count: int
) -> list[PosedImage]:
    """Candidates that look the same way from another place, those of smallest turn first."""
    turned: list[tuple[float, int, PosedImage]] = []
    for candidate in candidates:
        if candidate is view or np.array_equal(candidate.center, view.center):
            continue
        cosine = float(np.clip(candidate.c2w[:3, 2] @ view.c2w[:3, 2], -1.0, 1.0))
        angle = float(np.degrees(np.arccos(cosine)))
        if angle < _MAX_AXIS_ANGLE:
            turned.append((angle, candidate.key, candidate))
    turned.sort(key=lambda item: item[:2])
    return [candidate for _, _, candidate in turned[:count]]

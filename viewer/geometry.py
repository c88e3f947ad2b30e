"""What the page has to guess of the world and of its cameras, from key frames and their splats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gs_decoder import Chunk, InvalidSimilarity, Similarity, split_similarity

# Worlds nearly always have a vertical axis; a hand-held camera is tilted by less than this.
_SNAP_COSINE = np.cos(np.radians(30.0))
# The page's renderer sorts by depth in 65536 steps over everything there is, its padding at the
# page's origin included: from here on the map needs an origin of its own.
_NEAR_ORIGIN_M = 100.0


@dataclass(frozen=True, slots=True)
class View:
    """What a key frame's camera sees, as far as its splats tell."""

    tan_x: float
    """Tangent of half the horizontal angle of view."""
    tan_y: float
    depth: float
    """Median depth of what it sees, in the chunk's units."""

    @property
    def fov_y(self) -> float:
        """Vertical angle of view, radians."""
        return float(2.0 * np.arctan(self.tan_y))

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.tan_x / self.tan_y


DEFAULT_VIEW = View(tan_x=0.62, tan_y=0.46, depth=2.0)


class PoseCache:
    """Poses taken apart once: at every update nearly all of them are as they were."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[np.ndarray, Similarity | None]] = {}

    def split(self, poses: Mapping[int, np.ndarray]) -> dict[int, Similarity]:
        """The (4, 4) poses that are similarities, by key; the others are left out."""
        known = self._known
        self._known = {}
        result = {}
        for key, pose in poses.items():
            entry = known.get(key)
            # Equal ones keep the first object, so that answers asked for again do not pile up.
            if entry is None or not (entry[0] is pose or np.array_equal(entry[0], pose)):
                entry = (pose, similarity_or_none(pose))
            self._known[key] = entry
            if entry[1] is not None:
                result[key] = entry[1]
        return result


def similarity_or_none(pose: np.ndarray) -> Similarity | None:
    """A (4, 4) pose taken apart, or None where it is no similarity."""
    try:
        return split_similarity(pose)
    except InvalidSimilarity:
        return None


def up_direction(poses: Sequence[np.ndarray]) -> np.ndarray:
    """(3,) unit vector: where up probably is, from (4, 4) camera-to-world OpenCV poses.

    The mean of the cameras' own up directions, or the world axis that is close to it.
    """
    up = -np.sum([pose[:3, 1] / np.linalg.norm(pose[:3, 1]) for pose in poses], axis=0)
    length = float(np.linalg.norm(up))
    if length < 0.2 * len(poses):
        return np.array([0.0, 0.0, 1.0])
    up /= length
    axis = int(np.argmax(np.abs(up)))
    if abs(up[axis]) >= _SNAP_COSINE:
        return np.sign(up[axis]) * np.eye(3)[axis]
    return up


def page_origin(position: np.ndarray) -> np.ndarray:
    """(3,) float64 whole metres: the world point at the page's origin, for a map that begins at
    `position`; zeros unless it begins far away."""
    if float(np.abs(position).max()) <= _NEAR_ORIGIN_M:
        return np.zeros(3)
    return np.round(position)


def estimate_view(chunk: Chunk) -> View | None:
    """The view of a chunk's key frame, whose pixels the splats were; None for too few of them.

    Updates carry no intrinsics: the angle of view is that of the cone that holds the splats.
    """
    means = chunk.splats.to_numpy()["means"]
    means = means[means[:, 2] > 1e-6]
    if len(means) < 50:
        return None
    slopes = np.abs(means[:, :2] / means[:, 2:])
    tan_x, tan_y = np.clip(np.quantile(slopes, 0.995, axis=0), 0.05, 5.0)
    return View(float(tan_x), float(tan_y), float(np.median(means[:, 2])))

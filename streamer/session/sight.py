"""Which chunks a camera may see: spheres around their splats against its pyramid of sight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Splats
from gs_decoder.refine import RefineView

Float64 = NDArray[np.float64]

_CORE = 0.9
"""Share of a chunk's splats that its sphere holds: a few far ones would make it see-all."""
_DEEP, _BEHIND = 0.95, 1.1
"""What lies this factor behind this quantile of the depths is hidden."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A frame's camera: `c2w` (4, 4) rigid, `K` (3, 3) in pixels, image size; beyond `far`, world
    units, everything is hidden."""

    c2w: Float64
    K: Float64
    width: int
    height: int
    far: float = math.inf


@dataclass(frozen=True, slots=True)
class Reach:
    """A sphere in a chunk's own frame."""

    centre: tuple[float, float, float]
    radius: float


def reach_of(splats: Splats) -> Reach:
    """Around the middle of a chunk's splats, at least one."""
    means = splats.means.numpy().astype(np.float64)
    centre = np.median(means, axis=0)
    radius = float(np.quantile(np.linalg.norm(means - centre, axis=1), _CORE))
    return Reach((float(centre[0]), float(centre[1]), float(centre[2])), radius)


def spheres(reaches: Sequence[Reach], poses: Sequence[Float64]) -> tuple[Float64, Float64]:
    """In the world: centres (N, 3) and radii (N,).

    Args:
        poses: each chunk's similarity, (4, 4).
    """
    if not reaches:
        return np.zeros((0, 3)), np.zeros(0)
    T = np.stack(poses)
    local = np.array([reach.centre for reach in reaches])
    centres = np.einsum("nij,nj->ni", T[:, :3, :3], local) + T[:, :3, 3]
    radii = np.array([reach.radius for reach in reaches]) * np.cbrt(np.linalg.det(T[:, :3, :3]))
    return centres, radii


class Sight:
    """What V cameras see."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self._count = len(cameras)
        self._poses = np.array([camera.c2w for camera in cameras]).reshape(-1, 4, 4)
        self._borders = np.array([_borders(camera) for camera in cameras]).reshape(-1, 5, 3)
        self._far = np.array([camera.far for camera in cameras])[:, None]

    @classmethod
    def of(cls, views: Iterable[RefineView]) -> Sight:
        """The cameras of views under refinement."""
        return cls([Camera(v.c2w, v.K, v.image.shape[1], v.image.shape[0], v.far) for v in views])

    def sizes(self, centres: Float64, radii: Float64) -> Float64:
        """(V, N) how large each of N spheres looks to each camera, radius over distance.

        0 outside of the picture or where the centre is hidden, infinite around the camera.
        """
        if self._count == 0:
            return np.zeros((0, len(centres)))
        offsets = centres[None] - self._poses[:, None, :3, 3]
        local = np.einsum("vnj,vji->vni", offsets, self._poses[:, :3, :3])
        distance = np.linalg.norm(local, axis=2)
        inside = (np.einsum("vnj,vbj->vbn", local, self._borders) > -radii).all(axis=1)
        inside |= distance <= radii
        inside &= local[..., 2] < self._far
        size = np.where(distance > radii, radii / np.maximum(distance, 1e-12), np.inf)
        return np.where(inside, size, 0.0)


def farthest(map_depth: NDArray[np.float32]) -> float:
    """How far a frame sees, from the map's (H, W) depth there, 0 where there is none: infinitely,
    unless the map fills half of it."""
    filled = map_depth[map_depth > 0.0]
    if 2 * len(filled) < map_depth.size:
        return math.inf
    return _BEHIND * float(np.quantile(filled, _DEEP))


def _borders(camera: Camera) -> Float64:
    """(5, 3) inward normals of the planes through the picture's borders, and the one ahead."""
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    normals = np.array(
        [
            [fx, 0.0, cx],
            [-fx, 0.0, camera.width - cx],
            [0.0, fy, cy],
            [0.0, -fy, camera.height - cy],
            [0.0, 0.0, 1.0],
        ]
    )
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)

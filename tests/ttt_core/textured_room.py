"""Views of a corner of textured walls, ray-traced exactly: pictures, cameras and true depth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ttt_core import ViewBatch

# walls as (unit normal n, offset d): n . x = d
_WALLS = (
    (np.array([0.0, 0.0, 1.0]), 4.0),
    (np.array([0.8, 0.0, 0.6]), 3.6),
    (np.array([0.0, 1.0, 0.0]), 1.2),
)
_DIRECTIONS = np.random.default_rng(3).normal(size=(48, 3))
_FREQUENCIES = np.geomspace(1.5, 18, 48)
_PHASES = np.random.default_rng(4).uniform(0, 2 * np.pi, (48, 3))
_TINTS = np.random.default_rng(5).uniform(0.4, 1, (48, 3))


def _texture(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) places -> (N, 3) colours 0..1: waves of many lengths in many directions."""
    waves = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
    angle = points @ (waves * _FREQUENCIES[:, None]).T
    signal = sum(
        _TINTS[k] * np.sin(angle[:, k, None] + _PHASES[k]) / np.sqrt(k + 4)
        for k in range(len(_FREQUENCIES))
    )
    return 1 / (1 + np.exp(-1.5 * signal))


def camera_path(count: int, *, step: float = 0.12) -> NDArray[np.float64]:
    """(count, 4, 4) camera to world: a sideways walk that looks at the corner."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for k, pose in enumerate(poses):
        yaw = -0.05 * np.sin(0.7 * k)
        cos, sin = np.cos(yaw), np.sin(yaw)
        pose[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
        pose[:3, 3] = [step * k, 0.05 * np.sin(k), 0.04 * np.cos(1.3 * k)]
    return poses


def view_batch(
    keys: range,
    *,
    height: int = 48,
    width: int = 64,
    world: NDArray[np.float64] | None = None,
    wallpaper: float = 0.0,
) -> tuple[ViewBatch, torch.Tensor]:
    """Views number `keys` of the path, and their true depth (V, H, W).

    Args:
        world: (4, 4) similarity that moves the whole scene and its cameras.
        wallpaper: another number, other pictures on the same walls.
    """
    poses = camera_path(max(keys) + 1)[list(keys)]
    images, depths = zip(*(_view(key, height, width, wallpaper) for key in keys))
    scale = 1.0
    if world is not None:
        scale = float(np.cbrt(np.linalg.det(world[:3, :3])))
        poses = world @ poses
        poses[:, :3, :3] /= scale
    batch = ViewBatch(
        keys=tuple(keys),
        image=torch.from_numpy(np.stack(images)).float(),
        fxfycxcy=torch.tensor([_lens(height, width)], dtype=torch.float32).repeat(len(poses), 1),
        c2w=torch.from_numpy(poses),
    )
    return batch, torch.from_numpy(np.stack(depths) * scale).float()


def _lens(height: int, width: int) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels."""
    return 0.9 * width, 0.9 * width, 0.5 * width, 0.5 * height


# Every test walks the same path, and a view takes 20 ms.
@lru_cache(maxsize=1024)
def _view(
    key: int, height: int, width: int, wallpaper: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3, H, W) picture and (H, W) true depth; nobody writes to them."""
    pose = camera_path(key + 1)[key]
    focal, _, cx, cy = _lens(height, width)
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack(((u - cx) / focal, (v - cy) / focal, np.ones_like(u)), -1).reshape(-1, 3)
    directions = rays @ pose[:3, :3].T
    depth = np.full(len(rays), np.inf)
    for normal, offset in _WALLS:
        slope = directions @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            hit = (offset - pose[:3, 3] @ normal) / slope
        depth = np.where((slope > 1e-9) & (hit > 0) & (hit < depth), hit, depth)
    points = pose[:3, 3] + depth[:, None] * directions
    picture = _texture(points + wallpaper).T.reshape(3, height, width)
    return picture, depth.reshape(height, width)

"""A room whose walls are splats: a map with known surfaces, and the cameras that look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gs_decoder import Splats, sh_from_rgb, write_ply
from streamer.camera import CameraModel
from streamer.trajectory import write_cameras

HALF = np.array([2.0, 1.5, 1.25])
"""Half the room's sides in metres, x y z; z is up and the room's middle the origin."""
CAMERA = CameraModel.pinhole(96, 72, 70.0, 70.0, 48.0, 36.0)


def room_splats(spacing: float = 0.04, seed: int = 0, grain: float = 0.1) -> Splats:
    """Flat opaque splats on the six walls, every wall in a colour of its own with some grain."""
    generator = np.random.default_rng(seed)
    means, scales, colours = [], [], []
    for axis in range(3):
        u, v = (a for a in range(3) if a != axis)
        for sign in (-1.0, 1.0):
            grid_u, grid_v = np.meshgrid(
                np.arange(-HALF[u], HALF[u] + 1e-9, spacing),
                np.arange(-HALF[v], HALF[v] + 1e-9, spacing),
            )
            wall = np.zeros((grid_u.size, 3))
            wall[:, axis] = sign * HALF[axis]
            wall[:, u], wall[:, v] = grid_u.ravel(), grid_v.ravel()
            size = np.full((grid_u.size, 3), 0.8 * spacing)
            size[:, axis] = 0.002
            base = np.full(3, 0.25)
            base[axis] = 0.7 if sign > 0 else 0.45
            means.append(wall)
            scales.append(size)
            colours.append(base + generator.uniform(-grain, grain, (grid_u.size, 1)))
    count = sum(len(wall) for wall in means)
    return Splats(
        means=torch.from_numpy(np.concatenate(means)).float(),
        quats_wxyz=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        scales=torch.from_numpy(np.concatenate(scales)).float(),
        opacities=torch.full((count,), 0.98),
        sh=sh_from_rgb(torch.from_numpy(np.concatenate(colours)).float())[:, None],
    )


def room_poses(count: int = 16) -> np.ndarray:
    """(count, 4, 4) cameras on a small circle, level, looking outward all around."""
    poses = []
    for turn in np.linspace(0.0, 2.0 * np.pi, count, endpoint=False):
        forward = np.array([np.cos(turn), np.sin(turn), 0.15 * np.sin(3 * turn)])
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = 0.4 * forward
        poses.append(pose)
    return np.stack(poses)


def write_room(
    folder: Path, origin: tuple[float, float, float] = (0.0, 0.0, 0.0), views: int = 16
) -> Path:
    """`map.ply` and `cameras.json` of the room, its middle at `origin`; the map's path."""
    write_ply(folder / "map.ply", room_splats(), offset=origin)
    poses = room_poses(views)
    poses[:, :3, 3] += origin
    names = [f"{number:04d}.jpg" for number in range(len(poses))]
    write_cameras(folder / "cameras.json", list(poses), [CAMERA] * len(poses), names)
    return folder / "map.ply"

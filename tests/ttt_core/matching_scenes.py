"""A box before a wall, ray-cast with exact depth, for tests of the matching prior."""

from __future__ import annotations

import cv2
import numpy as np

from ttt_core.matching import PosedImage

HEIGHT, WIDTH = 96, 128
FOCAL = 120.0
WALL_Z = 4.0
BOX = (np.array([-0.7, -0.5, 2.4]), np.array([0.6, 0.7, 3.2]))


def intrinsics() -> np.ndarray:
    return np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])


def look(center: tuple[float, float, float], yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """(4,4) camera-to-world at `center`, turned right by `yaw` and up by `pitch` (radians)."""
    c, s = np.cos(yaw), np.sin(yaw)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(pitch), np.sin(pitch)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c2w = np.eye(4)
    c2w[:3, :3] = about_y @ about_x
    c2w[:3, 3] = center
    return c2w


def _noise(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.zeros((512, 512), np.float32)
    for size, weight in ((512, 0.5), (256, 0.8), (128, 1.0), (32, 1.0)):
        layer = rng.standard_normal((size, size)).astype(np.float32)
        picture += weight * cv2.resize(layer, (512, 512), interpolation=cv2.INTER_CUBIC)
    return np.clip(0.5 + 0.12 * picture, 0.0, 1.0)


_TEXTURES = [_noise(seed) for seed in range(4)]


def _paint(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Texture at surface coordinates (world units), 48 texels a unit, repeated every 10.7 units."""
    x = np.mod(u * 48.0, 511.0).astype(np.float32)
    y = np.mod(v * 48.0, 511.0).astype(np.float32)
    return cv2.remap(texture, x, y, cv2.INTER_LINEAR)


def cast(c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey picture (H,W) float32 and true z-depth (H,W) of the scene, seen from `c2w`."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics()).T @ c2w[:3, :3].T
    origin = c2w[:3, 3]
    depth = (WALL_Z - origin[2]) / rays[..., 2]
    place = origin + depth[..., None] * rays
    gray = _paint(_TEXTURES[0], place[..., 0] + 5.0, place[..., 1] + 5.0)
    with np.errstate(divide="ignore"):
        enter, leave = (BOX[0] - origin) / rays, (BOX[1] - origin) / rays
    near = np.minimum(enter, leave)
    first, last = near.max(-1), np.maximum(enter, leave).min(-1)
    axis = near.argmax(-1)
    hit = (first < last) & (first > 0) & (first < depth)
    depth = np.where(hit, first, depth)
    place = origin + depth[..., None] * rays
    for k in range(3):
        u, v = (place[..., i] for i in range(3) if i != k)
        gray = np.where(hit & (axis == k), _paint(_TEXTURES[1 + k], u + 5.0, v + 5.0), gray)
    return gray.astype(np.float32), depth.astype(np.float32)


def view(key: int, c2w: np.ndarray, scale: float = 1.0, **more: object) -> PosedImage:
    """What the prior is given of the scene from `c2w`, in a world `scale` times as large."""
    moved = c2w.copy()
    moved[:3, 3] *= scale
    return PosedImage(key, cast(c2w)[0], intrinsics(), moved, **more)  # type: ignore[arg-type]


POSES = [
    look((0.0, 0.0, 0.0)),
    look((0.35, 0.05, 0.0), yaw=-0.08),
    look((-0.35, -0.05, 0.1), yaw=0.08),
    look((0.05, 0.3, 0.05), pitch=0.06),
]


def scene(scale: float = 1.0) -> tuple[list[PosedImage], list[np.ndarray]]:
    """Four views of the scene and their true depths."""
    views = [view(k, pose, scale) for k, pose in enumerate(POSES)]
    return views, [cast(pose)[1] * scale for pose in POSES]

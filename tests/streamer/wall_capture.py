"""A scene with known answers: a wall of splats at z = 2, seen by a camera that walks along x."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder import Splats, rasterize, sh_from_rgb, write_ply

WIDTH, HEIGHT, FOCAL = 96, 64, 100.0
DISTANCE = 2.0
STEP = 0.03
FRAMES = 17
K = np.array([[FOCAL, 0.0, WIDTH / 2], [0.0, FOCAL, HEIGHT / 2], [0.0, 0.0, 1.0]])


def wall(distance: float = DISTANCE) -> Splats:
    """Splats of random colour, flat along z, that close the view of every camera."""
    x, y = np.meshgrid(np.linspace(-1.6, 2.2, 40), np.linspace(-1.0, 1.0, 22))
    count = x.size
    random = np.random.default_rng(3)
    means = np.stack([x.ravel(), y.ravel(), np.full(count, distance)], 1)
    scales = np.tile([0.06, 0.06, 1e-4], (count, 1))
    return Splats(
        means=torch.from_numpy(means).float(),
        quats_wxyz=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        scales=torch.from_numpy(scales).float(),
        opacities=torch.full((count,), 0.95),
        sh=sh_from_rgb(torch.from_numpy(random.uniform(0.25, 0.6, (count, 3))).float())[:, None],
    )


def shifted(splats: Splats, x: float) -> Splats:
    return replace(splats, means=splats.means + torch.tensor([x, 0.0, 0.0]))


def camera(frame: int) -> NDArray[np.float64]:
    """(4, 4) camera to world, OpenCV axes."""
    c2w = np.eye(4)
    c2w[0, 3] = STEP * frame
    return c2w


def reference(splats: Splats, frame: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """rgb (H, W, 3) and depth (H, W) by the plain reference, in double precision."""
    double = Splats(
        **{
            name: getattr(splats, name).double()
            for name in ("means", "quats_wxyz", "scales", "opacities", "sh")
        }
    )
    rgb, depth, _ = rasterize(
        double.means,
        double.quats_wxyz,
        double.scales,
        double.opacities,
        double.sh,
        torch.from_numpy(np.linalg.inv(camera(frame))),
        torch.from_numpy(K),
        WIDTH,
        HEIGHT,
        sh_degree=0,
        background=torch.zeros(3, dtype=torch.float64),
        backend="reference",
    )
    return rgb.numpy(), depth.numpy()


@functools.cache
def seen_wall(frame: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`reference` of the wall itself."""
    return reference(wall(), frame)


def write_wall(root: Path, gains: NDArray[np.float64] | None = None) -> Path:
    """The capture with sensor depth, and `wall.ply` in it; `gains` (FRAMES,) brighten frames."""
    (root / "images").mkdir(parents=True)
    (root / "depth").mkdir()
    gains = np.ones(FRAMES) if gains is None else gains
    frames = []
    for number in range(FRAMES):
        rgb, depth = seen_wall(number)
        level = np.clip(rgb * gains[number], 0.0, 1.0)
        picture = np.round(level * 255.0).astype(np.uint8)
        assert cv2.imwrite(str(root / f"images/{number:02}.png"), picture[..., ::-1])
        millimetres = np.round(depth * 1000.0).astype(np.uint16)
        assert cv2.imwrite(str(root / f"depth/{number:02}.png"), millimetres)
        pose = camera(number)
        pose[:3, 1:3] *= -1.0  # OpenGL axes
        frames.append(
            {
                "file_path": f"images/{number:02}.png",
                "depth_file_path": f"depth/{number:02}.png",
                "transform_matrix": pose.tolist(),
            }
        )
    document = {
        "camera_model": "PINHOLE",
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": FOCAL,
        "fl_y": FOCAL,
        "cx": WIDTH / 2,
        "cy": HEIGHT / 2,
        "frames": frames,
    }
    (root / "transforms.json").write_text(json.dumps(document))
    write_ply(root / "wall.ply", wall())
    return root


def picture_of(root: Path, frame: int) -> NDArray[np.float64]:
    """(H, W, 3) RGB 0..1 as it lies on disk."""
    picture = cv2.imread(str(root / f"images/{frame:02}.png"))
    assert picture is not None
    return picture[..., ::-1].astype(np.float64) / 255.0

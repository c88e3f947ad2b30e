"""Tiny captures of every layout, written without the code that reads them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT = 32, 24

# World-to-camera of three pictures: quaternion wxyz and translation, OpenCV axes.
_H = float(np.sqrt(0.5))
W2C = [
    ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 2.0)),
    ((_H, 0.0, _H, 0.0), (1.0, 0.0, 0.0)),
    ((_H, 0.0, 0.0, _H), (0.0, 3.0, 0.0)),
]
# Their camera-to-world, worked out by hand: R transposed, −Rᵀ t.
C2W = [
    np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1.0]]),
    np.array([[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, -1], [0, 0, 0, 1.0]]),
    np.array([[0, 1, 0, -3], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
]


def write_picture(path: Path, level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    picture[:, :, 2] = np.arange(WIDTH) * 7
    assert cv2.imwrite(str(path), picture)


def write_depth(path: Path, steps: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), steps, np.uint16))


def transforms(frames: int = 3, **fields: Any) -> dict[str, Any]:
    """A transforms.json of cameras 1 m apart that all look along the world's −z, up is +y."""
    document: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": 30.0,
        "fl_y": 31.0,
        "cx": 16.5,
        "cy": 11.5,
        "frames": [],
    }
    document.update(fields)
    for i in range(frames):
        pose = np.eye(4)
        pose[0, 3] = float(i)
        document["frames"].append(
            {"file_path": f"images/{i:03}.png", "transform_matrix": pose.tolist()}
        )
    return document


def write_nerfstudio(root: Path, document: dict[str, Any] | None = None) -> Path:
    """Writes ``document`` and a picture for every file name in it that has a suffix."""
    document = transforms() if document is None else document
    root.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(document["frames"]):
        name = frame.get("file_path", "")
        if Path(name).suffix:
            write_picture(root / name, 50 + i)
    (root / "transforms.json").write_text(json.dumps(document))
    return root


def write_tum(root: Path, seconds: float = 1.0) -> Path:
    """Pictures 0.1 s apart, depth 5 ms late, poses of 1 m/s along x every 0.04 s, with turning."""
    root.mkdir(parents=True, exist_ok=True)
    rgb = ["# color images"]
    depth = ["# depth maps"]
    for i in range(round(seconds * 10)):
        time = 100.0 + 0.1 * i
        write_picture(root / f"rgb/{time:.6f}.png", i)
        write_depth(root / f"depth/{time + 0.005:.6f}.png", 5000 + i)
        rgb.append(f"{time:.6f} rgb/{time:.6f}.png")
        depth.append(f"{time + 0.005:.6f} depth/{time + 0.005:.6f}.png")
    poses = ["# timestamp tx ty tz qx qy qz qw"]
    for i in range(round(seconds * 25) + 1):
        time = 99.99 + 0.04 * i
        angle = 0.5 * (time - 100.0)
        poses.append(
            f"{time:.4f} {time - 100.0:.6f} 2 3 0 {np.sin(angle / 2):.9f} 0 {np.cos(angle / 2):.9f}"
        )
    (root / "rgb.txt").write_text("\n".join(rgb) + "\n")
    (root / "depth.txt").write_text("\n".join(depth) + "\n")
    (root / "groundtruth.txt").write_text("\n".join(poses) + "\n")
    return root


COLMAP_CAMERAS: dict[int, tuple[str, int, tuple[float, ...]]] = {
    # id: (name, COLMAP's number of the model, params)
    1: ("OPENCV", 4, (30.0, 31.0, 16.5, 11.5, 0.01, 0.002, 1e-3, -1e-3)),
    7: ("SIMPLE_RADIAL", 2, (28.0, 16.0, 12.0, 0.05)),
}
# In a file in another order than by name.
COLMAP_IMAGES = [(5, "b/0002.png", 7, W2C[1]), (9, "c.png", 1, W2C[2]), (2, "a.png", 1, W2C[0])]


def write_colmap_pictures(root: Path) -> None:
    for _, name, _, _ in COLMAP_IMAGES:
        write_picture(root / "images" / name)


def write_colmap_text(
    root: Path,
    folder: str = "sparse/0",
    cameras: dict[int, tuple[str, int, tuple[float, ...]]] = COLMAP_CAMERAS,
) -> Path:
    model = root / folder
    model.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list with one line of data per camera:"]
    for camera, (name, _, params) in cameras.items():
        lines.append(f"{camera} {name} {WIDTH} {HEIGHT} {' '.join(map(repr, params))}")
    (model / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:", "#   IMAGE_ID, QW, QX, …"]
    for image, name, camera, (quat, t) in COLMAP_IMAGES:
        lines.append(f"{image} {' '.join(map(repr, (*quat, *t)))} {camera} {name}")
        lines.append("10.5 3.25 -1 11.0 4.5 17" if image == 5 else "")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("17 0.1 0.2 3.0 255 0 0 0.5 5 1\n")
    write_colmap_pictures(root)
    return root


def write_colmap_binary(root: Path, folder: str = "sparse/0") -> Path:
    model = root / folder
    model.mkdir(parents=True, exist_ok=True)
    data = struct.pack("<Q", len(COLMAP_CAMERAS))
    for camera, (_, number, params) in COLMAP_CAMERAS.items():
        data += struct.pack("<IiQQ", camera, number, WIDTH, HEIGHT)
        data += b"".join(struct.pack("<d", value) for value in params)
    (model / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(COLMAP_IMAGES))
    for image, name, camera, (quat, t) in COLMAP_IMAGES:
        data += struct.pack("<I4d3dI", image, *quat, *t, camera) + name.encode() + b"\x00"
        points = [(10.5, 3.25, 2**64 - 1), (11.0, 4.5, 17)] if image == 5 else []
        data += struct.pack("<Q", len(points))
        data += b"".join(struct.pack("<ddQ", *point) for point in points)
    (model / "images.bin").write_bytes(data)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    write_colmap_pictures(root)
    return root

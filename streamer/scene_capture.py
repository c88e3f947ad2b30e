"""A generated scene as a capture: pictures, depth and poses that every command can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer.conventions import to_opencv
from streamer.sources.nerfstudio import FILE, MILLIMETRES

if TYPE_CHECKING:
    from ttt_core.scenes import SceneSequence

_FARTHEST_M = 65.0  # what 16 bits of millimetres hold


def write_capture(sequence: SceneSequence, folder: Path) -> None:
    """Writes `sequence` as a nerfstudio capture: PNG pictures, 16-bit depth in millimetres.

    Sky, and what lies beyond 65 m, has no depth.

    Raises:
        FileExistsError: `folder` holds a capture already.
    """
    if (folder / FILE).exists():
        raise FileExistsError(f"{folder} holds a capture already: name another folder")
    for name in ("images", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    frames = []
    for i, (image, depth, c2w) in enumerate(
        zip(sequence.image, sequence.depth.numpy(), sequence.c2w.numpy())
    ):
        near = np.where(depth <= _FARTHEST_M, depth, 0.0)
        files = {"file_path": f"images/{i:05}.png", "depth_file_path": f"depth/{i:05}.png"}
        rgb = image.permute(1, 2, 0).numpy()
        millimetres = np.rint(near / MILLIMETRES).astype(np.uint16)
        cv2.imwrite(str(folder / files["file_path"]), rgb[..., ::-1])
        cv2.imwrite(str(folder / files["depth_file_path"]), millimetres)
        # two axes change their signs: the same there and back
        frames.append({**files, "transform_matrix": to_opencv(c2w, "opengl").tolist()})
    fx, fy, cx, cy = sequence.fxfycxcy[0].double().tolist()
    height, width = sequence.depth.shape[1:]
    document = {
        "camera_model": "PINHOLE",
        "w": width,
        "h": height,
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "frames": frames,
    }
    (folder / FILE).write_text(json.dumps(document, indent=1) + "\n")

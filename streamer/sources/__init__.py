"""Recorded captures as a source of frames: nerfstudio, TUM RGB-D and COLMAP layouts."""

from __future__ import annotations

from pathlib import Path

from streamer.sources import colmap, nerfstudio, tum
from streamer.sources.capture import (
    Capture,
    CaptureError,
    CaptureFrame,
    images_below,
    parse_range,
    session_name,
)
from streamer.sources.load import load_frame, read_depth, read_image, read_mask

__all__ = [
    "Capture",
    "CaptureError",
    "CaptureFrame",
    "load_frame",
    "open_capture",
    "parse_range",
    "read_depth",
    "read_image",
    "read_mask",
    "session_name",
]


def open_capture(path: str | Path) -> Capture:
    """Opens a recorded capture; the layout is recognised by its files (docs/captures.md).

    Only text and model files are read, and every image that they name is looked for. Images are
    read one at a time by `load_frame`.

    Raises:
        CaptureError: not a capture, empty, without poses or intrinsics, or a file is missing.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise CaptureError(f"{root}: there is no such file or folder")
    if nerfstudio.recognises(root):
        return nerfstudio.open_nerfstudio(root)
    if root.is_dir() and tum.recognises(root):
        return tum.open_tum(root)
    if root.is_dir() and (model := colmap.find_model(root)) is not None:
        return colmap.open_colmap(root, model)
    images = images_below(root) if root.is_dir() else []
    if images:
        raise CaptureError(
            f"{root}: {len(images)} images but no poses (no transforms.json, no groundtruth.txt, "
            "no COLMAP model). Poses are needed: this version does not track cameras itself. "
            "Make them with COLMAP or nerfstudio's ns-process-data and open what it writes"
        )
    raise CaptureError(
        f"{root}: not a capture. A folder is needed with a transforms.json (nerfstudio), with "
        "rgb.txt and groundtruth.txt (TUM RGB-D), or with a COLMAP model (cameras and images, "
        ".txt or .bin, here or in sparse/0)"
    )

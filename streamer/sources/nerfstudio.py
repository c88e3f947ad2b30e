"""nerfstudio's `transforms.json` (https://docs.nerf.studio/quickstart/data_conventions.html).

Also what instant-ngp and Blender's NeRF scenes write, where intrinsics are given as an angle and
file names lack their suffix. Poses are camera-to-world with OpenGL camera axes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamer.camera import CameraError, CameraModel
from streamer.conventions import PoseError, check_pose, to_opencv
from streamer.sources.capture import (
    DEFAULT_INTERVAL_NS,
    IMAGE_SUFFIXES,
    Capture,
    CaptureError,
    CaptureFrame,
    assign_cameras,
    check_files,
    image_size,
    nanoseconds,
)
from streamer.suggest import did_you_mean

FILE = "transforms.json"
MODELS = {
    "PINHOLE": "PINHOLE",
    "SIMPLE_PINHOLE": "PINHOLE",
    "OPENCV": "OPENCV",
    "PERSPECTIVE": "OPENCV",
    "OPENCV_FISHEYE": "OPENCV_FISHEYE",
    "SIMPLE_RADIAL": "SIMPLE_RADIAL",
    "FULL_OPENCV": "FULL_OPENCV",
}
# nerfstudio's own default where a depth image names no unit.
MILLIMETRES = 0.001


def recognises(path: Path) -> bool:
    """Whether ``path`` is a transforms file or a folder that holds one."""
    return path.suffix == ".json" if path.is_file() else (path / FILE).is_file()


def open_nerfstudio(path: Path) -> Capture:
    """Reads a `transforms.json`, given itself or by its folder.

    Intrinsics may stand once in the file, in each frame, or mixed (the frame's win). Times come
    from `timestamp` (seconds) or `stamp_ns`; without them frames are 0.1 s apart.

    Raises:
        CaptureError: names the file, the field and what to do.
    """
    listing = path if path.is_file() else path / FILE
    root = listing.parent
    document = _read(listing)
    entries = _entries(listing, document)
    if not entries:
        raise CaptureError(f"{listing}: the capture is empty: `frames` holds no frame")
    posed = [entry for entry in entries if entry.get("transform_matrix") is not None]
    if not posed:
        raise CaptureError(
            f"{listing}: no frame has a transform_matrix. Poses are needed: this version does not "
            "track cameras itself; make them with COLMAP or nerfstudio's ns-process-data"
        )
    images = [_image_path(listing, i, entry) for i, entry in enumerate(entries)]
    depths = [
        _optional_path(listing, i, entry, "depth_file_path") for i, entry in enumerate(entries)
    ]
    masks = [_optional_path(listing, i, entry, "mask_path") for i, entry in enumerate(entries)]
    check_files(
        listing,
        [
            (f"frames[{i}].{field}", file)
            for field, files in (
                ("file_path", images),
                ("depth_file_path", depths),
                ("mask_path", masks),
            )
            for i, file in enumerate(files)
            if file is not None
        ],
    )
    models: dict[CameraModel, str] = {}
    of_frames = []
    for i, entry in enumerate(entries):
        camera = _camera(listing, f"frames[{i}]", {**document, **entry}, images[i])
        of_frames.append((models.setdefault(camera, f"camera{len(models)}"), camera))
    cameras, assigned = assign_cameras(of_frames)
    unit_m = _number(f"{listing}: ", document, "depth_unit_scale_factor", MILLIMETRES)
    frames = tuple(
        CaptureFrame(
            index=i,
            stamp_ns=_stamp_ns(listing, i, entry),
            camera=assigned[i][0],
            params=assigned[i][1],
            image_path=images[i],
            c2w=_pose(listing, i, entry),
            depth_path=depths[i],
            depth_unit_m=unit_m,
            mask_path=masks[i],
            mask_ignores_nonzero=False,
        )
        for i, entry in enumerate(entries)
    )
    return Capture(name=root.resolve().name, layout="nerfstudio", cameras=cameras, frames=frames)


def read_poses(
    listing: Path, document: Mapping[str, Any]
) -> list[tuple[int, np.ndarray, CameraModel | None]]:
    """(stamp in ns, camera-to-world, camera) of every frame that has a pose; no image is needed.

    The camera is None where the file does not state size and focal length.

    Raises:
        CaptureError: names the file and the field.
    """
    entries = _entries(listing, document)
    frames = []
    for i, entry in enumerate(entries):
        if entry.get("transform_matrix") is None:
            continue
        fields = {**document, **entry}
        stated = {"w", "h"} <= fields.keys() and {"fl_x", "fl_y", "camera_angle_x"} & fields.keys()
        camera = _camera(listing, f"frames[{i}]", fields, None) if stated else None
        frames.append((_stamp_ns(listing, i, entry), _pose(listing, i, entry), camera))
    if not frames:
        raise CaptureError(f"{listing}: no frame has a transform_matrix: it holds no poses")
    return frames


def _read(listing: Path) -> dict[str, Any]:
    try:
        document = json.loads(listing.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise CaptureError(f"{listing}: is not a text file") from None
    except json.JSONDecodeError as error:
        raise CaptureError(
            f"{listing}: is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    if not isinstance(document, dict):
        raise CaptureError(f"{listing}: holds no map with `frames`")
    return document


def _entries(listing: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = document.get("frames")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CaptureError(f"{listing}: `frames` is not a list of frames")
    return entries


def _image_path(listing: Path, i: int, entry: Mapping[str, Any]) -> Path:
    file = _optional_path(listing, i, entry, "file_path")
    if file is None:
        raise CaptureError(f"{listing}: frames[{i}] has no file_path; name its image")
    if not file.is_file():
        # Blender's scenes name images without their suffix.
        for suffix in IMAGE_SUFFIXES:
            candidate = file.with_name(file.name + suffix)
            if candidate.is_file():
                return candidate
    return file


def _optional_path(listing: Path, i: int, entry: Mapping[str, Any], field: str) -> Path | None:
    value = entry.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise CaptureError(f"{listing}: frames[{i}].{field} is {value!r}, not a file name")
    return listing.parent / value


def _pose(listing: Path, i: int, entry: Mapping[str, Any]) -> Any:
    field = f"frames[{i}].transform_matrix"
    value = entry.get("transform_matrix")
    if value is None:
        raise CaptureError(
            f"{listing}: {field} is missing, other frames have one; add it or remove the frame"
        )
    try:
        return to_opencv(check_pose(value, field), "opengl")
    except PoseError as error:
        raise CaptureError(f"{listing}: {error}") from None


def _stamp_ns(listing: Path, i: int, entry: Mapping[str, Any]) -> int:
    stamp = entry.get("stamp_ns")
    if stamp is not None:
        if isinstance(stamp, int) and 0 <= stamp < 2**63:
            return stamp
        raise CaptureError(f"{listing}: frames[{i}].stamp_ns is {stamp!r}, not int64 nanoseconds")
    if "timestamp" not in entry:
        return i * DEFAULT_INTERVAL_NS
    seconds = _number(f"{listing}: frames[{i}].", entry, "timestamp")
    try:
        return nanoseconds(seconds)
    except CaptureError:
        raise CaptureError(
            f"{listing}: frames[{i}].timestamp is {seconds:g}; it is read as seconds, "
            "nanoseconds go into stamp_ns"
        ) from None


def _camera(
    listing: Path, where: str, fields: Mapping[str, Any], image: Path | None
) -> CameraModel:
    """The intrinsics of one frame; ``fields`` are the file's, overruled by the frame's.

    The image says the size where ``fields`` do not.
    """
    stated = str(fields.get("camera_model", "OPENCV"))
    if stated.upper() not in MODELS:
        raise CaptureError(
            f"{listing}: camera_model {stated!r} is not supported: {did_you_mean(stated, MODELS)}"
        )
    model = MODELS[stated.upper()]

    def number(key: str, default: float | None = None) -> float:
        return _number(f"{listing}: {where}: ", fields, key, default)

    if "w" in fields and "h" in fields:
        width, height = round(number("w")), round(number("h"))
    else:
        assert image is not None
        width, height = image_size(image)
    if "fl_x" in fields or "fl_y" in fields:
        fx = number("fl_x" if "fl_x" in fields else "fl_y")
        fy = number("fl_y", fx)
    elif "camera_angle_x" in fields:
        fx = 0.5 * width / math.tan(0.5 * number("camera_angle_x"))
        fy = fx
        if "camera_angle_y" in fields:
            fy = 0.5 * height / math.tan(0.5 * number("camera_angle_y"))
    else:
        raise CaptureError(
            f"{listing}: {where} has no intrinsics: fl_x (focal length in pixels) is missing, in "
            "the frame and in the file; add fl_x, fl_y, cx, cy, w, h, or camera_angle_x (radians)"
        )
    cx, cy = number("cx", width / 2), number("cy", height / 2)
    k1, k2, k3, k4, p1, p2 = (number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    params: tuple[float, ...] = (fx, fy, cx, cy, k1, k2, p1, p2)
    if model == "PINHOLE":
        params = (fx, fy, cx, cy)
    elif model == "OPENCV_FISHEYE":
        params = (fx, fy, cx, cy, k1, k2, k3, k4)
    elif model == "SIMPLE_RADIAL":
        # One focal length in COLMAP; a file that states two is an OPENCV camera with k1 alone.
        model, params = "OPENCV", (fx, fy, cx, cy, k1, 0.0, 0.0, 0.0)
        if fx == fy:
            model, params = "SIMPLE_RADIAL", (fx, cx, cy, k1)
    elif k3 or k4 or model == "FULL_OPENCV":
        model = "FULL_OPENCV"
        params = (*params, k3, k4, number("k5", 0.0), number("k6", 0.0))
    try:
        return CameraModel(model, width, height, params)
    except CameraError as error:
        raise CaptureError(f"{listing}: {where}: {error}") from None


def _number(where: str, fields: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = fields.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CaptureError(f"{where}{key} is {value!r}, a number is needed")
    return float(value)

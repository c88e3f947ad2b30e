"""COLMAP models, text and binary (https://colmap.github.io/format.html).

Poses are world-to-camera with quaternions wxyz and OpenCV axes; the pixel origin is the image's
corner. Of a model only cameras and images are read; its sparse points are not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamer.camera import PARAMETERS, CameraError, CameraModel
from streamer.conventions import PoseError, inverse_pose, pose_from_wxyz
from streamer.sources.capture import (
    DEFAULT_INTERVAL_NS,
    Capture,
    CaptureError,
    CaptureFrame,
    assign_cameras,
    check_files,
)

MODEL_FOLDERS = ("", "sparse/0", "sparse", "colmap/sparse/0", "model")
IMAGE_FOLDERS = ("images", "rgb", "")

# COLMAP's ids of its camera models and the number of their parameters.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    camera: int
    w2c: np.ndarray  # [4, 4]


def find_model(root: Path) -> Path | None:
    """The folder at or below ``root`` that holds `cameras` and `images` files of a model."""
    for folder in MODEL_FOLDERS:
        if _suffix(root / folder) is not None:
            return root / folder
    return None


def open_colmap(root: Path, model: Path) -> Capture:
    """Reads a COLMAP model; its pictures are looked for in `images/` beside or above it.

    Frames come in the order of their file names, 0.1 s apart (a model holds no time). Pictures
    that COLMAP did not register are not part of a model, so they are not part of the capture.

    Raises:
        CaptureError: names the file, the field and what to do.
    """
    suffix = _suffix(model)
    assert suffix is not None
    cameras_file, images_file = model / f"cameras{suffix}", model / f"images{suffix}"
    read_cameras, read_images = (
        (_cameras_text, _images_text) if suffix == ".txt" else (_cameras_binary, _images_binary)
    )
    cameras = read_cameras(cameras_file)
    images = sorted(read_images(images_file), key=lambda image: image.name)
    if not images:
        raise CaptureError(f"{images_file}: the capture is empty: the model holds no image")
    for image in images:
        if image.camera not in cameras:
            raise CaptureError(
                f"{images_file}: {image.name} names camera {image.camera}, which "
                f"{cameras_file.name} does not hold"
            )
    folder = _image_folder(root, model, images[0].name)
    files = [folder / image.name for image in images]
    check_files(images_file, [(image.name, file) for image, file in zip(images, files)])
    named, assigned = assign_cameras(
        [(f"camera{image.camera}", cameras[image.camera]) for image in images]
    )
    frames = tuple(
        CaptureFrame(
            index=i,
            stamp_ns=i * DEFAULT_INTERVAL_NS,
            camera=assigned[i][0],
            params=assigned[i][1],
            image_path=files[i],
            c2w=inverse_pose(image.w2c),
        )
        for i, image in enumerate(images)
    )
    return Capture(name=root.resolve().name, layout="colmap", cameras=named, frames=frames)


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
            return suffix
    return None


def _image_folder(root: Path, model: Path, first: str) -> Path:
    tried = [
        folder / name
        for folder in (root, *list(model.resolve().parents)[:3])
        for name in IMAGE_FOLDERS
    ]
    for folder in tried:
        if (folder / first).is_file():
            return folder
    raise CaptureError(
        f"{model}: its picture {first} is not there; looked in "
        f"{', '.join(str(folder) for folder in tried[:3])} and above the model; "
        "put the pictures into images/"
    )


def _camera(where: str, model: str, width: int, height: int, params: list[float]) -> CameraModel:
    """A camera of any of COLMAP's models that one of ours can hold exactly."""
    match model, params:
        case "SIMPLE_PINHOLE", [f, cx, cy]:
            model, params = "PINHOLE", [f, f, cx, cy]
        case "RADIAL", [f, cx, cy, k1, k2]:
            model, params = "OPENCV", [f, f, cx, cy, k1, k2, 0.0, 0.0]
        case "SIMPLE_RADIAL_FISHEYE", [f, cx, cy, k]:
            model, params = "OPENCV_FISHEYE", [f, f, cx, cy, k, 0.0, 0.0, 0.0]
        case "RADIAL_FISHEYE", [f, cx, cy, k1, k2]:
            model, params = "OPENCV_FISHEYE", [f, f, cx, cy, k1, k2, 0.0, 0.0]
    if model not in PARAMETERS:
        raise CaptureError(
            f"{where}: camera model {model} is not supported; run `colmap image_undistorter` and "
            "open the model that it writes"
        )
    try:
        return CameraModel(model, width, height, tuple(params))
    except CameraError as error:
        raise CaptureError(f"{where}: {error}") from None


def _image(where: str, name: str, camera: int, quat_and_t: list[float]) -> _Image:
    try:
        w2c = pose_from_wxyz(quat_and_t[:4], quat_and_t[4:])
    except PoseError as error:
        raise CaptureError(f"{where}: {error}") from None
    if not np.isfinite(w2c).all():
        raise CaptureError(f"{where}: the pose of {name} is not finite")
    return _Image(name, camera, w2c)


def _cameras_text(path: Path) -> dict[int, CameraModel]:
    cameras = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        where = f"{path}: line {number}"
        try:
            camera, width, height = int(fields[0]), int(fields[2]), int(fields[3])
            params = [float(field) for field in fields[4:]]
        except (ValueError, IndexError):
            raise CaptureError(
                f"{where} is not `CAMERA_ID MODEL WIDTH HEIGHT PARAMS…`: {line[:60]!r}"
            ) from None
        cameras[camera] = _camera(where, fields[1], width, height, params)
    return cameras


def _images_text(path: Path) -> list[_Image]:
    lines = [
        (number, line)
        for number, line in enumerate(_text(path).splitlines(), start=1)
        if not line.startswith("#")
    ]
    # Two lines an image: the second, its 2D points, may be empty and must not be skipped as such.
    while lines and not lines[0][1].strip():
        lines.pop(0)
    images = []
    for number, line in lines[::2]:
        if not line.strip():
            continue
        fields = line.split(maxsplit=9)
        where = f"{path}: line {number}"
        try:
            values = [float(field) for field in fields[1:8]]
            camera, name = int(fields[8]), fields[9]
        except (ValueError, IndexError):
            raise CaptureError(
                f"{where} is not `IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME`: {line[:60]!r}"
            ) from None
        images.append(_image(where, name.strip(), camera, values))
    return images


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CaptureError(f"{path}: is not a text file") from None


def _cameras_binary(path: Path) -> dict[int, CameraModel]:
    take = _reader(path)
    cameras = {}
    for _ in range(take("Q")[0]):
        camera, model, width, height = take("iiQQ")
        if model not in _MODELS:
            raise CaptureError(f"{path}: camera {camera} has the unknown model id {model}")
        name, count = _MODELS[model]
        params = [float(value) for value in take(f"{count}d")]
        cameras[int(camera)] = _camera(f"{path}: camera {camera}", name, width, height, params)
    return cameras


def _images_binary(path: Path) -> list[_Image]:
    take = _reader(path)
    images = []
    for _ in range(take("Q")[0]):
        image, *values, camera = take("I7dI")
        name = bytearray()
        while (character := take("c")[0]) != b"\0":
            name += character
        take(f"{24 * take('Q')[0]}x")
        images.append(
            _image(f"{path}: image {image}", name.decode("utf-8", "replace"), camera, values)
        )
    return images


def _reader(path: Path) -> Callable[[str], tuple]:
    """A function that takes the next little-endian fields off a file."""
    data = memoryview(path.read_bytes())
    position = 0

    def take(fields: str) -> tuple:
        nonlocal position
        try:
            values = struct.unpack_from("<" + fields, data, position)
        except struct.error:
            raise CaptureError(
                f"{path}: ends after {len(data)} bytes in the middle of an entry; "
                "it is truncated, copy it again"
            ) from None
        position += struct.calcsize("<" + fields)
        return values

    return take

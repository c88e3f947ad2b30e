"""The TUM RGB-D layout: `rgb.txt`, `depth.txt`, `groundtruth.txt`.

Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012, and the file
formats and intrinsics of https://cvg.cit.tum.de/data/datasets/rgbd-dataset. Poses are those of the
colour camera's optical frame, quaternions xyzw; depth images are registered to the colour images,
5000 steps a metre.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from streamer.camera import CameraError, CameraModel
from streamer.conventions import PoseError, interpolate_pose, pose_from_wxyz, wxyz_from_xyzw
from streamer.sources.capture import (
    Capture,
    CaptureError,
    CaptureFrame,
    check_files,
    image_size,
    nanoseconds,
)

DEPTH_UNIT_M = 1.0 / 5000.0
NEAREST_S = 0.02
"""Largest difference in time at which a depth image or a single pose belongs to a picture."""
BRACKET_S = 0.1
"""Largest gap between two poses that is bridged by interpolation."""

CALIBRATION_FILES = ("calibration.txt", "calib.txt")

# fx fy cx cy k1 k2 p1 p2 k3 of 640x480 pictures, as the dataset's page documents them; OpenCV's
# pixel centres (the first one at (0, 0)).
FREIBURG = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "freiburg2": (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}


def recognises(root: Path) -> bool:
    """Whether a folder holds a TUM RGB-D sequence."""
    return (root / "rgb.txt").is_file()


def open_tum(root: Path) -> Capture:
    """Reads a TUM RGB-D sequence.

    Each picture takes the pose interpolated between the two measured around it (at most 0.1 s
    apart), or the one nearest in time within 0.02 s; pictures without are left out and counted in
    `Capture.notes`. Depth is the nearest image within 0.02 s. Intrinsics come from
    `calibration.txt` (or `calib.txt`): `fx fy cx cy [k1 k2 p1 p2 [k3]]` on one line, OpenCV's
    pixel centres; without it from the dataset's documentation, by `freiburg1` … `freiburg3`
    (or `fr1` …) in the folder's name.

    Raises:
        CaptureError: names the file, the line and what to do.
    """
    listing = root / "rgb.txt"
    pictures = _read_files(listing)
    if not pictures:
        raise CaptureError(f"{listing}: the capture is empty: no line names a picture")
    times, poses = read_poses(root / "groundtruth.txt")
    depth_listing = root / "depth.txt"
    depths = _read_files(depth_listing) if depth_listing.is_file() else []
    check_files(listing, [(f"line {line}", root / name) for line, _, name in pictures])
    check_files(depth_listing, [(f"line {line}", root / name) for line, _, name in depths])
    depth_times = np.array([time for _, time, _ in depths])
    frames: list[CaptureFrame] = []
    for _, time, name in pictures:
        c2w = _pose_at(time, times, poses)
        if c2w is None:
            continue
        nearest = int(np.abs(depth_times - time).argmin()) if depths else -1
        paired = nearest >= 0 and abs(depth_times[nearest] - time) <= NEAREST_S
        frames.append(
            CaptureFrame(
                index=len(frames),
                stamp_ns=nanoseconds(time),
                camera="rgb",
                image_path=root / name,
                c2w=c2w,
                depth_path=root / depths[nearest][2] if paired else None,
                depth_unit_m=DEPTH_UNIT_M,
            )
        )
    if not frames:
        raise CaptureError(
            f"{root}: no picture of rgb.txt ({pictures[0][1]:.3f} s to {pictures[-1][1]:.3f} s) has"
            f" a pose in groundtruth.txt ({times[0]:.3f} s to {times[-1]:.3f} s) close in time; "
            "both files need the same clock"
        )
    left_out = len(pictures) - len(frames)
    camera, origin = _intrinsics(root, image_size(frames[0].image_path))
    notes = [f"intrinsics from {origin}"]
    if left_out:
        notes.append(f"{left_out} of {len(pictures)} pictures left out: no pose close in time")
    return Capture(
        name=root.resolve().name,
        layout="tum",
        cameras={"rgb": camera},
        frames=tuple(frames),
        notes=tuple(notes),
    )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, fields) of what is neither empty nor a comment."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CaptureError(
            f"{path}: is missing. Poses are needed: this version does not track cameras itself; "
            "write lines of `timestamp tx ty tz qx qy qz qw`"
        ) from None
    except UnicodeDecodeError:
        raise CaptureError(f"{path}: is not a text file") from None
    numbered = enumerate(text.splitlines(), start=1)
    split = ((number, line.replace(",", " ").split()) for number, line in numbered)
    return [(number, fields) for number, fields in split if fields and fields[0][0] != "#"]


def _read_files(path: Path) -> list[tuple[int, float, str]]:
    """(line number, seconds, file name) in order of time."""
    files = []
    for number, fields in _lines(path):
        if len(fields) != 2:
            raise CaptureError(f"{path}: line {number} is not `timestamp filename`")
        time = _numbers(path, number, fields[:1])[0]
        try:
            nanoseconds(time)
        except CaptureError as error:
            raise CaptureError(f"{path}: line {number}: {error}") from None
        files.append((number, time, fields[1]))
    return sorted(files, key=lambda file: file[1])


def read_poses(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Times [n] in seconds, rising, and camera-to-world poses.

    The file has lines of `timestamp tx ty tz qx qy qz qw`.

    Raises:
        CaptureError: names the file, the line and what is wrong.
    """
    rows = []
    for number, fields in _lines(path):
        if len(fields) != 8:
            raise CaptureError(
                f"{path}: line {number} has {len(fields)} fields, "
                "`timestamp tx ty tz qx qy qz qw` are 8"
            )
        values = _numbers(path, number, fields)
        try:
            pose = pose_from_wxyz(wxyz_from_xyzw(values[4:]), values[1:4])
        except PoseError as error:
            raise CaptureError(f"{path}: line {number}: {error}") from None
        rows.append((values[0], pose))
    if not rows:
        raise CaptureError(f"{path}: no line holds a pose")
    rows.sort(key=lambda row: row[0])
    return np.array([time for time, _ in rows]), [pose for _, pose in rows]


def _numbers(path: Path, number: int, fields: list[str]) -> list[float]:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        raise CaptureError(f"{path}: line {number}: {' '.join(fields)!r} are not numbers") from None
    if not np.isfinite(values).all():
        raise CaptureError(f"{path}: line {number}: {' '.join(fields)!r} are not finite")
    return values


def _pose_at(time: float, times: np.ndarray, poses: list[np.ndarray]) -> np.ndarray | None:
    after = int(np.searchsorted(times, time))
    if 0 < after < len(times):
        gap = float(times[after] - times[after - 1])
        if 0.0 < gap <= BRACKET_S:
            weight = float(time - times[after - 1]) / gap
            return interpolate_pose(poses[after - 1], poses[after], weight)
    nearest = int(np.abs(times - time).argmin())
    return poses[nearest] if abs(times[nearest] - time) <= NEAREST_S else None


def _intrinsics(root: Path, size: tuple[int, int]) -> tuple[CameraModel, str]:
    """The colour camera and where its numbers come from."""
    for name in CALIBRATION_FILES:
        if (root / name).is_file():
            fields = [field for _, line in _lines(root / name) for field in line]
            values = tuple(_numbers(root / name, 1, fields))
            if len(values) not in (4, 8, 9):
                raise CaptureError(
                    f"{root / name}: {len(values)} numbers; "
                    "`fx fy cx cy [k1 k2 p1 p2 [k3]]` are 4, 8 or 9"
                )
            return _camera(root / name, values, size), name
    match = re.search(r"(?:freiburg|fr)_?([123])(?!\d)", root.resolve().name)
    if match is None:
        raise CaptureError(
            f"{root}: has no intrinsics: the folder's name says no freiburg1 … freiburg3, so write "
            "a calibration.txt there with one line `fx fy cx cy [k1 k2 p1 p2 [k3]]` (pixels)"
        )
    name = f"freiburg{match[1]}"
    if size != (640, 480):
        raise CaptureError(
            f"{root}: pictures are {size[0]}x{size[1]}, the documented intrinsics of {name} hold "
            "for 640x480; write a calibration.txt with `fx fy cx cy [k1 k2 p1 p2 [k3]]`"
        )
    return _camera(root, FREIBURG[name], size), f"the documentation of {name}"


def _camera(path: Path, values: tuple[float, ...], size: tuple[int, int]) -> CameraModel:
    fx, fy, cx, cy = values[:4]
    # From OpenCV's pixel centres (0, 0) to ours (0.5, 0.5).
    params = (fx, fy, cx + 0.5, cy + 0.5, *values[4:])
    model = {4: "PINHOLE", 8: "OPENCV", 9: "FULL_OPENCV"}[len(params)]
    if model == "FULL_OPENCV":
        params = (*params, 0.0, 0.0, 0.0)
    try:
        return CameraModel(model, *size, params)
    except CameraError as error:
        raise CaptureError(f"{path}: {error}") from None

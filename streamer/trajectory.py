"""Camera poses from a file: a capture's, a SLAM system's, or those that lie beside a map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamer.camera import CameraError, CameraModel
from streamer.conventions import PoseError, check_pose
from streamer.sources import nerfstudio, open_capture, tum
from streamer.sources.capture import DEFAULT_INTERVAL_NS, nanoseconds

CAMERAS_FILE = "cameras.json"
UNKNOWN_LENS = CameraModel.pinhole(320, 240, 320.0, 320.0, 160.0, 120.0)
"""Of cameras that come without: narrow, so that the map was seen wherever it looks."""


class TrajectoryError(ValueError):
    """A file without usable poses; the message names file, place and remedy."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Poses along a way, N of them, at least one."""

    c2w: np.ndarray
    """(N, 4, 4) float64 camera-to-world, OpenCV axes."""
    stamps_ns: np.ndarray
    """(N,) int64, rising."""
    cameras: tuple[CameraModel, ...] | None = None
    """Intrinsics of every pose, where the file has them."""


def read_trajectory(path: Path) -> Trajectory:
    """Poses of a capture's folder, a `transforms.json`, a `cameras.json` or a TUM trajectory.

    Of a `transforms.json` the poses alone are needed: its images may be elsewhere. `cameras.json`
    is what Inria's 3D Gaussian Splatting and `splatstream run` write beside a map. Files without
    times are taken as 0.1 s a pose.

    Raises:
        TrajectoryError, CaptureError: not such a file, or without poses.
    """
    path = path.expanduser()
    if not path.exists():
        raise TrajectoryError(f"{path}: there is no such file or folder of camera poses")
    if path.is_dir() and not nerfstudio.recognises(path):
        capture = open_capture(path)
        return Trajectory(
            np.stack([frame.c2w for frame in capture.frames]),
            np.array([frame.stamp_ns for frame in capture.frames], np.int64),
            tuple(capture.camera_of(frame) for frame in capture.frames),
        )
    if path.is_dir() or path.suffix.lower() == ".json":
        return _read_json(path / nerfstudio.FILE if path.is_dir() else path)
    times, poses = tum.read_poses(path)
    return Trajectory(np.stack(poses), np.array([nanoseconds(float(t)) for t in times], np.int64))


def write_cameras(
    path: Path, c2w: Sequence[np.ndarray], cameras: Sequence[CameraModel], names: Sequence[str]
) -> None:
    """`cameras.json` as Inria's 3D Gaussian Splatting writes it, which viewers read.

    Poses (4, 4) camera-to-world with OpenCV axes; the layout has no room for a principal point
    beside the picture's centre, nor for distortion.
    """
    entries = []
    for number, (pose, camera, name) in enumerate(zip(c2w, cameras, names, strict=True)):
        fx, fy = camera.fxfycxcy[:2]
        entries.append(
            {
                "id": number,
                "img_name": name,
                "width": camera.width,
                "height": camera.height,
                "position": pose[:3, 3].tolist(),
                "rotation": pose[:3, :3].tolist(),
                "fx": fx,
                "fy": fy,
            }
        )
    path.write_text(json.dumps(entries) + "\n", encoding="utf-8")


def cameras_beside(map_path: Path) -> Path | None:
    """`cameras.json` beside a map, or where Inria's training leaves it (two folders up)."""
    for folder in (map_path.parent, map_path.parent.parent.parent):
        if (folder / CAMERAS_FILE).is_file():
            return folder / CAMERAS_FILE
    return None


def _read_json(path: Path) -> Trajectory:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrajectoryError(f"{path}: is not JSON ({error})") from None
    if isinstance(document, list) and document:
        return _read_cameras(path, document)
    if not isinstance(document, dict) or "frames" not in document:
        raise TrajectoryError(
            f"{path}: holds neither `frames` (transforms.json) nor a list of cameras (cameras.json)"
        )
    frames = nerfstudio.read_poses(path, document)
    cameras = [camera for _, _, camera in frames]
    order = np.argsort([stamp for stamp, _, _ in frames], kind="stable")
    known = tuple(camera for camera in cameras if camera is not None)
    return Trajectory(
        np.stack([frames[i][1] for i in order]),
        np.array([frames[i][0] for i in order], np.int64),
        tuple(known[i] for i in order) if len(known) == len(frames) else None,
    )


def _read_cameras(path: Path, entries: list[Any]) -> Trajectory:
    poses, cameras = [], []
    for number, entry in enumerate(entries):
        try:
            pose = np.eye(4)
            pose[:3, :3] = np.array(entry["rotation"], np.float64)
            pose[:3, 3] = np.array(entry["position"], np.float64)
            width, height = int(entry["width"]), int(entry["height"])
            fx, fy = float(entry["fx"]), float(entry["fy"])
            poses.append(check_pose(pose, "rotation"))
            cameras.append(CameraModel.pinhole(width, height, fx, fy, width / 2, height / 2))
        except (KeyError, TypeError, ValueError, PoseError, CameraError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise TrajectoryError(f"{path}: entry {number}: {reason}") from None
    stamps = np.arange(len(poses), dtype=np.int64) * DEFAULT_INTERVAL_NS
    return Trajectory(np.stack(poses), stamps, tuple(cameras))

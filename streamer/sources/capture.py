"""What every layout is read into."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import cv2
import numpy as np

from streamer.camera import CameraModel

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
DEFAULT_INTERVAL_NS = 100_000_000
"""Between frames of captures that carry no time: as if recorded at 10 frames a second."""

MAX_CAMERAS = 64
"""More different intrinsics than this are written per frame, not as cameras of their own."""


class CaptureError(ValueError):
    """A capture that cannot be used; the message names file, field and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureFrame:
    """One picture of a capture, its files not yet read.

    Attributes:
        index: place in the capture, from 0.
        stamp_ns: time of exposure, in the capture's clock.
        camera: key into `Capture.cameras`.
        params: this frame's own intrinsics in the place of its camera's.
        c2w: [4, 4] float64 camera-to-world, OpenCV axes, the capture's world.
        depth_path, depth_unit_m: z-depth image registered to the colour image; metres a step.
        mask_path, mask_ignores_nonzero: which pixels of the mask are to be ignored: the non-zero
            ones, or (nerfstudio) the zero ones.
    """

    index: int
    stamp_ns: int
    camera: str
    image_path: Path
    c2w: np.ndarray
    params: tuple[float, ...] | None = None
    depth_path: Path | None = None
    depth_unit_m: float = 0.001
    mask_path: Path | None = None
    mask_ignores_nonzero: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A recorded capture.

    Attributes:
        name: folder name, fit for a session name after `session_name`.
        layout: `nerfstudio`, `tum` or `colmap`.
        cameras: intrinsics by id.
        frames: in the order of recording.
        notes: what the user should know about how it was read (frames left out, defaults taken).
        convention: of the poses: always OpenCV, whatever the layout writes.
    """

    name: str
    layout: str
    cameras: Mapping[str, CameraModel]
    frames: Sequence[CaptureFrame]
    notes: tuple[str, ...] = ()
    convention: str = "opencv"

    def camera_of(self, frame: CaptureFrame) -> CameraModel:
        """The intrinsics that hold for this frame."""
        camera = self.cameras[frame.camera]
        return camera if frame.params is None else camera.with_params(frame.params)

    def select(self, first: int | None = None, stop: int | None = None) -> Capture:
        """The frames of a half-open range, counted as Python slices are."""
        frames = self.frames[first:stop]
        if not frames:
            raise CaptureError(
                f"frames {'' if first is None else first}:{'' if stop is None else stop} hold "
                f"nothing: {self.name} has frames 0 to {len(self.frames) - 1}"
            )
        return replace(self, frames=frames)

    def hold_out(self, every: int) -> tuple[Sequence[CaptureFrame], Sequence[CaptureFrame]]:
        """Splits into (frames to give, frames kept back): 0, every, 2·every … are kept back.

        ``every`` = 0 keeps none back.
        """
        if every < 0 or every == 1:
            raise CaptureError(f"hold-out is {every}; 0 (none) or every 2nd, 3rd … frame")
        if every == 0:
            return self.frames, ()
        given = tuple(frame for i, frame in enumerate(self.frames) if i % every)
        return given, tuple(self.frames[::every])


def session_name(name: str) -> str:
    """``name`` made fit for a session: 1–64 of `A-Za-z0-9_.-`, the first a letter or digit."""
    fitting = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in name)
    return fitting.lstrip("_.-")[:64] or "capture"


def nanoseconds(seconds: float) -> int:
    """Seconds, as written in decimal, to int64 nanoseconds.

    By decimal arithmetic: a double of today's Unix time times 1e9 is off by up to 128 ns, and a
    stamp must equal what others make of the same text.

    Raises:
        CaptureError: negative, or beyond int64 (nanoseconds given as seconds).
    """
    if not 0.0 <= seconds < 2**63 / 1e9:
        raise CaptureError(f"{seconds!r} is no time in seconds")
    return round(Decimal(repr(seconds)) * 10**9)


def images_below(root: Path) -> list[Path]:
    """Image files in a folder and its direct subfolders, by name."""
    return sorted(
        path
        for pattern in ("*", "*/*")
        for path in root.glob(pattern)
        if path.suffix in IMAGE_SUFFIXES and path.is_file()
    )


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file, as stored (EXIF orientation is ignored)."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise CaptureError(f"{path}: does not decode as an image")
    return image.shape[1], image.shape[0]


def check_files(listing: Path, files: Sequence[tuple[str, Path]]) -> None:
    """Raises for the first of ``files`` (field, path) that is not there."""
    missing = [(field, path) for field, path in files if not path.is_file()]
    if missing:
        field, path = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CaptureError(
            f"{listing}: {field} names {path}, which is not there{more}; "
            "restore the file or remove its entry"
        )


def assign_cameras(
    of_frames: Sequence[tuple[str, CameraModel]],
) -> tuple[dict[str, CameraModel], list[tuple[str, tuple[float, ...] | None]]]:
    """Names the cameras of a capture.

    Args:
        of_frames: a wished id and the intrinsics, for each frame.

    Returns:
        cameras by id, and for each frame (id, its own params or None). Captures with more than
        `MAX_CAMERAS` different intrinsics (a zoom, autofocus, one COLMAP camera a picture) get one
        camera a model and size, and each frame its own params.
    """
    cameras: dict[str, CameraModel] = {}
    for wished, camera in of_frames:
        cameras.setdefault(wished, camera)
    if len(cameras) <= MAX_CAMERAS:
        return cameras, [(wished, None) for wished, _ in of_frames]
    groups: dict[tuple[str, int, int], str] = {}
    grouped: dict[str, CameraModel] = {}
    assigned: list[tuple[str, tuple[float, ...] | None]] = []
    for _, camera in of_frames:
        key = (camera.model, camera.width, camera.height)
        name = groups.setdefault(key, f"camera{len(groups)}")
        grouped.setdefault(name, camera)
        own = None if grouped[name] == camera else camera.params
        assigned.append((name, own))
    return grouped, assigned


def parse_range(text: str | None) -> tuple[int | None, int | None]:
    """`A:B`, `A:`, `:B` as a half-open range of frames; None is all of them.

    Raises:
        CaptureError: anything else.
    """
    if text is None:
        return None, None
    match = re.fullmatch(r"(-?\d+)?:(-?\d+)?", text.strip())
    if match is None:
        raise CaptureError(f"--frames is {text!r}; a range A:B is needed, 0:100 or 50: or :200")
    first, stop = (None if number is None else int(number) for number in match.groups())
    return first, stop

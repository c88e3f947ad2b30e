"""Reading the files of one captured frame."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from streamer.frames import Frame
from streamer.sources.capture import Capture, CaptureError, CaptureFrame
from streamer.undistort import prepare_frame


def load_frame(
    capture: Capture,
    frame: CaptureFrame,
    *,
    seq: int,
    long_side: int | None = None,
    with_depth: bool = False,
) -> Frame:
    """Reads a frame and prepares it as ingest does: pinhole, at the working size.

    Raises:
        CaptureError: a file does not decode.
        CameraError, ImageError: image, depth or mask do not fit the camera.
    """
    received_ns = time.monotonic_ns()
    try:
        return prepare_frame(
            read_image(frame.image_path),
            capture.camera_of(frame),
            seq=seq,
            stamp_ns=frame.stamp_ns,
            camera_id=frame.camera,
            c2w=frame.c2w,
            long_side=long_side,
            depth=read_depth(frame) if with_depth else None,
            depth_unit_m=frame.depth_unit_m,
            mask=read_mask(frame),
            received_ns=received_ns,
        )
    except CaptureError:
        raise
    except ValueError as error:
        raise type(error)(f"{frame.image_path}: {error}") from None


def read_image(path: Path) -> np.ndarray:
    """[h, w, 3] uint8 RGB, as stored (EXIF orientation is ignored)."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise CaptureError(f"{path}: does not decode as an image")
    return image


def read_depth(frame: CaptureFrame) -> np.ndarray | None:
    """[h, w] the depth image's raw numbers, times `depth_unit_m` metres; None without one."""
    if frame.depth_path is None:
        return None
    depth = cv2.imread(str(frame.depth_path), cv2.IMREAD_UNCHANGED)
    if depth is None:
        raise CaptureError(f"{frame.depth_path}: does not decode as a depth image")
    if depth.ndim != 2:
        raise CaptureError(
            f"{frame.depth_path}: has {depth.shape[2]} channels; depth is one channel, 16 bit"
        )
    return depth


def read_mask(frame: CaptureFrame) -> np.ndarray | None:
    """[h, w] uint8, 255 where a pixel is to be ignored, as the wire has it; None without one."""
    if frame.mask_path is None:
        return None
    mask = cv2.imread(str(frame.mask_path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if mask is None:
        raise CaptureError(f"{frame.mask_path}: does not decode as a mask image")
    ignored = (mask != 0) if frame.mask_ignores_nonzero else (mask == 0)
    return np.where(ignored, np.uint8(255), np.uint8(0))

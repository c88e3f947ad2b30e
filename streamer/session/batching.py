"""Frames as the model and the refiner take them, and what is made of one frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder.refine import RefineView
from streamer.frames import Frame
from streamer.session.sight import Camera
from ttt_core import Prediction, ViewBatch

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_THUMBNAIL = 160
_FARTHEST = 1e6
"""Metres; no depth sensor sees so far."""


def in_map_units(frame: Frame, scale: float) -> Frame:
    """The frame with its sensor depth scaled as a correction scaled the world around it."""
    if frame.depth is None:
        return frame
    # NaN fails every comparison; farther readings are none, and their squares would overflow.
    known = (frame.depth > 0.0) & (frame.depth < _FARTHEST)
    depth = np.where(known, frame.depth, 0.0).astype(np.float32) * np.float32(scale)
    return dataclasses.replace(frame, depth=depth)


def reduced(frame: Frame, factor: float) -> Frame:
    """The same view in pixels `factor` times as large; the frame itself at 1.

    Depth samples are picked, never mixed; a pixel with anything masked in it is masked.
    """
    if factor <= 1.0:
        return frame
    height, width = frame.image.shape[:2]
    size = max(1, round(width / factor)), max(1, round(height / factor))
    valid = None
    if frame.valid is not None:
        share = cv2.resize(frame.valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        valid = np.asarray(share > 0.999)
    small = dataclasses.replace(
        frame,
        image=np.asarray(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA), np.uint8),
        K=np.diag([size[0] / width, size[1] / height, 1.0]) @ frame.K,
        depth=None,
        valid=valid,
    )
    if frame.depth is None:
        return small
    return dataclasses.replace(small, depth=picked(frame.depth, small))


def picked(depth: Float32, frame: Frame) -> Float32:
    """(h, w) of a larger depth picture, at the pixels of a reduced frame."""
    height, width = frame.image.shape[:2]
    if depth.shape == (height, width):
        return depth
    small = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, np.float32)


def filled_depth(frame: Frame, rendered: tuple[Float32, Float32, Float32] | None) -> Float32:
    """(H, W) z-depth of a map as a frame sees it, 0 where it holds nothing.

    Args:
        rendered: rgb, depth, alpha of the map at the frame's camera; None: it is empty.
    """
    if rendered is None:
        return np.zeros(frame.image.shape[:2], np.float32)
    _, depth, alpha = rendered
    return np.where(alpha > 0.5, depth, np.float32(0.0))


def refine_view(frame: Frame, pose: Float64) -> RefineView:
    """A frame to refine against.

    Args:
        pose: (4, 4) rigid camera to world.
    """
    return RefineView(
        key=frame.seq,
        image=frame.image,
        K=frame.K,
        c2w=pose,
        valid=frame.valid,
        depth=frame.depth,
    )


def view_camera(frame: Frame, pose: Float64) -> Camera:
    """What of a frame says what it can see.

    Args:
        pose: (4, 4) rigid camera to world.
    """
    height, width = frame.image.shape[:2]
    return Camera(pose, frame.K, width, height)


def checkerboard(height: int, width: int) -> list[Frame]:
    """Two frames of a pattern from two places, to try out with."""
    board = (np.indices((height, width)).sum(0) // 8 % 2 * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, axis=2)
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    frames = []
    for number in range(2):
        c2w = np.eye(4)
        c2w[0, 3] = 0.1 * number
        frames.append(Frame(seq=number, stamp_ns=number, camera="", image=image, K=K, c2w=c2w))
    return frames


def view_batch(
    frames: Sequence[Frame], poses: Mapping[int, Float64], map_depths: Sequence[Float32]
) -> ViewBatch:
    """A batch of frames of one size.

    Args:
        poses: seq → rigid (4, 4) camera to world.
        map_depths: (H, W) of each frame, 0 where the map holds nothing.
    """
    images = np.stack([frame.image for frame in frames]).transpose(0, 3, 1, 2)
    intrinsics = [[f.K[0, 0], f.K[1, 1], f.K[0, 2], f.K[1, 2]] for f in frames]
    map_depth = np.stack(map_depths)
    shape = frames[0].image.shape[:2]
    return ViewBatch(
        keys=tuple(frame.seq for frame in frames),
        image=torch.from_numpy(np.ascontiguousarray(images)).float() / 255.0,
        fxfycxcy=torch.tensor(intrinsics, dtype=torch.float32),
        c2w=torch.from_numpy(np.stack([poses[frame.seq] for frame in frames])),
        sensor_depth=_stack([frame.depth for frame in frames], shape, 0.0),
        map_depth=torch.from_numpy(map_depth) if map_depth.any() else None,
        valid=_stack([frame.valid for frame in frames], shape, True),
    )


def on_cpu(prediction: Prediction) -> Prediction:
    """The prediction where fusion works, whatever device made it."""
    fields = dataclasses.fields(prediction)
    return Prediction(**{field.name: getattr(prediction, field.name).cpu() for field in fields})


def splat_residuals(prediction: Prediction, place: int) -> Float32:
    """(H, W, 7) of one view: log scales, axis-angle, opacity logit."""
    planes = torch.cat(
        [
            prediction.log_scale_residual[place],
            prediction.rotation_residual[place],
            prediction.opacity_logit_residual[place][None],
        ]
    )
    return planes.permute(1, 2, 0).contiguous().numpy()


def _stack(
    arrays: Sequence[NDArray[np.generic] | None], shape: tuple[int, int], missing: float
) -> torch.Tensor | None:
    """Optional (H, W) arrays of a batch as one tensor; None where none of them is there."""
    present = [array for array in arrays if array is not None]
    if not present:
        return None
    filler = np.full(shape, missing, present[0].dtype)
    return torch.from_numpy(np.stack([filler if array is None else array for array in arrays]))


def thumbnail(image: NDArray[np.uint8]) -> bytes:
    """A JPEG of at most 160 px."""
    factor = _THUMBNAIL / max(image.shape[:2])
    if factor < 1.0:
        size = (round(image.shape[1] * factor) or 1, round(image.shape[0] * factor) or 1)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    good, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert good, "an RGB image of at least one pixel always encodes"
    return encoded.tobytes()

"""From a decoded camera image to the `Frame` that the reconstructor sees.

One place for ingest and for `splatstream run`: lens distortion is taken out, the picture brought
to the working size, and depth and mask follow the picture.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from streamer.camera import CameraModel
from streamer.frames import Frame


class ImageError(ValueError):
    """An image, depth image or mask that does not fit its camera."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is the same for all frames of one camera and size: computed once, then cached."""

    reduced: tuple[int, int]  # (w, h) the picture is brought to before undistortion
    map_x: np.ndarray | None  # [h, w] float32, cv2's pixel-centre coordinates; None: no distortion
    map_y: np.ndarray | None
    size: tuple[int, int]  # working (w, h)
    K: np.ndarray  # [3, 3] at the working size
    seen: np.ndarray | None  # [H, W] bool at the working size, None where all of it is seen


def working_size(width: int, height: int, long_side: int | None) -> tuple[int, int]:
    """Width and height with the long side at most ``long_side`` pixels; never larger than before.

    The sides are rounded to whole pixels, so the two axes may scale a little differently.
    """
    longest = max(width, height)
    if long_side is None or longest <= long_side:
        return width, height
    scale = long_side / longest
    return max(1, round(width * scale)), max(1, round(height * scale))


def prepare_frame(
    image: np.ndarray,  # [h, w, 3] or [h, w] uint8
    camera: CameraModel,
    *,
    seq: int,
    stamp_ns: int,
    camera_id: str,
    c2w: np.ndarray | None,  # [4, 4] float64
    long_side: int | None = None,
    depth: np.ndarray | None = None,  # [hd, wd]
    depth_unit_m: float = 1.0,
    mask: np.ndarray | None = None,  # [h, w]
    received_ns: int = 0,
) -> Frame:
    """Undistorts a picture and brings it to the working size.

    The pinhole camera that comes out keeps the focal length and centre of the lens model: the
    middle of the picture keeps its resolution, a strong fisheye loses its rim, and where the
    pinhole sees more than the lens did, `valid` is False.

    Args:
        image: RGB or grey, the camera's size or smaller by a whole factor.
        camera: its intrinsics (a frame's own ones by `CameraModel.with_params`).
        seq, stamp_ns, camera_id, received_ns: handed through to the frame.
        c2w: camera-to-world, OpenCV axes; None where the sender gave none.
        long_side: working size in pixels; None keeps the size. Colour is averaged over area.
        depth: z-depth, of the image's size or a whole fraction of it, any number type; times
            ``depth_unit_m`` it is metres; zero, negative and NaN mean none. Samples are picked,
            never mixed: no depth appears that the sensor did not measure.
        mask: non-zero pixels are to be ignored; the image's size.

    Raises:
        CameraError: the image's size does not belong to the camera.
        ImageError: wrong shapes or types.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"image is {image.dtype} of shape {image.shape}; uint8 of [h, w, 3] or [h, w] is needed"
        )
    height, width = image.shape[:2]
    camera = camera.at_size(width, height)
    plan = _plan(camera, long_side)
    colour = _resample(image, plan)
    if colour.ndim == 2:
        colour = np.repeat(colour[:, :, None], 3, axis=2)
    valid = plan.seen
    if mask is not None:
        if mask.shape != (height, width):
            raise ImageError(f"mask is of shape {mask.shape}, the image {height}x{width}")
        ignore = np.where(mask != 0, np.uint8(255), np.uint8(0))
        kept = _resample(ignore, plan) == 0
        valid = kept if valid is None else valid & kept
    return Frame(
        seq=seq,
        stamp_ns=stamp_ns,
        camera=camera_id,
        image=np.ascontiguousarray(colour),
        K=plan.K.copy(),
        c2w=c2w,
        depth=None if depth is None else _pick_depth(depth, depth_unit_m, camera, long_side),
        valid=valid,
        received_ns=received_ns,
    )


@functools.lru_cache(maxsize=16)
def _plan(camera: CameraModel, long_side: int | None) -> _Plan:
    size = working_size(camera.width, camera.height, long_side)
    K = camera.scaled(*size).K
    if camera.is_pinhole:
        return _Plan((camera.width, camera.height), None, None, size, K, None)
    # Undistort at no more than twice the working size: bilinear sampling of a picture much larger
    # than that would alias, and cost more.
    factor = max(1, max(camera.width, camera.height) // (2 * max(size)))
    reduced = (-(-camera.width // factor), -(-camera.height // factor))
    source = camera.scaled(*reduced)
    image_xy = _distorted_centres(source)
    inside = _inside(image_xy, *reduced)
    centres = np.nan_to_num(image_xy, nan=-1.0) - 0.5
    seen = cv2.resize(inside.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) == 255
    return _Plan(
        reduced,
        np.ascontiguousarray(centres[..., 0], dtype=np.float32),
        np.ascontiguousarray(centres[..., 1], dtype=np.float32),
        size,
        K,
        None if seen.all() else seen,
    )


def _distorted_centres(camera: CameraModel) -> np.ndarray:
    """[h, w, 2] where the pixel centres of the pinhole picture lie in the lens's picture."""
    fx, fy, cx, cy = camera.fxfycxcy
    x = (np.arange(camera.width) + 0.5 - cx) / fx
    y = (np.arange(camera.height) + 0.5 - cy) / fy
    rays = np.stack(np.broadcast_arrays(x[None], y[:, None]), axis=-1)
    return camera.distort(rays) * (fx, fy) + (cx, cy)


def _inside(xy: np.ndarray, width: int, height: int) -> np.ndarray:
    # Comparisons with NaN (the folded part of a model) are False: not inside.
    return (xy[..., 0] >= 0) & (xy[..., 0] <= width) & (xy[..., 1] >= 0) & (xy[..., 1] <= height)


def _resample(picture: np.ndarray, plan: _Plan) -> np.ndarray:
    """Undistorts and scales a uint8 picture of one or three channels."""
    height, width = picture.shape[:2]
    if (width, height) != plan.reduced:
        picture = cv2.resize(picture, plan.reduced, interpolation=cv2.INTER_AREA)
    if plan.map_x is not None and plan.map_y is not None:
        picture = cv2.remap(
            picture, plan.map_x, plan.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    if plan.size != (picture.shape[1], picture.shape[0]):
        picture = cv2.resize(picture, plan.size, interpolation=cv2.INTER_AREA)
    return picture


def _pick_depth(
    depth: np.ndarray, unit_m: float, camera: CameraModel, long_side: int | None
) -> np.ndarray:
    """[H, W] float32 metres at the working size, 0 = none, each a sample of ``depth``."""
    if depth.ndim != 2 or depth.dtype.kind not in "uif":
        raise ImageError(f"depth is {depth.dtype} of shape {depth.shape}; [h, w] numbers needed")
    if not (np.isfinite(unit_m) and unit_m > 0.0):
        raise ImageError(f"depth unit_m is {unit_m}; metres per step are needed (0.001 for mm)")
    height, width = depth.shape
    factor = camera.width // width if width else 0
    if factor < 1 or (width * factor, height * factor) != (camera.width, camera.height):
        raise ImageError(
            f"depth of {width}x{height} does not fit an image of {camera.width}x{camera.height}: "
            "the same size or a whole fraction of it is needed"
        )
    samples = depth.reshape(-1)
    picked = np.zeros(_plan(camera, long_side).size[::-1], dtype=np.float64)
    for index in _depth_samples(camera, long_side, width, height):
        holes = picked == 0.0
        values = samples[index[holes]].astype(np.float64)
        # NaN fails every comparison.
        measured = (values > 0.0) & (values < np.inf) & (index[holes] >= 0)
        picked[holes] = np.where(measured, values * unit_m, 0.0)
    return picked.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _depth_samples(
    camera: CameraModel, long_side: int | None, width: int, height: int
) -> tuple[np.ndarray, ...]:
    """Flat indices [H, W] int32 into a depth image, −1 outside, best first.

    First the sample under the pixel's centre; where it holds nothing, those half a working pixel
    off towards the corners, as long as they are other samples.
    """
    size = _plan(camera, long_side).size
    step = (camera.width / size[0], camera.height / size[1])
    offsets = [(0.0, 0.0)]
    if step[0] * width / camera.width > 1.5:
        offsets += [(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)]
    fx, fy, cx, cy = camera.fxfycxcy
    indices = []
    for offset_x, offset_y in offsets:
        x = (np.arange(size[0]) + 0.5 + offset_x) * step[0]
        y = (np.arange(size[1]) + 0.5 + offset_y) * step[1]
        xy = np.stack(np.broadcast_arrays(x[None], y[:, None]), axis=-1)
        if not camera.is_pinhole:
            xy = camera.distort((xy - (cx, cy)) / (fx, fy)) * (fx, fy) + (cx, cy)
        inside = _inside(xy, camera.width, camera.height)
        column = np.floor(np.where(inside, xy[..., 0], 0) * (width / camera.width)).astype(np.int32)
        row = np.floor(np.where(inside, xy[..., 1], 0) * (height / camera.height)).astype(np.int32)
        flat = np.minimum(row, height - 1) * width + np.minimum(column, width - 1)
        indices.append(np.where(inside, flat, -1))
    return tuple(indices)

"""Image, depth and mask parts of a FRAME to arrays."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.protocol import Buffer, ProtocolError
from streamer.protocol.containers import PictureInfo, inspect_jpeg, inspect_png
from streamer.protocol.messages import DepthHeader, FrameHeader

_RAW_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
# Alpha is dropped and EXIF orientation ignored: the header's width and height are the sensor's.
_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(header: FrameHeader, part: Buffer) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) RGB, or (H, W) for `mono8`.

    Raises:
        ProtocolError: `bad_part` (raw bytes of another length), `bad_image`.
    """
    size = (header.width, header.height)
    channels = _RAW_CHANNELS.get(header.encoding)
    if channels is not None:
        raw = _raw(part, size, channels, "image", header.encoding)
        if channels == 1:
            return raw.reshape(header.height, header.width)
        picture = raw.reshape(header.height, header.width, 3)
        return picture[:, :, ::-1] if header.encoding == "bgr8" else picture
    info = inspect_jpeg(part) if header.encoding == "jpeg" else inspect_png(part)
    _check_size(info, size, "image")
    return _decode(part, _COLOUR, size, "image").astype(np.uint8, copy=False)


def decode_depth(header: DepthHeader, part: Buffer) -> NDArray[np.uint16] | NDArray[np.float32]:
    """The depth image as sent, (H, W) uint16 or float32, in units of `header.unit_m`.

    Raises:
        ProtocolError: `bad_part` (raw bytes of another length), `bad_image`.
    """
    size = (header.width, header.height)
    if header.encoding == "z16":
        raw = _raw(part, size, 2, "depth", "z16")
        return raw.view("<u2").reshape(header.height, header.width)
    if header.encoding == "f32":
        raw = _raw(part, size, 4, "depth", "f32")
        return raw.view("<f4").reshape(header.height, header.width)
    info = inspect_png(part, "depth")
    _check_size(info, size, "depth")
    if (info.bits, info.channels) != (16, 1):
        raise ProtocolError(
            "bad_image",
            f"depth: the PNG has {info.channels} channels of {info.bits} bits, "
            "one of 16 bits is needed",
        )
    return _decode(part, cv2.IMREAD_UNCHANGED, size, "depth")


def decode_mask(header: FrameHeader, part: Buffer) -> NDArray[np.uint8]:
    """(H, W) uint8, non-zero where the pixel is to be ignored.

    Raises:
        ProtocolError: `bad_image`.
    """
    size = (header.width, header.height)
    _check_size(inspect_png(part, "mask"), size, "mask")
    # Grey would round a dark colour of a colour mask to zero, eight bits a small 16-bit label.
    picture = _decode(part, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, size, "mask")
    return np.asarray(picture.any(axis=2), np.uint8)


def _raw(
    part: Buffer, size: tuple[int, int], pixel_bytes: int, name: str, encoding: str
) -> NDArray[np.uint8]:
    width, height = size
    needed = width * height * pixel_bytes
    raw = np.frombuffer(part, np.uint8)
    if raw.size != needed:
        raise ProtocolError(
            "bad_part",
            f"{name}: {width}x{height} {encoding} has {needed} bytes, {raw.size} came",
        )
    return raw


def _check_size(info: PictureInfo, size: tuple[int, int], name: str) -> None:
    if (info.width, info.height) != size:
        raise ProtocolError(
            "bad_image",
            f"{name}: the header says {size[0]}x{size[1]}, the file is "
            f"{info.width}x{info.height}: state the file's own size",
        )


def _decode(part: Buffer, flags: int, size: tuple[int, int], name: str) -> NDArray:
    try:
        picture = cv2.imdecode(np.frombuffer(part, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise ProtocolError("bad_image", f"{name}: the bytes do not decode")
    if picture.shape[1::-1] != size:
        raise ProtocolError(
            "bad_image",
            f"{name}: the header says {size[0]}x{size[1]}, it decodes to "
            f"{picture.shape[1]}x{picture.shape[0]}",
        )
    return picture

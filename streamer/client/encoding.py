"""Arrays and files to the parts of a FRAME."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from streamer.client.errors import ArgumentError
from streamer.protocol import Buffer, ProtocolError
from streamer.protocol.containers import inspect_jpeg, inspect_png
from streamer.protocol.messages import (
    DepthEncoding,
    DepthHeader,
    ImageEncoding,
    MaskHeader,
)

Encoding = Literal["jpeg", "png", "raw"]

_PNG_MAGIC = b"\x89PNG"
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image part and what the header says of it."""

    encoding: ImageEncoding
    width: int
    height: int
    data: Buffer


def encode_image(
    image: npt.NDArray[np.uint8] | bytes, encoding: Encoding, quality: int
) -> EncodedImage:
    """An image part.

    Args:
        image: (H, W, 3) uint8 RGB or (H, W) uint8 grey; or the bytes of a JPEG or PNG file, sent
            as they are.
        encoding: of arrays; `raw` costs no time and much bandwidth.
        quality: of JPEG, 1 to 100.

    Raises:
        ArgumentError: neither of these.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return _file(image)
    array = np.ascontiguousarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ArgumentError(
            f"image: {array.dtype} of shape {array.shape} was given; uint8 of (H, W, 3) RGB or "
            "(H, W) grey, or the bytes of a JPEG or PNG file are needed"
        )
    height, width = array.shape[:2]
    if encoding == "raw":
        raw: ImageEncoding = "rgb8" if array.ndim == 3 else "mono8"
        return EncodedImage(raw, width, height, array.reshape(-1).data)
    bgr = array[:, :, ::-1] if array.ndim == 3 else array
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if encoding == "jpeg" else _FAST_PNG
    suffix = ".jpg" if encoding == "jpeg" else ".png"
    return EncodedImage(encoding, width, height, _imencode(suffix, bgr, options))


def encode_depth(
    depth: npt.NDArray[np.generic] | bytes, unit_m: float | None
) -> tuple[DepthHeader, Buffer]:
    """A depth part: (H, W) uint16 as PNG, floats as float32, or the bytes of a 16-bit PNG.

    Args:
        unit_m: metres per step; floats are metres unless it says otherwise.

    Raises:
        ArgumentError: a type that holds no depth, or integers without their unit.
    """
    encoding: DepthEncoding
    part: Buffer
    if isinstance(depth, bytes | bytearray | memoryview):
        info = _inspect_png(depth, "depth")
        encoding, width, height, part = "png16", info[0], info[1], depth
    else:
        array = np.ascontiguousarray(depth)
        if array.ndim != 2 or array.dtype.kind not in "fu" or array.dtype == np.uint8:
            raise ArgumentError(
                f"depth: {array.dtype} of shape {array.shape} was given; (H, W) uint16 or float32, "
                "or the bytes of a 16-bit PNG are needed"
            )
        height, width = array.shape
        if array.dtype.kind == "f":
            encoding, unit_m = "f32", 1.0 if unit_m is None else unit_m
            part = array.astype("<f4").reshape(-1).view(np.uint8).data
        else:
            encoding = "png16"
            part = _imencode(".png", array.astype(np.uint16), _FAST_PNG)
    if unit_m is None:
        raise ArgumentError("depth_unit_m: missing; say how many metres one step is (0.001 for mm)")
    return DepthHeader(encoding=encoding, width=width, height=height, unit_m=float(unit_m)), part


def encode_mask(mask: npt.NDArray[np.generic] | bytes) -> tuple[MaskHeader, Buffer]:
    """A mask part: (H, W), non-zero where the image is to be ignored, or the bytes of a PNG.

    Raises:
        ArgumentError: neither of these.
    """
    if isinstance(mask, bytes | bytearray | memoryview):
        _inspect_png(mask, "mask")
        return MaskHeader(encoding="png"), mask
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ArgumentError(f"mask: an array of shape {array.shape} was given, (H, W) is needed")
    ignored = (array != 0).astype(np.uint8) * 255
    return MaskHeader(encoding="png"), _imencode(".png", ignored, _FAST_PNG)


def _file(data: Buffer) -> EncodedImage:
    encoding: ImageEncoding = "png" if bytes(data[:4]) == _PNG_MAGIC else "jpeg"
    try:
        info = inspect_png(data) if encoding == "png" else inspect_jpeg(data)
    except ProtocolError as error:
        raise ArgumentError(error.reason) from None
    return EncodedImage(encoding, info.width, info.height, data)


def _inspect_png(data: Buffer, name: str) -> tuple[int, int]:
    try:
        info = inspect_png(data, name)
    except ProtocolError as error:
        raise ArgumentError(error.reason) from None
    return info.width, info.height


def _imencode(suffix: str, array: npt.NDArray[Any], options: list[int]) -> Buffer:
    done, encoded = cv2.imencode(suffix, array, options)
    if not done:
        raise ArgumentError(f"image: {array.shape} could not be encoded as {suffix[1:]}")
    return encoded.reshape(-1).data

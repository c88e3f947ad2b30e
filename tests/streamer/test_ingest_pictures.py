"""Image, depth and mask parts: what decodes, and what is refused before it costs anything."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_client import jpeg, picture

from streamer.ingest.pictures import decode_depth, decode_image, decode_mask
from streamer.protocol import ProtocolError
from streamer.protocol.containers import inspect_jpeg, inspect_png
from streamer.protocol.messages import DepthHeader, FrameHeader, MaskHeader


def header(encoding: Any = "jpeg", width: int = 64, height: int = 48) -> FrameHeader:
    return FrameHeader(
        seq=0,
        stamp_ns=0,
        camera="c",
        encoding=encoding,
        width=width,
        height=height,
        mask=MaskHeader(encoding="png"),
    )


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def refused(code: str, function: Any, *arguments: Any, match: str | None = None) -> None:
    with pytest.raises(ProtocolError, match=match) as caught:
        function(*arguments)
    assert caught.value.code == code


def test_png_and_raw_encodings_keep_every_pixel() -> None:
    rgb = picture(3)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    grey = np.ascontiguousarray(rgb[..., 0])
    np.testing.assert_array_equal(decode_image(header("png"), png(bgr)), rgb)
    np.testing.assert_array_equal(decode_image(header("rgb8"), rgb.tobytes()), rgb)
    np.testing.assert_array_equal(decode_image(header("bgr8"), bgr.tobytes()), rgb)
    np.testing.assert_array_equal(decode_image(header("mono8"), grey.tobytes()), grey)


def test_jpeg_decodes_to_rgb() -> None:
    decoded = decode_image(header(), jpeg(3))
    assert np.abs(decoded.astype(int) - picture(3)).mean() < 6


@pytest.mark.parametrize(
    "options",
    [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]],
    ids=["baseline", "progressive", "restart markers"],
)
def test_a_jpeg_cut_anywhere_is_refused(options: list[int]) -> None:
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (48, 64, 3)), options)
    data = whole[1].tobytes()
    assert (inspect_jpeg(data).width, inspect_jpeg(data).height) == (64, 48)
    for length in range(len(data)):
        refused("bad_image", inspect_jpeg, data[:length])


def test_a_png_cut_or_changed_anywhere_is_refused() -> None:
    data = png(picture())
    for length in range(0, len(data), 3):
        refused("bad_image", inspect_png, data[:length])
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 0x55
        refused("bad_image", inspect_png, bytes(changed))


@given(
    data=st.binary(max_size=300), start=st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
)
def test_arbitrary_bytes_raise_nothing_but_protocol_errors(data: bytes, start: bytes) -> None:
    for encoding in ("jpeg", "png", "rgb8"):
        try:
            decode_image(header(encoding), start + data)
        except ProtocolError as error:
            assert error.code in ("bad_image", "bad_part")


def test_exif_orientation_is_ignored() -> None:
    orientation = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", len(orientation) + 2) + orientation
    data = jpeg()
    turned = data[:2] + segment + data[2:]
    plain = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert plain.shape[:2] == (64, 48), "the file really asks to be turned"
    np.testing.assert_array_equal(decode_image(header(), turned), decode_image(header(), data))


def test_another_size_than_stated_is_refused() -> None:
    refused("bad_image", decode_image, header(width=63), jpeg(), match="64x48")
    refused("bad_image", decode_image, header("png", 64, 47), png(picture()), match="64x48")
    refused("bad_part", decode_image, header("rgb8", 64, 47), picture().tobytes(), match="9216")


def test_a_decompression_bomb_costs_nothing() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    size = struct.pack(">II", 16384, 16384) + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes(16384 * 3 + 1) * 256, 9)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    tracemalloc.start()
    try:
        refused("bad_image", decode_image, header("png"), bomb, match="16384x16384")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_depth_in_every_encoding() -> None:
    depth = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20

    def of(encoding: Any) -> DepthHeader:
        return DepthHeader(encoding=encoding, width=64, height=48, unit_m=0.001)

    np.testing.assert_array_equal(decode_depth(of("png16"), png(depth)), depth)
    np.testing.assert_array_equal(decode_depth(of("z16"), depth.tobytes()), depth)
    metres = depth.astype(np.float32) / 1000
    np.testing.assert_array_equal(decode_depth(of("f32"), metres.tobytes()), metres)
    refused("bad_part", decode_depth, of("z16"), depth.tobytes()[:-1], match="depth")
    refused("bad_image", decode_depth, of("png16"), png(picture()), match="16 bits")
    refused("bad_image", decode_depth, of("png16"), png(depth[:, :-1]), match="63x48")


def test_any_non_zero_value_of_a_mask_counts() -> None:
    small = np.zeros((48, 64), np.uint16)
    small[3, 4] = 1
    assert decode_mask(header(), png(small))[3, 4]
    assert decode_mask(header(), png(small)).sum() == 1
    dark_blue = np.zeros((48, 64, 3), np.uint8)
    dark_blue[5, 6, 0] = 1
    assert decode_mask(header(), png(dark_blue))[5, 6]
    refused("bad_image", decode_mask, header(), png(small[:, 1:]), match="mask")

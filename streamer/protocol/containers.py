"""Size and soundness of JPEG and PNG files, read without decoding a pixel.

A picture whose stated size is not its real one costs nothing that way, however large it would
become, and a damaged file is refused instead of decoded to grey: libjpeg fills what is missing
and only mentions it on stderr.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from streamer.protocol.errors import ProtocolError
from streamer.protocol.wire import Buffer

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
# Inside a scan 0xFF is followed by 0x00 (a stuffed byte), a restart marker or another 0xFF (fill).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What a file says of itself."""

    width: int
    height: int
    bits: int
    channels: int


def inspect_jpeg(data: Buffer) -> PictureInfo:
    """Walk all markers of a JPEG (ITU-T T.81, annex B) up to its end.

    Raises:
        ProtocolError: `bad_image`, saying what is wrong with the file.
    """
    raw = bytes(data)
    if not raw.startswith(_JPEG_START):
        raise _bad("image: this is no JPEG, it starts with " + _hex(raw))
    info: PictureInfo | None = None
    scanned = False
    position = 2
    while True:
        marker, position = _next_marker(raw, position)
        if marker == _END_OF_IMAGE:
            break
        if marker in _STANDALONE:
            continue
        length = _u16(raw, position, "JPEG")
        if length < 2 or position + length > len(raw):
            raise _bad(f"image: the JPEG is cut off or damaged at byte {position}")
        if marker in _START_OF_FRAME:
            if length < 8:
                raise _bad("image: the JPEG's frame header is damaged")
            bits, height, width, channels = struct.unpack_from(">BHHB", raw, position + 2)
            info = PictureInfo(width, height, bits, channels)
        position += length
        if marker == _START_OF_SCAN:
            scanned = True
            found = _JPEG_MARKER.search(raw, position)
            if found is None:
                raise _bad(f"image: the JPEG is cut off after {len(raw)} bytes (no end marker)")
            position = found.start()
    if info is None or not scanned:
        raise _bad("image: the JPEG holds no picture")
    return info


def inspect_png(data: Buffer, name: str = "image") -> PictureInfo:
    """Walk all chunks of a PNG (RFC 2083) and compare their checksums.

    Raises:
        ProtocolError: `bad_image`, saying what is wrong with the file.
    """
    view = memoryview(data).cast("B")
    if bytes(view[:8]) != _PNG_SIGNATURE:
        raise _bad(f"{name}: this is no PNG, it starts with " + _hex(bytes(view[:8])))
    info: PictureInfo | None = None
    position = 8
    while True:
        if position + 12 > len(view):
            raise _bad(f"{name}: the PNG is cut off after {len(view)} bytes")
        (length,) = struct.unpack_from(">I", view, position)
        end = position + 12 + length
        if end > len(view):
            raise _bad(f"{name}: the PNG is cut off after {len(view)} bytes")
        chunk = bytes(view[position + 4 : position + 8])
        (checksum,) = struct.unpack_from(">I", view, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            raise _bad(f"{name}: the PNG's {chunk!r} chunk is damaged (checksum)")
        if info is None:
            if chunk != b"IHDR" or length != 13:
                raise _bad(f"{name}: the PNG does not begin with its header chunk")
            width, height, bits, colour = struct.unpack_from(">IIBB", view, position + 8)
            info = PictureInfo(width, height, bits, {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 0))
        if chunk == b"IEND":
            return info
        position = end


def _next_marker(raw: bytes, position: int) -> tuple[int, int]:
    if position + 2 > len(raw):
        raise _bad(f"image: the JPEG is cut off after {len(raw)} bytes")
    if raw[position] != 0xFF:
        raise _bad(f"image: the JPEG is damaged at byte {position}")
    while position < len(raw) and raw[position] == 0xFF:
        position += 1
    if position == len(raw) or raw[position] == 0:
        raise _bad(f"image: the JPEG is damaged at byte {position}")
    return raw[position], position + 1


def _u16(raw: bytes, position: int, kind: str) -> int:
    if position + 2 > len(raw):
        raise _bad(f"image: the {kind} is cut off after {len(raw)} bytes")
    return int.from_bytes(raw[position : position + 2], "big")


def _hex(raw: bytes) -> str:
    return raw[:8].hex(" ") or "nothing at all"


def _bad(reason: str) -> ProtocolError:
    return ProtocolError("bad_image", reason)

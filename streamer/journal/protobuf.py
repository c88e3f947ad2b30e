"""The little of protobuf's wire format that Foxglove's messages need.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from streamer.protocol import Buffer

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """A number from 0 to 2^64 - 1."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def integer(number: int, value: int) -> bytes:
    """Field `number` of a type that is written as a varint."""
    return varint(number << 3 | _VARINT) + varint(value)


def fixed32(number: int, value: int) -> bytes:
    """A `fixed32` field."""
    return varint(number << 3 | _FIXED32) + struct.pack("<I", value)


def double(number: int, value: float) -> bytes:
    """A `double` field."""
    return varint(number << 3 | _FIXED64) + struct.pack("<d", value)


def head(number: int, length: int) -> bytes:
    """What stands before the `length` bytes of a string, bytes or message field."""
    return varint(number << 3 | _BYTES) + varint(length)


def field(number: int, value: str | bytes) -> bytes:
    """A string, bytes or message field."""
    data = value.encode() if isinstance(value, str) else value
    return head(number, len(data)) + data


def doubles(number: int, values: Sequence[float]) -> bytes:
    """A packed `repeated double`."""
    return field(number, struct.pack(f"<{len(values)}d", *values))


def find(message: Buffer, number: int) -> memoryview:
    """The bytes of the first string, bytes or message field `number`.

    Raises:
        ValueError: there is none, or the message is none of protobuf.
    """
    view = memoryview(message)
    place = 0
    while place < len(view):
        key, place = _read_varint(view, place)
        kind = key & 7
        if kind == _BYTES:
            length, place = _read_varint(view, place)
            if key >> 3 == number and place + length <= len(view):
                return view[place : place + length]
            place += length
        elif kind == _VARINT:
            _, place = _read_varint(view, place)
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            break
    raise ValueError(f"no field {number} in this protobuf message")


def _read_varint(view: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(view):
            break
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a protobuf number does not end")

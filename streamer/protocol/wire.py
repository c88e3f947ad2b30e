"""Framing: `[kind][msgpack header][raw part]*`, checked before anything is allocated.

A header is looked at twice. First msgpack walks over it without building any object: that proves
that every array and map in it is backed by bytes which are really there (a claimed length alone
costs nothing) and that it does not nest without end. Only then it is unpacked, and msgspec turns
it into the frozen structure that the kind calls for. Unknown keys are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack
import msgspec

from streamer.protocol.errors import ProtocolError
from streamer.protocol.fields import Header
from streamer.protocol.limits import (
    MAX_CONTAINERS,
    MAX_KIND_BYTES,
    MAX_PART_BYTES,
    MAX_PARTS,
    header_limit,
)

Buffer = bytes | bytearray | memoryview
StructT = TypeVar("StructT", bound=msgspec.Struct)

_EMPTY_MAP = b"\x80"
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose sizes were checked; its header is decoded on demand by `read`."""

    kind: bytes
    header: bytes
    parts: tuple[Buffer, ...]

    def read(self, header_type: type[StructT]) -> StructT:
        """Decode the header.

        Raises:
            ProtocolError: `bad_header`, naming the key that is missing or mistyped.
        """
        return read_header(self.header, self.kind, header_type)

    def peek(self, header_type: type[StructT]) -> StructT:
        """Decode the keys that this type names at once; whatever else is there is passed over
        unread: for what the daemon's own processes say to each other.

        Raises:
            ProtocolError: `bad_header`, naming the key that is missing or mistyped.
        """
        try:
            return msgspec.msgpack.decode(self.header or _EMPTY_MAP, type=header_type)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            # What is wrong with it is said there.
            return self.read(header_type)


def encode(header: Header, *parts: Buffer, kind: bytes | None = None) -> list[Buffer]:
    """The frames of one multipart message.

    Args:
        header: its class names the kind, unless `kind` does.
        parts: raw little-endian C-order bytes; not copied.

    Raises:
        ProtocolError: `too_large` where a reader would have to refuse the header.
    """
    name = kind or header.KIND
    return [name, pack_header(header, name), *parts]


def decode(frames: Sequence[Buffer], *, max_parts: int = MAX_PARTS) -> Message:
    """Check the sizes of a received multipart message and name its kind.

    Args:
        frames: `[kind][header][part]*`; an absent header counts as an empty one.
        max_parts: most raw parts after the header.

    Raises:
        ProtocolError: `bad_header` or `too_large`.
    """
    if not frames:
        raise ProtocolError("bad_header", "the message has no kind: send [kind][header][part]*")
    kind = _kind(frames[0])
    header = frames[1] if len(frames) > 1 else b""
    _check_size(kind, len(header))
    parts = tuple(frames[2:])
    if len(parts) > max_parts:
        raise ProtocolError(
            "too_large", f"{_text(kind)} has {len(parts)} parts, the limit is {max_parts}"
        )
    return Message(kind, bytes(header), parts)


def check_part(kind: bytes, name: str, part: Buffer) -> None:
    """Refuse a part over the limit.

    Raises:
        ProtocolError: `too_large`.
    """
    if len(part) > MAX_PART_BYTES:
        raise ProtocolError(
            "too_large",
            f"the {name} part of {_text(kind)} has {len(part)} bytes, "
            f"the limit is {MAX_PART_BYTES}",
        )


def pack_header(header: msgspec.Struct, kind: bytes = b"") -> bytes:
    """The bytes of a header.

    Raises:
        ProtocolError: `too_large` where a reader would have to refuse it.
    """
    packed = _encoder.encode(header)
    _check_size(kind, len(packed))
    return packed


def read_header(packed: bytes, kind: bytes, header_type: type[StructT]) -> StructT:
    """Decode a header into its structure; no bytes at all count as an empty map.

    Raises:
        ProtocolError: `too_large`, or `bad_header` naming the key that is missing or mistyped.
    """
    try:
        return msgspec.convert(unpack_header(packed, kind), header_type)
    except msgspec.ValidationError as error:
        # msgspec says "at `$.depth.unit_m`": the dollar stands for the header itself.
        where = str(error).replace("`$.", "`")
        raise ProtocolError("bad_header", f"{_text(kind)} header: {where}") from None


def unpack_header(packed: bytes, kind: bytes = b"") -> dict[str, Any]:
    """Decode a header into a plain map, with the limits of its kind.

    Raises:
        ProtocolError: `too_large`, or `bad_header` where it is not one map with string keys.
    """
    _check_size(kind, len(packed))
    if not packed:
        packed = _EMPTY_MAP
    _check_structure(packed, kind)
    budget = _Budget(kind)
    try:
        header = msgpack.unpackb(
            packed,
            ext_hook=budget.refuse_extension,
            list_hook=budget.count,
            object_hook=budget.count,
            strict_map_key=True,
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(
            "bad_header", f"{_text(kind)} header is not a msgpack map with string keys: {error}"
        ) from None
    if not isinstance(header, dict):
        raise ProtocolError(
            "bad_header",
            f"{_text(kind)} header is a {type(header).__name__}: send one map with string keys",
        )
    for key in header:
        if not isinstance(key, str):
            raise ProtocolError("bad_header", f"{_text(kind)} header: key {key!r} is no string")
    return header


class _Budget:
    """Stops the unpacking of a header that would cost far more memory than it has bytes."""

    def __init__(self, kind: bytes) -> None:
        self._kind = kind
        self._left = MAX_CONTAINERS

    def count(self, container: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ProtocolError(
                "too_large",
                f"{_text(self._kind)} header holds more than {MAX_CONTAINERS} arrays and maps",
            )
        return container

    def refuse_extension(self, code: int, _data: bytes) -> Any:
        raise ProtocolError(
            "bad_header",
            f"{_text(self._kind)} header holds msgpack extension type {code}: none is allowed",
        )


def _kind(frame: Buffer) -> bytes:
    if not 0 < len(frame) <= MAX_KIND_BYTES:
        raise ProtocolError(
            "bad_header", f"the kind has {len(frame)} bytes, it must have 1 to {MAX_KIND_BYTES}"
        )
    kind = bytes(frame)
    if not kind.isascii() or not kind.decode("ascii").isprintable():
        raise ProtocolError("bad_header", f"the kind {kind!r} is not printable ASCII")
    return kind


def _check_size(kind: bytes, size: int) -> None:
    limit = header_limit(kind)
    if size > limit:
        raise ProtocolError(
            "too_large", f"the {_text(kind)} header has {size} bytes, the limit is {limit}"
        )


def _check_structure(packed: bytes, kind: bytes) -> None:
    unpacker = msgpack.Unpacker(max_buffer_size=len(packed))
    unpacker.feed(packed)
    try:
        unpacker.skip()
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(
            "bad_header",
            f"{_text(kind)} header is not valid msgpack ({type(error).__name__}): "
            "send one map with string keys",
        ) from None
    if unpacker.tell() != len(packed):
        raise ProtocolError(
            "bad_header",
            f"{_text(kind)} header has {len(packed) - unpacker.tell()} bytes after its map",
        )


def _text(kind: bytes) -> str:
    return kind.decode("ascii", "replace") or "the"

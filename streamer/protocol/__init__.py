"""Wire protocol version 1: framing, limits, typed headers, error codes."""

from streamer.protocol.errors import CODES, RETRY_CODES, Code, ProtocolError
from streamer.protocol.fields import Empty, Header
from streamer.protocol.limits import PROTO_VERSION
from streamer.protocol.wire import (
    Buffer,
    Message,
    check_part,
    decode,
    encode,
    pack_header,
    read_header,
    unpack_header,
)

__all__ = [
    "Buffer",
    "CODES",
    "Code",
    "Empty",
    "Header",
    "Message",
    "PROTO_VERSION",
    "ProtocolError",
    "RETRY_CODES",
    "check_part",
    "decode",
    "encode",
    "pack_header",
    "read_header",
    "unpack_header",
]

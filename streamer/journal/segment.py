"""One file of a journal: an MCAP file without chunks, so that whatever was written can be read.

An entry is a message of the channel `/<session>/journal`, behind the messages that belong to it
(a frame's picture, depth, mask and pose). It carries a checksum of everything since the entry
before it: what a crash tore is told from what is whole, message by message.
https://mcap.dev/spec
"""

from __future__ import annotations

import struct
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel, DataEnd, Footer, Header, Schema, Statistics, SummaryOffset

from streamer.journal import foxglove
from streamer.journal.entries import AnyEntry, pack
from streamer.journal.files import Files
from streamer.protocol import Buffer

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")
"""Before every record: opcode, length."""
MESSAGE = struct.Struct("<HIQQ")
"""Before the data of a message: channel, sequence, log time, publish time."""
END_SIZE = 2 * RECORD.size + 4 + 20 + len(MAGIC)
"""Bytes of a closed file's end without its summary."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the journal's channel: an entry, and the CRC-32 of all records since the entry
    before, of this message's own head and of the entry."""

    crc: int
    entry: bytes


@dataclass(slots=True)
class Contents:
    """What a file's summary says: schemas, channels, and how many messages of each."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    messages: Counter[int] = field(default_factory=Counter)
    first_ns: int = 0
    last_ns: int = 0

    def count(self, channel: int, log_ns: int) -> None:
        """One message more."""
        first = not self.messages
        self.messages[channel] += 1
        self.first_ns = log_ns if first else min(self.first_ns, log_ns)
        self.last_ns = max(self.last_ns, log_ns)

    def end(self, offset: int) -> bytes:
        """The closing records of a file whose data end at `offset`."""
        builder = RecordBuilder()
        DataEnd(0).write(builder)
        start = offset + builder.count
        summary = RecordBuilder()
        offsets = []
        for opcode, records in (
            (Opcode.SCHEMA, list(self.schemas.values())),
            (Opcode.CHANNEL, list(self.channels.values())),
            (Opcode.STATISTICS, [self._statistics()]),
        ):
            before = summary.count
            for record in records:
                record.write(summary)
            offsets.append(SummaryOffset(opcode, start + before, summary.count - before))
        offset_start = start + summary.count
        for one in offsets:
            one.write(summary)
        data = summary.end()
        crc = zlib.crc32(RECORD.pack(Opcode.FOOTER, 20), zlib.crc32(data))
        crc = zlib.crc32(struct.pack("<QQ", start, offset_start), crc)
        builder.write(data)
        Footer(summary_start=start, summary_offset_start=offset_start, summary_crc=crc).write(
            builder
        )
        return builder.end() + MAGIC

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0,
            channel_count=len(self.channels),
            channel_message_counts=dict(self.messages),
            chunk_count=0,
            message_count=sum(self.messages.values()),
            message_end_time=self.last_ns,
            message_start_time=self.first_ns,
            metadata_count=0,
            schema_count=len(self.schemas),
        )


@dataclass(frozen=True, slots=True)
class Attached:
    """A message that belongs to the entry behind it."""

    camera: str
    role: str
    """`image`, `depth`, `mask`, `pose` or `calibration`: the last part of its topic."""
    schema: str
    """Name of a message of Foxglove's without its package; empty for raw bytes."""
    encoding: str
    """Of raw bytes, as the wire protocol names it."""
    pieces: Sequence[Buffer]


class SegmentWriter:
    """Writes one new file. Nothing is durable before `sync` returned.

    Args:
        library: name and version of the program, for the file's header.

    Raises:
        OSError: of any call.
    """

    def __init__(self, files: Files, path: Path, session: str, library: str) -> None:
        self.path = path
        self._files = files
        self._session = session
        self._descriptor = files.create(path)
        self._contents = Contents()
        self._channels: dict[tuple[str, str, str, str], int] = {}
        self._pieces: list[Buffer] = []
        self._crc = 0
        self.size = 0
        """Bytes, written or yet to be written by `sync`."""
        builder = RecordBuilder()
        Header("", library).write(builder)
        self._put(MAGIC + builder.end())
        self._crc = 0

    def append(
        self, entry: AnyEntry, attached: Sequence[Attached] = (), seq: int = 0, stamp_ns: int = 0
    ) -> None:
        """Add an entry behind what belongs to it; kept in memory until `sync`."""
        log_ns = time.time_ns()
        for message in attached:
            channel = self._channel(message)
            self._message(channel, seq, log_ns, stamp_ns, message.pieces)
        journal = self._journal_channel()
        packed = pack(entry)
        head = MESSAGE.pack(journal, seq % 2**32, log_ns, stamp_ns or log_ns)
        crc = zlib.crc32(packed, zlib.crc32(head, self._crc))
        payload = msgspec.msgpack.encode(Envelope(crc=crc, entry=packed))
        self._contents.count(journal, log_ns)
        self._put(RECORD.pack(Opcode.MESSAGE, len(head) + len(payload)) + head + payload)
        self._crc = 0

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        pieces, self._pieces = self._pieces, []
        self._files.write(self._descriptor, pieces)
        self._files.sync(self._descriptor)

    def finish(self) -> None:
        """Footer and summary; the file is closed and whole."""
        self._put(self._contents.end(self.size))
        self.sync()
        self._files.close(self._descriptor)

    def abandon(self, size: int) -> None:
        """Close without a footer and without what lies beyond `size`."""
        try:
            self._files.cut(self._descriptor, size)
        finally:
            self._files.close(self._descriptor)

    def is_in_place(self) -> bool:
        """Whether the file still has its name: a write into a deleted one would succeed."""
        return self._files.is_named(self._descriptor, self.path)

    def _channel(self, message: Attached) -> int:
        key = (message.camera, message.role, message.schema, message.encoding)
        if key not in self._channels:
            topic = f"/{self._session}/camera/{message.camera}/{message.role}"
            metadata = {"camera": message.camera, "role": message.role}
            encoding = "protobuf" if message.schema else message.encoding
            self._channels[key] = self._register(topic, encoding, message.schema, metadata)
        return self._channels[key]

    def _journal_channel(self) -> int:
        key = ("", "journal", "", "")
        if key not in self._channels:
            metadata = {"role": "journal"}
            self._channels[key] = self._register(
                f"/{self._session}/journal", "msgpack", "", metadata
            )
        return self._channels[key]

    def _register(self, topic: str, encoding: str, schema: str, metadata: dict[str, str]) -> int:
        builder = RecordBuilder()
        contents = self._contents
        schema_id = 0
        if schema:
            name = f"foxglove.{schema}"
            known = [one.id for one in contents.schemas.values() if one.name == name]
            schema_id = known[0] if known else len(contents.schemas) + 1
            if not known:
                record = Schema(
                    id=schema_id, data=foxglove.schema(schema), encoding="protobuf", name=name
                )
                contents.schemas[schema_id] = record
                record.write(builder)
        channel = Channel(
            id=len(contents.channels) + 1,
            topic=topic,
            message_encoding=encoding,
            metadata=metadata,
            schema_id=schema_id,
        )
        contents.channels[channel.id] = channel
        channel.write(builder)
        self._put(builder.end())
        return channel.id

    def _message(
        self, channel: int, seq: int, log_ns: int, stamp_ns: int, pieces: Sequence[Buffer]
    ) -> None:
        length = MESSAGE.size + sum(len(piece) for piece in pieces)
        head = MESSAGE.pack(channel, seq % 2**32, log_ns, stamp_ns)
        self._contents.count(channel, log_ns)
        self._put(RECORD.pack(Opcode.MESSAGE, length) + head)
        for piece in pieces:
            self._put(piece)

    def _put(self, piece: Buffer) -> None:
        self._pieces.append(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self.size += len(piece)

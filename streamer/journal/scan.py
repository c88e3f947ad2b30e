"""Reading one file of a journal, up to where it ends or is torn."""

from __future__ import annotations

import io
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from streamer.journal.entries import FORMAT, READABLE, AnyEntry, Begin, FrameEntry, unpack
from streamer.journal.errors import JournalCorrupt, JournalVersion, journal_error
from streamer.journal.foxglove import image_data
from streamer.journal.segment import MAGIC, MESSAGE, RECORD, Contents, Envelope

_envelopes = msgspec.msgpack.Decoder(Envelope)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An entry as it was read; `parts` of a frame are those of its FRAME message, as views of the
    mapped file: they are valid as long as somebody holds them."""

    entry: AnyEntry
    parts: tuple[memoryview, ...]
    end: int
    """Offset behind it in its file."""


@dataclass(slots=True)
class Tail:
    """How the reading of a file ended; filled while `scan` is under way."""

    whole: int = 0
    """Bytes up to the end of the last whole entry."""
    size: int = 0
    closed: bool = False
    """Whether the file has its footer."""
    damage: str = ""
    """What is wrong at `whole`; empty where the file simply ends."""
    contents: Contents = field(default_factory=Contents)


class _Torn(Exception):
    """The bytes from here on are no whole entry."""


class _Unknown(Exception):
    """An entry that is as it was written, and means nothing to this version."""


def scan(
    path: Path, tail: Tail, *, limit: int | None = None, verify: bool = True, parts: bool = True
) -> Iterator[Recorded]:
    """The entries of a file, in order.

    Args:
        tail: tells afterwards how the file ended.
        limit: read no further: others may be writing there.
        verify: check the checksums; without it and without `parts` pictures are not even read.
        parts: take the frames' pictures out.

    Raises:
        JournalVersion: the file is of another version: what is not understood is not damage, and
            may not be cut off as such.
        JournalError: the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise journal_error(error, path) from None
    view = memoryview(mapped)[: size if limit is None else limit]
    tail.size = len(view)
    reader = _Reader(view, tail, verify=verify, parts=parts)
    version = "another version of splatstream"
    try:
        for recorded in reader.entries():
            if isinstance(recorded.entry, Begin):
                version = f"splatstream {recorded.entry.version}"
                _check_format(path, recorded.entry)
            yield recorded
    except _Unknown as error:
        raise JournalVersion(
            f"{path}: {version} wrote an entry at byte {tail.whole} that this one does not know "
            f"({error}): {_REMEDY}"
        ) from None
    except (_Torn, struct.error, msgspec.MsgspecError, McapError, UnicodeDecodeError) as error:
        tail.damage = str(error) or type(error).__name__


_REMEDY = "use that version, or move the session's folder away"


def _check_format(path: Path, begin: Begin) -> None:
    if begin.format not in READABLE:
        raise JournalVersion(
            f"{path}: written by splatstream {begin.version} in journal format {begin.format}, "
            f"this one reads up to {FORMAT}: {_REMEDY}"
        )


class _Reader:
    def __init__(self, view: memoryview, tail: Tail, *, verify: bool, parts: bool) -> None:
        self._view = view
        self._tail = tail
        self._verify = verify
        self._parts = parts
        self._place = 0
        self._crc = 0
        self._attached: list[tuple[int, memoryview]] = []

    def entries(self) -> Iterator[Recorded]:
        view, tail = self._view, self._tail
        if bytes(view[: len(MAGIC)]) != MAGIC:
            raise _Torn("the file does not begin as MCAP does")
        self._place = len(MAGIC)
        while self._place < len(view):
            start = self._place
            opcode, length = RECORD.unpack_from(view, start)
            body = start + RECORD.size
            end = body + length
            if end > len(view):
                raise _Torn(f"a record of {length} bytes at {start} is cut short")
            record = view[body:end]
            self._place = end
            if opcode == Opcode.DATA_END:
                self._check_end()
                return
            if opcode == Opcode.MESSAGE:
                recorded = self._message(view[start:end], record)
                if recorded is not None:
                    tail.whole = end
                    yield recorded
                continue
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(_stream(record))
                tail.contents.schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                channel = Channel.read(_stream(record))
                tail.contents.channels[channel.id] = channel
            elif opcode != Opcode.HEADER:
                raise _Torn(f"a record of kind {opcode} at {start}")
            if opcode != Opcode.HEADER and self._verify:
                self._crc = zlib.crc32(view[start:end], self._crc)

    def _message(self, whole: memoryview, record: memoryview) -> Recorded | None:
        number, _, log_ns, _ = MESSAGE.unpack_from(record)
        channel = self._tail.contents.channels.get(number)
        if channel is None:
            raise _Torn(f"a message of channel {number}, which there is not")
        data = record[MESSAGE.size :]
        self._tail.contents.count(number, log_ns)
        if channel.metadata.get("role") != "journal":
            if self._verify:
                self._crc = zlib.crc32(whole, self._crc)
            self._attached.append((number, data))
            return None
        envelope = _envelopes.decode(data)
        crc = zlib.crc32(record[: MESSAGE.size], self._crc)
        if self._verify and zlib.crc32(envelope.entry, crc) != envelope.crc:
            raise _Torn("the checksum of an entry is wrong")
        self._crc = 0
        attached, self._attached = self._attached, []
        entry = self._unpacked(envelope.entry)
        pictures = self._pictures(attached) if self._parts else ()
        if self._parts and isinstance(entry, FrameEntry):
            header = entry.header
            wanted = 1 + (header.depth is not None) + (header.mask is not None)
            if len(pictures) != wanted:
                raise _Torn(f"frame {header.seq} has {len(pictures)} parts, not {wanted}")
        return Recorded(entry, pictures, self._place)

    def _unpacked(self, packed: bytes) -> AnyEntry:
        try:
            return unpack(packed)
        except msgspec.MsgspecError as error:
            if self._verify:
                raise _Unknown(str(error)) from None
            raise

    def _pictures(self, attached: list[tuple[int, memoryview]]) -> tuple[memoryview, ...]:
        """Image, depth and mask, in the order they were written, which is FRAME's."""
        contents = self._tail.contents
        pictures = []
        for number, data in attached:
            channel = contents.channels[number]
            role = channel.metadata.get("role")
            if role == "image":
                try:
                    pictures.append(image_data(contents.schemas[channel.schema_id].name, data))
                except (ValueError, KeyError) as error:
                    raise _Torn(str(error)) from None
            elif role in ("depth", "mask"):
                pictures.append(data)
        return tuple(pictures)

    def _check_end(self) -> None:
        """The records behind the data: only that they are all there."""
        view, tail = self._view, self._tail
        while self._place < len(view) - len(MAGIC):
            opcode, length = RECORD.unpack_from(view, self._place)
            self._place += RECORD.size + length
            if opcode == Opcode.FOOTER:
                break
        if self._place != len(view) - len(MAGIC) or bytes(view[self._place :]) != MAGIC:
            raise _Torn("the summary is cut short")
        tail.closed = True


def _stream(record: memoryview) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(record))


def corrupt(path: Path, tail: Tail) -> JournalCorrupt:
    """The error for damage that no crash can have done."""
    return JournalCorrupt(
        f"{path}: damaged at byte {tail.whole} of {tail.size} ({tail.damage}), and written on "
        "since: copy the folder, then move this file and the later ones away to go on with what "
        "came before, or delete the session (splatstream sessions delete)"
    )

"""What a journal says: the session's history as the ingest decided it, entry by entry.

Entries stand in the order in which things happened. Frames and rejections come in order of seq;
batches and corrections in the order in which the session was told of them, and where it took a
correction before a batch that it had been told of earlier, the journal says so: whoever feeds a
session from a journal can repeat exactly what it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from streamer.protocol.fields import Floats16, Stamp, UInt
from streamer.protocol.internal import Counts
from streamer.protocol.messages import CameraHeader, FrameHeader, Hello

FORMAT = 2
READABLE = (1, FORMAT)
"""Format 1 has no `Overtook`, and is else the same."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Base of all entries."""


class Begin(Entry, frozen=True, kw_only=True, tag="begin"):
    """First of every segment: where the history stands, so that earlier ones need not be read.
    Also written where frames went by that could not be journalled."""

    format: int
    """Of the journal, `FORMAT`."""
    version: str
    """Of the program that wrote it."""
    session: str
    epoch: UInt
    next_seq: UInt
    counts: Counts
    hello: Hello | None = None


class Opened(Entry, frozen=True, kw_only=True, tag="hello"):
    """A sender said HELLO, or added cameras: all it has said so far."""

    hello: Hello


class FrameEntry(Entry, frozen=True, kw_only=True, tag="frame"):
    """An accepted frame as it came: with its parts, all that decoding it again takes."""

    header: FrameHeader
    camera: CameraHeader
    convention: str


class Rejected(Entry, frozen=True, kw_only=True, tag="reject"):
    """A frame that was rejected for good."""

    seq: UInt
    code: str


class Dropped(Entry, frozen=True, kw_only=True, tag="drop"):
    """Frames that the live policy discarded: accepted ones, which stand before it, or such as were
    never decoded, which stand nowhere."""

    seqs: list[UInt]


class BatchSent(Entry, frozen=True, kw_only=True, tag="batch"):
    """Frames that the session was handed together."""

    seqs: list[UInt]


class Corrected(Entry, frozen=True, kw_only=True, tag="poses"):
    """A checked correction, as the session was handed it (`PosesForward`)."""

    revision: UInt
    client: str
    entries: list[tuple[Stamp, Floats16]]
    by: Literal["seq", "stamp"] = "seq"
    upto: Stamp | None = None
    received_upto: int = -1
    waiting: list[tuple[UInt, Stamp]] = []


class Overtook(Entry, frozen=True, kw_only=True, tag="overtook"):
    """A correction that stands before it came before the batch of frame `before`, which stands
    still earlier: the session was busy or paused, so that the batch waited."""

    revision: UInt
    client: str
    before: UInt


AnyEntry = Begin | Opened | FrameEntry | Rejected | Dropped | BatchSent | Corrected | Overtook

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEntry] = msgspec.msgpack.Decoder(AnyEntry)


def pack(entry: AnyEntry) -> bytes:
    """An entry as msgpack."""
    return _encoder.encode(entry)


def unpack(packed: bytes | memoryview) -> AnyEntry:
    """The opposite of `pack`.

    Raises:
        msgspec.MsgspecError: these bytes are no entry.
    """
    return _decoder.decode(packed)


@dataclass(slots=True)
class History:
    """What the entries so far add up to."""

    session: str
    epoch: int
    next_seq: int = 0
    counts: Counts = field(default_factory=Counts)
    hello: Hello | None = None

    def take(self, entry: AnyEntry) -> None:
        """Go on by one entry."""
        counts = self.counts
        match entry:
            case Begin():
                self.next_seq, self.counts = entry.next_seq, entry.counts
                self.hello = entry.hello or self.hello
            case Opened():
                self.hello = entry.hello
            case FrameEntry():
                self.next_seq = entry.header.seq + 1
                self._count(frames_in=counts.frames_in + 1)
            case Rejected():
                self.next_seq = entry.seq + 1
                self._count(rejected=counts.rejected + 1)
            case Dropped():
                unseen = [seq for seq in entry.seqs if seq >= self.next_seq]
                self.next_seq = max([self.next_seq, *(seq + 1 for seq in unseen)])
                self._count(
                    frames_in=counts.frames_in + len(unseen),
                    dropped=counts.dropped + len(entry.seqs),
                )
            case BatchSent() | Corrected() | Overtook():
                pass

    def begin(self, version: str) -> Begin:
        """The entry that a new segment starts with."""
        return Begin(
            format=FORMAT,
            version=version,
            session=self.session,
            epoch=self.epoch,
            next_seq=self.next_seq,
            counts=self.counts,
            hello=self.hello,
        )

    def _count(self, **changed: int) -> None:
        self.counts = msgspec.structs.replace(self.counts, **changed)

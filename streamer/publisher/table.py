"""The chunks of one session as they came over the wire: headers read, splats left as bytes.

The same joins as :class:`gs_decoder.MapMirror`, which stays the definition; this one never looks
into a splat, so that the publisher forwards a chunk's bytes untouched and starts without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from streamer.protocol import Buffer, Message, ProtocolError, encode
from streamer.protocol.arrays import (
    check_parts,
    cut_parts,
    decode_splats,
    encode_splats,
    part_specs,
)
from streamer.protocol.limits import ENTRIES_PER_MESSAGE
from streamer.protocol.requests import Have
from streamer.protocol.update_headers import ChunkHeader, DropHeader, MoveHeader, ResetHeader


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One chunk at one revision; ``parts`` are its arrays in codec f32."""

    header: ChunkHeader
    parts: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A chunk, move, drop or reset that is what the protocol says."""

    header: ChunkHeader | MoveHeader | DropHeader | ResetHeader
    parts: tuple[Buffer, ...] = field(repr=False)

    @staticmethod
    def of(message: Message) -> Change:
        """Raises ProtocolError where kind, header and parts are not what the protocol says."""
        # Of a session of this daemon's own, on a socket that nobody else reaches: read in one go.
        header = message.peek(_CHANGES[message.kind])
        if isinstance(header, ChunkHeader):
            if header.codec != "f32":
                raise ProtocolError("bad_header", f"codec: {header.codec!r}; sessions publish f32")
            check_parts(
                message.parts,
                header.parts,
                count=header.count,
                sh_degree=header.sh_degree,
                codec="f32",
            )
        return Change(header, message.parts)


_CHANGES: dict[bytes, type[ChunkHeader | MoveHeader | DropHeader | ResetHeader]] = {
    header.KIND: header for header in (ChunkHeader, MoveHeader, DropHeader, ResetHeader)
}


class ChunkTable:
    """All chunks of one epoch, by id, in order of arrival."""

    def __init__(self) -> None:
        self.chunks: dict[int, ChunkRecord] = {}
        self._dropped: dict[int, int] = {}
        self._clock = 0

    @property
    def splats(self) -> int:
        """Number of splats."""
        return sum(record.header.count for record in self.chunks.values())

    def join(self, change: Change) -> None:
        """Hold what it says."""
        header = change.header
        if isinstance(header, ChunkHeader):
            self._chunk(header, change.parts)
        elif isinstance(header, MoveHeader):
            for identity, revision, pose in header.moves:
                self._move(identity, revision, pose)
        elif isinstance(header, DropHeader):
            for identity, revision in header.chunks:
                self._drop(identity, revision)
        else:
            self.chunks.clear()
            self._dropped.clear()

    def manifest(self) -> list[tuple[int, int, int, int]]:
        """(chunk, content, revision, count) of every chunk."""
        headers = (record.header for record in self.chunks.values())
        return [(h.chunk, h.content, h.revision, h.count) for h in headers]

    def differences(self, have: Iterable[Have]) -> Differences:
        """What somebody lacks who holds ``have`` of the same epoch."""
        held = {chunk: (content, revision) for chunk, content, revision in have}
        drops = [
            (identity, self._dropped.get(identity, max(self._clock, revision + 1)))
            for identity, (_, revision) in held.items()
            if identity not in self.chunks
        ]
        records, moves = [], []
        for identity, record in self.chunks.items():
            content, revision = held.get(identity, (-1, -1))
            header = record.header
            if content < header.content:
                records.append(record)
            elif revision < header.revision:
                moves.append((identity, header.revision, header.T_world_chunk))
        return Differences(drops, records, moves)

    def _chunk(self, header: ChunkHeader, parts: Sequence[Buffer]) -> None:
        self._clock = max(self._clock, header.revision)
        if header.revision <= self._dropped.get(header.chunk, -1):
            return
        held = self.chunks.get(header.chunk)
        if held is None or header.revision > held.header.revision:
            # Copies: libzmq receives small parts into one buffer of 8 kB, which each of them
            # keeps alive as a whole.
            self.chunks[header.chunk] = ChunkRecord(header, tuple(bytes(part) for part in parts))

    def _move(self, identity: int, revision: int, pose: list[float]) -> None:
        self._clock = max(self._clock, revision)
        held = self.chunks.get(identity)
        if held is not None and revision > held.header.revision:
            header = msgspec.structs.replace(held.header, revision=revision, T_world_chunk=pose)
            self.chunks[identity] = ChunkRecord(header, held.parts)

    def _drop(self, identity: int, revision: int) -> None:
        self._clock = max(self._clock, revision)
        self._dropped[identity] = max(revision, self._dropped.get(identity, -1))
        held = self.chunks.get(identity)
        if held is not None and held.header.revision <= revision:
            del self.chunks[identity]


@dataclass(frozen=True, slots=True)
class Differences:
    """What separates a reader from a table at one moment; later changes do not touch it."""

    drops: list[tuple[int, int]]
    records: list[ChunkRecord]
    moves: list[tuple[int, int, list[float]]]

    @property
    def nbytes(self) -> int:
        """Of the chunks, which stay in memory as they are until the reader has them."""
        return sum(len(part) for record in self.records for part in record.parts)

    def messages(
        self, *, session: str, epoch: int, seq: int, codec: str, max_splats: int | None
    ) -> Iterator[list[Buffer]]:
        """``[kind][header][part]*`` of each, made one at a time as the reader takes them."""
        for start in range(0, len(self.drops), ENTRIES_PER_MESSAGE):
            some = self.drops[start : start + ENTRIES_PER_MESSAGE]
            yield encode(DropHeader(session=session, epoch=epoch, seq=seq, chunks=some))
        counts = prefix_counts([r.header.count for r in self.records], max_splats)
        for record, count in zip(self.records, counts, strict=True):
            yield _encode_record(record, seq, count, codec)
        for start in range(0, len(self.moves), ENTRIES_PER_MESSAGE):
            moved = self.moves[start : start + ENTRIES_PER_MESSAGE]
            yield encode(MoveHeader(session=session, epoch=epoch, seq=seq, moves=moved))


def prefix_counts(counts: Sequence[int], limit: int | None) -> list[int]:
    """How many splats of each chunk stay where all together may be ``limit``: an equal share."""
    total = sum(counts)
    if limit is None or total <= limit:
        return list(counts)
    kept, seen, taken = [], 0, 0
    for count in counts:
        seen += count
        upto = seen * limit // total
        kept.append(upto - taken)
        taken = upto
    return kept


def _encode_record(record: ChunkRecord, seq: int, count: int, codec: str) -> list[Buffer]:
    header, parts = record.header, list(record.parts)
    specs = header.parts
    if count < header.count:
        parts = list(cut_parts(parts, specs, count))
        specs = part_specs(count, header.sh_degree)
        # The order of a session's parts is its own affair; cutting keeps it.
        specs = [next(s for s in specs if s.name == old.name) for old in header.parts]
    if codec != "f32":
        arrays = decode_splats(
            parts,
            specs,
            count=count,
            sh_degree=header.sh_degree,
            codec="f32",
            aabb=header.aabb,
        )
        parts = list(encode_splats(arrays, header.aabb, codec))
        specs = part_specs(count, header.sh_degree, codec)
    changed = msgspec.structs.replace(header, seq=seq, count=count, codec=codec, parts=specs)
    return encode(changed, *parts)

"""What the publisher knows of one session."""

from __future__ import annotations

import enum
import time

import msgspec

from streamer.protocol import Buffer, Message, ProtocolError
from streamer.protocol.links import (
    Keyframes,
    KeyframesMoved,
    SessionHello,
    SyncBegin,
    SyncEnd,
)
from streamer.protocol.update_headers import (
    COUNTED,
    StatusHeader,
    check_version,
)
from streamer.publisher.keyframes import KeyframeList
from streamer.publisher.table import Change, ChunkTable


class Verdict(enum.Flag):
    """What is to be done after a message."""

    NOTHING = 0
    PUBLISH = enum.auto()
    """It goes to the subscribers as it came."""
    RESYNC = enum.auto()
    """Something was missed: the session must send everything."""


class SessionMirror:
    """Map, key frames and status of one session, exact at ``seq`` while ``synced``.

    A session's messages come in order; what is missed between (this process started later, or
    was away) shows as a step in ``seq`` and is repaired by a RESYNC.

    A change is joined to the table after it was published: subscribers wait for it, and a loop
    closure moves thousands of chunks. Nobody can see the table without it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = 0
        self.seq = 0
        self.synced = False
        self.lost = False
        self.status: StatusHeader | None = None
        self.counted = True
        """Whether the counters are known: those of a session that ran before are its own to say."""
        self.active_at = time.monotonic()
        """When a frame came, the map changed, or a reader asked for something."""
        self._due: Change | None = None
        self._begin(0)
        self.synced = False

    @property
    def table(self) -> ChunkTable:
        """The chunks at ``seq``."""
        self.join()
        return self._table

    def join(self) -> None:
        """Take over into the table what `receive` gave out to be published."""
        change, self._due = self._due, None
        if change is not None:
            self._table.join(change)

    @property
    def state(self) -> str:
        """The session's own word, unless it has none or its process is gone."""
        if self.lost:
            return "lost"
        return self.status.state if self.status is not None else "starting"

    def current_status(self) -> StatusHeader:
        """The last status with what is known better here."""
        last = self.status or StatusHeader(session=self.name, epoch=self.epoch, seq=self.seq)
        return msgspec.structs.replace(last, epoch=self.epoch, seq=self.seq, state=self.state)

    def lose(self) -> None:
        """The session's process died: its last map stays until another one speaks."""
        self.lost = True

    def receive(self, message: Message) -> Verdict:
        """Take one message of the session; `join` once what is to be done is done.

        Raises ProtocolError for a message that a session would not send.
        """
        kind = message.kind
        if kind == SessionHello.KIND:
            return self._hello(message.read(SessionHello))
        if kind in COUNTED:
            return self._counted(message)
        if kind == StatusHeader.KIND:
            return self._status(message.read(StatusHeader))
        if kind == Keyframes.KIND:
            self._keyframes(message.read(Keyframes), message.parts)
        elif kind == KeyframesMoved.KIND:
            self.keyframes.move(message.peek(KeyframesMoved).c2w)
        elif kind == SyncBegin.KIND:
            self._sync_begin(message.read(SyncBegin))
        elif kind == SyncEnd.KIND:
            self._sync_end(message.read(SyncEnd))
        else:
            raise ProtocolError("bad_header", f"kind: {kind!r} is nothing that a session says")
        return Verdict.NOTHING

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        self.seq = 0
        # An epoch begins empty, so whoever sees it from its first message has missed nothing.
        self.synced = True
        self.syncing = False
        self._sync_seq = 0
        self.lost = False
        self.status = None
        self._clear()

    def _clear(self) -> None:
        self._table, self._due = ChunkTable(), None
        self.keyframes = KeyframeList()

    def _hello(self, hello: SessionHello) -> Verdict:
        if hello.epoch < self.epoch:
            return Verdict.NOTHING
        if hello.epoch > self.epoch:
            self._begin(hello.epoch)
            self.counted = hello.seq == 0
        return self._behind(hello.seq)

    def _status(self, status: StatusHeader) -> Verdict:
        check_version(status.proto)
        if status.epoch < self.epoch:
            return Verdict.NOTHING
        if status.epoch > self.epoch:
            self._begin(status.epoch)
        if self.status is None or status.frames_in != self.status.frames_in:
            self.active_at = time.monotonic()
        self.status, self.counted = status, True
        return Verdict.PUBLISH | self._behind(status.seq)

    def _behind(self, seq: int) -> Verdict:
        # A session says nothing else between SYNC_BEGIN and SYNC_END: the end was lost.
        self.syncing = False
        if seq > self.seq:
            self.lost = False
            self.synced = False
            self.seq = seq
        return Verdict.NOTHING if self.synced else Verdict.RESYNC

    def _counted(self, message: Message) -> Verdict:
        change = Change.of(message)
        place = change.header
        if place.session != self.name:
            raise ProtocolError("bad_session", f"session: {place.session!r} came from {self.name}")
        if place.epoch < self.epoch:
            return Verdict.NOTHING
        if place.epoch > self.epoch:
            known = self.epoch > 0
            self._begin(place.epoch)
            # Of a session never heard of, key frames may have gone by before.
            self.synced = known
        if self.syncing:
            if place.seq <= self._sync_seq:
                self.table.join(change)
                return Verdict.NOTHING
            # A change made after the sync, whose end was lost.
            self.syncing = False
        if place.seq <= self.seq:
            return Verdict.NOTHING
        self.active_at = time.monotonic()
        missed = place.seq > self.seq + 1
        self.seq = place.seq
        if missed:
            self.synced = False
        if not self.synced:
            return Verdict.PUBLISH | (Verdict.RESYNC if missed else Verdict.NOTHING)
        self.join()
        self._due = change
        return Verdict.PUBLISH

    def _keyframes(self, header: Keyframes, thumbnails: tuple[Buffer, ...]) -> None:
        if len(thumbnails) != len(header.add):
            raise ProtocolError(
                "bad_part", f"{len(thumbnails)} thumbnails came with {len(header.add)} key frames"
            )
        self.keyframes.add(header.add, thumbnails)

    def _sync_begin(self, header: SyncBegin) -> None:
        self._clear()
        self.syncing = True
        self._sync_seq = header.seq
        # Until its end what is held is a part of the map, and no answer to anybody.
        self.synced = False

    def _sync_end(self, header: SyncEnd) -> None:
        if self.syncing:
            self.syncing = False
            whole = header.chunks is None or header.chunks == len(self.table.chunks)
            self.synced = whole and header.seq >= self.seq
            self.seq = max(self.seq, header.seq)

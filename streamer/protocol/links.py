"""Headers between a session and the publisher, and of the supervisor's orders to its processes.

Both links are ipc sockets in the daemon's private run folder; the framing is the public one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from streamer.protocol.errors import Code
from streamer.protocol.fields import Floats16, Header, UInt
from streamer.protocol.requests import KeyframeEntry

# ---- session and publisher ----


class SessionHello(Header, frozen=True, kw_only=True):
    """A session lives and stands at this seq of this epoch; every second."""

    KIND: ClassVar[bytes] = b"HELLO"
    session: str
    epoch: UInt
    seq: UInt


class Keyframes(Header, frozen=True, kw_only=True):
    """Key frames that are new or changed; parts: one JPEG thumbnail each."""

    KIND: ClassVar[bytes] = b"keyframes"
    add: list[KeyframeEntry]


class KeyframesMoved(Header, frozen=True, kw_only=True):
    """Corrected poses of key frames: (seq, c2w)."""

    KIND: ClassVar[bytes] = b"keyframes_moved"
    c2w: list[tuple[UInt, Floats16]]


class Resync(Header, frozen=True, kw_only=True):
    """The publisher lacks something of this session: send everything."""

    KIND: ClassVar[bytes] = b"RESYNC"


class SyncBegin(Header, frozen=True, kw_only=True):
    """All key frames and chunks follow."""

    KIND: ClassVar[bytes] = b"sync_begin"
    seq: UInt


class SyncEnd(Header, frozen=True, kw_only=True):
    """Everything was sent; the publisher stands at `seq`."""

    KIND: ClassVar[bytes] = b"sync_end"
    seq: UInt
    chunks: UInt | None = None
    """How many chunks were sent: a publisher that got fewer asks again."""


class Control(Header, frozen=True, kw_only=True):
    """A request that only the session can answer."""

    KIND: ClassVar[bytes] = b"CONTROL"
    op: Literal["save", "reset", "pause", "resume"]
    id: UInt


class ControlDone(Header, frozen=True, kw_only=True):
    """The answer to CONTROL."""

    KIND: ClassVar[bytes] = b"CONTROL_DONE"
    id: UInt
    ok: bool
    code: str | None = None
    reason: str | None = None


# ---- supervisor and its processes ----


class Failed(Header, frozen=True, kw_only=True):
    """A process gives up for a reason that a restart would not heal."""

    KIND: ClassVar[bytes] = b"FAILED"
    process: str
    code: str
    reason: str


class Alive(Header, frozen=True, kw_only=True):
    """The loop of a process turns; every second."""

    KIND: ClassVar[bytes] = b"ALIVE"


class Assign(Header, frozen=True, kw_only=True):
    """A warm process becomes the session of this name."""

    KIND: ClassVar[bytes] = b"ASSIGN"
    session: str


class SessionLost(Header, frozen=True, kw_only=True):
    """The process of this session died; another one is on its way."""

    KIND: ClassVar[bytes] = b"SESSION_LOST"
    session: str


class SessionWanted(Header, frozen=True, kw_only=True):
    """The publisher, by way of the supervisor, to the ingest: a reader asks for this session, so
    it is not to end now, or to come back where it has ended."""

    KIND: ClassVar[bytes] = b"SESSION_WANTED"
    session: str


class SessionClosing(Header, frozen=True, kw_only=True):
    """The same way: somebody who may give orders wants this session to end now. What comes of it
    is SESSION_ENDED or SESSION_KEPT."""

    KIND: ClassVar[bytes] = b"SESSION_CLOSING"
    session: str


class SessionKept(Header, frozen=True, kw_only=True):
    """The ingest, by way of the supervisor, to the publisher: the session does not end, or does
    not come back, and why."""

    KIND: ClassVar[bytes] = b"SESSION_KEPT"
    session: str
    code: Code
    reason: str


class EndSession(Header, frozen=True, kw_only=True):
    """The ingest to the supervisor: the session saves its state and its process ends."""

    KIND: ClassVar[bytes] = b"END_SESSION"
    session: str


class SessionEnded(Header, frozen=True, kw_only=True):
    """The supervisor to ingest and publisher: the session's process ended as it was told to."""

    KIND: ClassVar[bytes] = b"SESSION_ENDED"
    session: str

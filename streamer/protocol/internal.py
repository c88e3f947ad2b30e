"""Headers between the daemon's own processes, which share a private folder of ipc sockets.

ingest <-> session on `batches`, children <-> supervisor on `control`. The framing and its checks
are those of the public protocol.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from streamer.protocol.fields import Floats9, Floats16, Header, Stamp, UInt

# ---- children and supervisor ----


class Ready(Header, frozen=True, kw_only=True):
    """A child bound its sockets; `addresses` are the resolved public ones by name."""

    KIND: ClassVar[bytes] = b"READY"
    process: str
    addresses: dict[str, str] = msgspec.field(default_factory=dict)


class NeedSession(Header, frozen=True, kw_only=True):
    """The ingest asks for a session's process; the answer is SESSION_STARTED or SESSION_REFUSED."""

    KIND: ClassVar[bytes] = b"NEED_SESSION"
    session: str


class SessionStarted(Header, frozen=True, kw_only=True):
    """The process of this session runs, or starts now."""

    KIND: ClassVar[bytes] = b"SESSION_STARTED"
    session: str


class SessionRefused(Header, frozen=True, kw_only=True):
    """No process for this session."""

    KIND: ClassVar[bytes] = b"SESSION_REFUSED"
    session: str
    code: str
    reason: str


# ---- ingest and session ----


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Frames of a session as its ingest counts them: accepted, still waiting in the ingest or in
    the journal, discarded by the live policy, rejected; `durable` says whether they are on the
    disk."""

    frames_in: UInt = msgspec.field(name="in", default=0)
    waiting: UInt = 0
    dropped: UInt = 0
    rejected: UInt = 0
    durable: bool = False


class State(Header, frozen=True, kw_only=True, omit_defaults=False):
    """Where a session stands: `want` frames would be taken now, `batch` of them at a time,
    `next_seq` is the last received seq + 1, `pose_revision` the last correction's, `done` frames
    are finished. `life` grows with every process that runs the session. `busy`: frames are worked
    on, the map is refined, or somebody paused it."""

    KIND: ClassVar[bytes] = b"STATE"
    session: str
    epoch: UInt
    life: UInt = 0
    pose_revision: int = -1
    next_seq: UInt
    want: UInt
    batch: UInt
    done: UInt
    busy: bool


class BatchFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One frame of a batch; parts: image rgb8 (H, W, 3), then depth f32, then valid u8."""

    seq: UInt
    stamp_ns: Stamp
    camera: str
    width: UInt
    height: UInt
    K: Floats9
    c2w: Floats16 | None = None
    has_depth: bool = False
    has_valid: bool = False
    received_ns: UInt = 0


class Batch(Header, frozen=True, kw_only=True):
    """Frames for a session; with `flush` it processes what it has, however little. `epoch` is the
    session's as the ingest knows it: after a RESET a batch of the epoch before is void."""

    KIND: ClassVar[bytes] = b"BATCH"
    frames: list[BatchFrame]
    counts: Counts
    epoch: UInt
    flush: bool = False


class CountsUpdate(Header, frozen=True, kw_only=True):
    """The counts when no batch carries them."""

    KIND: ClassVar[bytes] = b"COUNTS"
    counts: Counts
    epoch: UInt


class PosesForward(Header, frozen=True, kw_only=True):
    """Checked corrections, OpenCV axes; `waiting` holds [seq, stamp] of frames still in the
    ingest, `client` comes back in POSES_DONE. `received_ns` is the ingest's monotonic clock, 0 for
    those from the journal."""

    KIND: ClassVar[bytes] = b"POSES"
    revision: UInt
    client: str
    entries: list[tuple[Stamp, Floats16]]
    by: Literal["seq", "stamp"] = "seq"
    upto: Stamp | None = None
    received_upto: int = -1
    waiting: list[tuple[UInt, Stamp]] = msgspec.field(default_factory=list)
    received_ns: UInt = 0


class PosesDone(Header, frozen=True, kw_only=True):
    """What a correction moved, or why it was refused (`code`, `reason`). `before` is the first of
    the frames that the session had been handed earlier and had not begun with."""

    KIND: ClassVar[bytes] = b"POSES_DONE"
    revision: UInt
    client: str
    moved: UInt = 0
    unknown: list[Stamp] = msgspec.field(default_factory=list)
    before: UInt | None = None
    code: str | None = None
    reason: str | None = None


class ResetDone(Header, frozen=True, kw_only=True):
    """The session is empty, in a new epoch: the ingest forgets its frames."""

    KIND: ClassVar[bytes] = b"RESET_DONE"
    session: str
    epoch: UInt

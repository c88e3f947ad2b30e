"""Headers between the ingest and its clients (wire protocol, section 1).

Keys that a header does not name are ignored by its reader. Matrices are 16 float64, row-major.
What a type cannot say (a pose must be a rotation, a session must exist) is checked where the
message is acted upon.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from streamer.protocol.fields import (
    Floats16,
    Header,
    Name,
    Params,
    Side,
    Stamp,
    UInt,
    Version,
)

ImageEncoding = Literal["jpeg", "png", "rgb8", "bgr8", "mono8"]
DepthEncoding = Literal["png16", "z16", "f32"]
Policy = Literal["lossless", "live"]
Role = Literal["frames", "poses"]

# ---- client to daemon ----


class CameraHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One camera of HELLO or CAMERAS: COLMAP's model names and parameter orders, pixels."""

    model: str
    width: Side
    height: Side
    params: Params
    T_body_camera: Floats16 | None = None


class Proto(Header, frozen=True, kw_only=True):
    """Only the version, read first so that another major version is refused by name."""

    KIND: ClassVar[bytes] = b"HELLO"
    proto: Version


class Hello(Header, frozen=True, kw_only=True):
    """Who speaks, into which session, and in which convention."""

    KIND: ClassVar[bytes] = b"HELLO"
    proto: Version
    session: str
    client: Name
    role: Role = "frames"
    cameras: dict[str, CameraHeader] | None = None
    convention: str | None = None
    policy: Policy = "lossless"
    clock: Name = "unix"
    resume: bool = False


class Cameras(Header, frozen=True, kw_only=True):
    """Cameras added later."""

    KIND: ClassVar[bytes] = b"CAMERAS"
    cameras: dict[str, CameraHeader]


class DepthHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """z-depth registered to the image: stored value times `unit_m` is metres."""

    encoding: DepthEncoding
    width: Side
    height: Side
    unit_m: float


class MaskHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Non-zero pixels are to be ignored."""

    encoding: Literal["png"]


class FrameHeader(Header, frozen=True, kw_only=True):
    """One image; parts: image, then depth, then mask."""

    KIND: ClassVar[bytes] = b"FRAME"
    seq: UInt
    stamp_ns: Stamp
    camera: str
    encoding: ImageEncoding
    width: Side
    height: Side
    pose: Floats16 | None = None
    params: Params | None = None
    depth: DepthHeader | None = None
    mask: MaskHeader | None = None


class SeqOnly(Header, frozen=True, kw_only=True):
    """What must be readable of a FRAME for its sender to learn which one was refused."""

    KIND: ClassVar[bytes] = b"FRAME"
    seq: UInt


class Poses(Header, frozen=True, kw_only=True):
    """A SLAM back end's corrected poses of frames sent earlier."""

    KIND: ClassVar[bytes] = b"POSES"
    revision: UInt
    poses: list[tuple[Stamp, Floats16]]
    by: Literal["seq", "stamp"] = "seq"
    upto: Stamp | None = None


class Flush(Header, frozen=True, kw_only=True):
    """Process a partial batch now."""

    KIND: ClassVar[bytes] = b"FLUSH"


class Ping(Header, frozen=True, kw_only=True):
    """`t` is the sender's own and comes back in PONG."""

    KIND: ClassVar[bytes] = b"PING"
    t: float | int | str | None = None


class Bye(Header, frozen=True, kw_only=True):
    """The client leaves; another may send into its session."""

    KIND: ClassVar[bytes] = b"BYE"


# ---- daemon to client ----


class Welcome(Header, frozen=True, kw_only=True):
    """The session is open; `next_seq` is the first frame not yet settled."""

    KIND: ClassVar[bytes] = b"WELCOME"
    proto: Version
    session: str
    epoch: UInt
    credit: UInt
    next_seq: UInt
    durable: bool


class Ack(Header, frozen=True, kw_only=True):
    """Everything up to `seq` is settled (-1: nothing yet); `dropped` counts the live policy's."""

    KIND: ClassVar[bytes] = b"ACK"
    seq: int
    credit: UInt
    dropped: UInt


class Reject(Header, frozen=True, kw_only=True):
    """This frame was not taken; the stream goes on."""

    KIND: ClassVar[bytes] = b"REJECT"
    seq: UInt
    code: str
    reason: str


class PosesAck(Header, frozen=True, kw_only=True):
    """How many chunks moved, and the seqs or stamps that were never seen."""

    KIND: ClassVar[bytes] = b"POSES_ACK"
    revision: UInt
    moved: UInt
    unknown: list[Stamp]


class Error(Header, frozen=True, kw_only=True):
    """The connection's state is unusable: say HELLO again on a new socket. In the answer to POSES
    `revision` is the refused one, and the connection goes on."""

    KIND: ClassVar[bytes] = b"ERROR"
    code: str
    reason: str
    revision: UInt | None = None


class Pong(Header, frozen=True, kw_only=True):
    """The answer to PING."""

    KIND: ClassVar[bytes] = b"PONG"
    t: float | int | str | None = None

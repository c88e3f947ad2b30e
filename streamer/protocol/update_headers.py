"""Headers of section 2 of the wire protocol: what carries the map. No torch, no map in here:
the publisher forwards chunks by these alone.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from streamer.protocol.errors import ProtocolError
from streamer.protocol.fields import Floats16, Header, Stamp, UInt, Version
from streamer.protocol.limits import PROTO_VERSION

ChunkId = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Floats6 = Annotated[list[float], msgspec.Meta(min_length=6, max_length=6)]

DAEMON_HEARTBEAT_TOPIC = b"/_daemon/heartbeat"


class PartSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Name, dtype and shape of one raw part."""

    name: str
    dtype: str
    shape: list[UInt]


class UpdateHeader(Header, frozen=True, kw_only=True, omit_defaults=False):
    """What every update carries; `seq` counts chunk, move, drop and reset of one epoch."""

    proto: Version = msgspec.field(default=PROTO_VERSION)
    session: str
    epoch: UInt
    seq: UInt


class ChunkHeader(UpdateHeader, frozen=True, kw_only=True, omit_defaults=False):
    """The splats of one key frame, in that key frame's camera frame."""

    KIND: ClassVar[bytes] = b"chunk"
    chunk: ChunkId
    revision: UInt
    content: UInt
    count: UInt
    frame_seq: UInt
    stamp_ns: Stamp
    camera: str
    T_world_chunk: Floats16
    aabb: Floats6
    sh_degree: UInt
    codec: str
    parts: list[PartSpec]


class MoveHeader(UpdateHeader, frozen=True, kw_only=True, omit_defaults=False):
    """New `T_world_chunk` of chunks whose splats stay."""

    KIND: ClassVar[bytes] = b"move"
    moves: list[tuple[ChunkId, UInt, Floats16]]


class DropHeader(UpdateHeader, frozen=True, kw_only=True, omit_defaults=False):
    """Chunks that are gone."""

    KIND: ClassVar[bytes] = b"drop"
    chunks: list[tuple[ChunkId, UInt]]


class ResetHeader(UpdateHeader, frozen=True, kw_only=True, omit_defaults=False):
    """The map is empty."""

    KIND: ClassVar[bytes] = b"reset"


class LatencyMs(msgspec.Struct, frozen=True, kw_only=True):
    """Receipt of a frame at the ingest to the publication of what it changed, milliseconds."""

    p50: float
    p95: float


class StatusHeader(UpdateHeader, frozen=True, kw_only=True, omit_defaults=False):
    """Counters of the session, with in = done + waiting + dropped."""

    KIND: ClassVar[bytes] = b"status"
    frames_in: UInt = 0
    frames_done: UInt = 0
    frames_waiting: UInt = 0
    frames_dropped: UInt = 0
    frames_rejected: UInt = 0
    keyframes: UInt = 0
    splats: UInt = 0
    splats_ready: UInt = 0
    """Splats in the session's memory, where they are refined."""
    splats_on_disk: UInt = 0
    """Splats out of sight, whether the map still shows them or not."""
    keyframe_side: UInt | None = None
    """Long side in pixels that the newest key frames were predicted at: less than that of the
    frames where time is short."""
    batch_ms: float | None = None
    latency_ms: LatencyMs | None = None
    psnr: float | None = None
    state: str = "starting"
    durable: bool = False
    """Whether frames are on the disk when they are acknowledged."""
    model: str = ""
    """What predicts the splats, in words."""


class HeartbeatHeader(UpdateHeader, frozen=True, kw_only=True, omit_defaults=False):
    """Every second, with the current seq."""

    KIND: ClassVar[bytes] = b"heartbeat"


class DaemonHeartbeat(Header, frozen=True, kw_only=True, omit_defaults=False):
    """`/_daemon/heartbeat`: the publisher lives, whatever its sessions do."""

    KIND: ClassVar[bytes] = b"heartbeat"
    proto: Version = msgspec.field(default=PROTO_VERSION)


UPDATE_HEADERS: dict[bytes, type[UpdateHeader]] = {
    header.KIND: header
    for header in (ChunkHeader, MoveHeader, DropHeader, ResetHeader, StatusHeader, HeartbeatHeader)
}
"""The struct of every kind of update."""

COUNTED = frozenset({ChunkHeader.KIND, MoveHeader.KIND, DropHeader.KIND, ResetHeader.KIND})
"""Kinds that take the next `seq`; the others repeat the current one."""


def topic(session: str, kind: bytes) -> bytes:
    """Where a message of a session is published."""
    return b"/" + session.encode() + b"/" + kind


def check_version(proto: tuple[int, int]) -> None:
    """Refuse another major version by name.

    Raises:
        ProtocolError: `bad_version`.
    """
    if proto[0] != PROTO_VERSION[0]:
        raise ProtocolError(
            "bad_version",
            f"proto: {list(proto)} came, this program speaks {list(PROTO_VERSION)}: "
            "use releases of the same major version",
        )

"""What a message may cost its reader at most; checked before anything is allocated for it."""

from __future__ import annotations

PROTO_VERSION = (1, 0)

MAX_KIND_BYTES = 32
MAX_HEADER_BYTES = 64 << 10
MAX_LARGE_HEADER_BYTES = 4 << 20
MAX_PART_BYTES = 64 << 20
MAX_PARTS = 16
MAX_SIDE = 16384
ENTRIES_PER_MESSAGE = 10_000
"""Moves or drops: 1.6 MB of their header's 4 MiB."""
MAX_INT = 2**53 - 1
MAX_STAMP = 2**63 - 1
"""Times are int64 nanoseconds: a present unix time does not fit into 2^53 - 1."""

MAX_INTERNAL_PARTS = 1024
"""Between the daemon's own processes a batch carries up to three parts a frame."""

LARGE_HEADER_KINDS = frozenset(
    {
        b"POSES",
        b"POSES_ACK",
        b"POSES_DONE",
        b"move",
        b"drop",
        b"MANIFEST",
        b"SNAPSHOT",
        b"KEYFRAMES",
        b"BATCH",
        b"keyframes",
        b"keyframes_moved",
    }
)
"""Kinds whose header grows with the map or with the number of corrected poses."""


MAX_CONTAINERS = 1 << 18
"""Arrays and maps in one header: an empty one has a byte on the wire, and 64 in memory."""


def header_limit(kind: bytes) -> int:
    """Most bytes that the header of a message of this kind may have."""
    return MAX_LARGE_HEADER_BYTES if kind in LARGE_HEADER_KINDS else MAX_HEADER_BYTES

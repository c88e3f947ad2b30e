"""The key frames of one session, as the publisher answers for them: a stream has no end, memory
and messages have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from streamer.protocol import Buffer
from streamer.protocol.limits import ENTRIES_PER_MESSAGE
from streamer.protocol.requests import KeyframeEntry

PICTURED = 512
"""The newest key frames have a thumbnail, as in the session."""


class KeyframeList:
    """Key frames by seq, with the pictures of the newest of them.

    Args:
        most: beyond it those leave that have no chunk in the map, the longest known first; where
            all have one, the longest known.
    """

    def __init__(self, most: int = ENTRIES_PER_MESSAGE, pictured: int = PICTURED) -> None:
        self._most = most
        self._pictured = pictured
        self._entries: dict[int, KeyframeEntry] = {}
        self._thumbnails: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[KeyframeEntry]:
        """All of them, in order of seq."""
        return sorted(self._entries.values(), key=lambda entry: entry.seq)

    def thumbnails(self, entries: Iterable[KeyframeEntry]) -> list[bytes]:
        """Their JPEGs, empty where there is none (any more)."""
        return [self._thumbnails.get(entry.seq, b"") for entry in entries]

    def add(self, entries: Sequence[KeyframeEntry], thumbnails: Sequence[Buffer]) -> None:
        """Take new ones, or what changed of known ones, each with its thumbnail."""
        for entry, thumbnail in zip(entries, thumbnails, strict=True):
            self._entries[entry.seq] = entry
            # A copy: a part of a message keeps the whole buffer alive that it was received in.
            if picture := bytes(thumbnail):
                self._thumbnails[entry.seq] = picture
        for seq in list(self._thumbnails)[: -self._pictured]:
            del self._thumbnails[seq]
        self._forget(len(self._entries) - self._most)

    def move(self, poses: Iterable[tuple[int, list[float]]]) -> None:
        """Corrected cameras, (seq, 16 numbers of `c2w`); of others, too."""
        for seq, pose in poses:
            held = self._entries.get(seq)
            if held is not None:
                self._entries[seq] = msgspec.structs.replace(held, c2w=pose)

    def _forget(self, count: int) -> None:
        if count <= 0:
            return
        without = [seq for seq, entry in self._entries.items() if entry.chunk is None]
        with_chunk = [seq for seq, entry in self._entries.items() if entry.chunk is not None]
        for seq in (without + with_chunk)[:count]:
            del self._entries[seq]
            self._thumbnails.pop(seq, None)

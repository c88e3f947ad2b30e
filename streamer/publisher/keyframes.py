"""The key frames of one session, as the publisher answers for them: a stream has no end, memory
and messages have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from streamer.keyframe_columns import KeyframeColumns, KeyframeRow
from streamer.protocol import Buffer
from streamer.protocol.limits import ENTRIES_PER_MESSAGE
from streamer.protocol.requests import KeyframeEntry

PICTURED = 512
"""The newest key frames have a thumbnail, as in the session."""


class KeyframeList:
    """Key frames by seq, with the pictures of the newest of them.

    Args:
        most: beyond it those leave that have no chunk in the map, the oldest first; where all have
            one, the oldest.
    """

    def __init__(self, most: int = ENTRIES_PER_MESSAGE, pictured: int = PICTURED) -> None:
        self._most = most
        self._pictured = pictured
        self._columns = KeyframeColumns()
        self._thumbnails: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._columns)

    def entries(self, newest: int | None = None) -> list[KeyframeEntry]:
        """All of them, or the last so many, in order of seq."""
        count = len(self._columns)
        first = 0 if newest is None else max(0, count - newest)
        return [self._columns.row(place).entry() for place in range(first, count)]

    def thumbnails(self, entries: Iterable[KeyframeEntry]) -> list[bytes]:
        """Their JPEGs, empty where there is none (any more)."""
        return [self._thumbnails.get(entry.seq, b"") for entry in entries]

    def add(self, entries: Sequence[KeyframeEntry], thumbnails: Sequence[Buffer]) -> None:
        """Take new ones, or what changed of known ones, each with its thumbnail."""
        for entry, thumbnail in zip(entries, thumbnails, strict=True):
            c2w = np.reshape(entry.c2w, (4, 4))
            row = KeyframeRow(entry.seq, entry.stamp_ns, entry.camera, entry.chunk, c2w)
            self._columns.put(row)
            # A copy: a part of a message keeps the whole buffer alive that it was received in.
            if picture := bytes(thumbnail):
                self._thumbnails[entry.seq] = picture
        for seq in list(self._thumbnails)[: -self._pictured]:
            del self._thumbnails[seq]
        self._forget(len(self._columns) - self._most)

    def move(self, poses: Iterable[tuple[int, list[float]]]) -> None:
        """Corrected cameras, (seq, 16 numbers of `c2w`); of others, too."""
        cameras = dict(poses)
        places = self._columns.places(cameras)
        known = self._columns.seqs[places].tolist()
        self._columns.poses[places] = np.reshape([cameras[seq] for seq in known], (-1, 4, 4))

    def _forget(self, count: int) -> None:
        if count <= 0:
            return
        with_chunk = self._columns.chunks >= 0
        leaving = np.argsort(with_chunk, kind="stable")[:count]
        for seq in self._columns.seqs[leaving].tolist():
            self._thumbnails.pop(seq, None)
        self._columns.remove(leaving)

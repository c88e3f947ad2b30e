"""The key frames of a session: what is told of each, and pictures of the newest of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from streamer.keyframe_columns import KeyframeColumns
from streamer.session.outbox import Keyframe

Float64 = NDArray[np.float64]

PICTURED = 512
"""Key frames that keep their thumbnail: a stream has no end, memory has."""


class KeyframeTable(Mapping[int, Keyframe]):
    """seq → key frame, in the order they came, which is that of their seqs."""

    def __init__(self, pictured: int = PICTURED) -> None:
        self._limit = pictured
        self._columns = KeyframeColumns()
        self._pictures: dict[int, bytes] = {}
        self._changed: set[int] = set()
        self._moved: dict[int, Float64] = {}

    def __getitem__(self, seq: int) -> Keyframe:
        place = self._columns.find(seq)
        if place is None:
            raise KeyError(seq)
        return self._keyframe(place)

    def __iter__(self) -> Iterator[int]:
        return iter(self._columns.seqs.tolist())

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, seq: object) -> bool:
        return seq in self._columns

    @property
    def columns(self) -> KeyframeColumns:
        """All but the pictures; not to be written to."""
        return self._columns

    def picture(self, seq: int) -> bytes:
        """Its thumbnail, empty where it has none (any more)."""
        return self._pictures.get(seq, b"")

    def slice(self, start: int, stop: int) -> list[Keyframe]:
        """Some of them by their places, in order."""
        return [self._keyframe(place) for place in range(len(self))[start:stop]]

    def copy(self) -> KeyframeTable:
        """As they are now; what nobody was told of yet is not copied."""
        twin = KeyframeTable(self._limit)
        twin._columns, twin._pictures = self._columns.copy(), dict(self._pictures)
        return twin

    def add(self, keyframe: Keyframe) -> None:
        """Take a new one; the oldest picture goes where there are too many."""
        self._columns.put(keyframe)
        if keyframe.thumbnail:
            self._pictures[keyframe.seq] = keyframe.thumbnail
        if len(self._pictures) > self._limit:
            del self._pictures[next(iter(self._pictures))]

    def those(self, seqs: Iterable[int]) -> list[int]:
        """Which of these frames are key frames, in order."""
        return self._columns.seqs[self._columns.places(seqs)].tolist()

    def forget_chunks(self, gone: Collection[int]) -> None:
        """These chunks are no more: their key frames have none from now on."""
        places = np.flatnonzero(np.isin(self._columns.chunks, np.fromiter(gone, np.int64)))
        self._columns.chunks[places] = -1
        self._changed.update(self._columns.seqs[places].tolist())

    def move(self, cameras: Mapping[int, Float64]) -> None:
        """Take corrected cameras: seq → (4, 4) rigid camera to world; of other frames, too."""
        places = self._columns.places(cameras)
        moved = {seq: cameras[seq] for seq in self._columns.seqs[places].tolist()}
        self._columns.poses[places] = np.reshape(list(moved.values()), (-1, 4, 4))
        self._moved.update(moved)

    def tie(self, seq: int, chunk: int) -> None:
        """A key frame's chunk is there again."""
        place = self._columns.find(seq)
        assert place is not None, "a chunk is made of a key frame"
        self._columns.chunks[place] = chunk
        self._changed.add(seq)

    def take_changed(self) -> list[Keyframe]:
        """The key frames that lost their chunk, or got it back, since the last call."""
        changed = [self[seq] for seq in sorted(self._changed)]
        self._changed.clear()
        return changed

    def take_moved(self) -> dict[int, Float64]:
        """The corrected cameras since the last call."""
        moved, self._moved = self._moved, {}
        return moved

    def _keyframe(self, place: int) -> Keyframe:
        row = self._columns.row(place)
        return Keyframe(
            seq=row.seq,
            stamp_ns=row.stamp_ns,
            camera=row.camera,
            chunk=row.chunk,
            c2w=row.c2w,
            thumbnail=self.picture(row.seq),
        )

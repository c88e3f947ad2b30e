"""Key frames in arrays, as objects each would take several times as much: a stream has no end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.growing import roomier
from streamer.protocol.requests import KeyframeEntry

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_ROW = np.dtype(
    [
        ("seq", np.int64),
        ("stamp_ns", np.int64),
        ("chunk", np.int64),
        ("camera", np.int64),
        ("c2w", np.float64, (4, 4)),
    ]
)


@dataclass(frozen=True, slots=True)
class KeyframeRow:
    """A key frame; `c2w` (4, 4) float64, a copy; `chunk` is None where it has none."""

    seq: int
    stamp_ns: int
    camera: str
    chunk: int | None
    c2w: Float64

    def entry(self) -> KeyframeEntry:
        """As others are told of it."""
        return KeyframeEntry(
            seq=self.seq,
            stamp_ns=self.stamp_ns,
            camera=self.camera,
            chunk=self.chunk,
            c2w=self.c2w.reshape(-1).tolist(),
        )


class KeyframeColumns:
    """Rows in order of seq, each at its place from 0; 160 bytes a row."""

    def __init__(self) -> None:
        self._rows: NDArray[Any] = np.zeros(0, _ROW)
        self._count = 0
        self._cameras: list[str] = []

    def __len__(self) -> int:
        return self._count

    def __contains__(self, seq: object) -> bool:
        return isinstance(seq, int) and self.find(seq) is not None

    @property
    def seqs(self) -> Int64:
        """(N,) rising; a view, as are the others."""
        return self._rows["seq"][: self._count]

    @property
    def stamps(self) -> Int64:
        """(N,) nanoseconds."""
        return self._rows["stamp_ns"][: self._count]

    @property
    def chunks(self) -> Int64:
        """(N,), -1 for none; to be written to."""
        return self._rows["chunk"][: self._count]

    @property
    def poses(self) -> Float64:
        """(N, 4, 4) camera to world; to be written to."""
        return self._rows["c2w"][: self._count]

    def cameras(self) -> list[str]:
        """Of each row."""
        return [self._cameras[index] for index in self._rows["camera"][: self._count].tolist()]

    def find(self, seq: int) -> int | None:
        """Its place; None where there is no such key frame."""
        place = int(np.searchsorted(self.seqs, seq))
        return place if place < self._count and self._rows["seq"][place] == seq else None

    def places(self, seqs: Iterable[int]) -> Int64:
        """Of those that are known, in order."""
        wanted = np.fromiter(seqs, np.int64)
        return np.flatnonzero(np.isin(self.seqs, wanted))

    def row(self, place: int) -> KeyframeRow:
        """The key frame at a place."""
        seq, stamp_ns, chunk, camera, c2w = self._rows[place].tolist()
        name = self._cameras[camera]
        return KeyframeRow(seq, stamp_ns, name, None if chunk < 0 else chunk, np.array(c2w))

    def put(self, row: KeyframeRow) -> None:
        """Take a new one, or the newest of a known one."""
        place = int(np.searchsorted(self.seqs, row.seq))
        if place == self._count or self._rows["seq"][place] != row.seq:
            self._open(place)
        if row.camera not in self._cameras:
            self._cameras.append(row.camera)
        chunk = -1 if row.chunk is None else row.chunk
        camera = self._cameras.index(row.camera)
        self._rows[place] = (row.seq, row.stamp_ns, chunk, camera, row.c2w)

    def remove(self, places: Int64) -> None:
        """Forget the key frames at these places."""
        left = np.delete(self._rows[: self._count], places)
        self._rows[: len(left)] = left
        self._count = len(left)

    def copy(self) -> KeyframeColumns:
        """Another one, that is changed by itself."""
        twin = KeyframeColumns()
        twin._rows, twin._count = self._rows[: self._count].copy(), self._count
        twin._cameras = list(self._cameras)
        return twin

    def _open(self, place: int) -> None:
        if self._count == len(self._rows):
            self._rows = roomier(self._rows)
        self._rows[place + 1 : self._count + 1] = self._rows[place : self._count]
        self._count += 1

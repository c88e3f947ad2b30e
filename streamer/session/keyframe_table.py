"""The key frames of a session: what is told of each, and pictures of the newest of them."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from streamer.session.outbox import Keyframe

Float64 = NDArray[np.float64]

PICTURED = 512
"""Key frames that keep their thumbnail: a stream has no end, memory has."""


class KeyframeTable(dict[int, Keyframe]):
    """seq → key frame, in the order they came."""

    def __init__(self, pictured: int = PICTURED) -> None:
        super().__init__()
        self._limit = pictured
        self._pictured: deque[int] = deque()
        self._changed: set[int] = set()
        self._moved: dict[int, Float64] = {}

    def add(self, keyframe: Keyframe) -> None:
        """Take a new one; the oldest picture goes where there are too many."""
        self[keyframe.seq] = keyframe
        self._pictured.append(keyframe.seq)
        if len(self._pictured) > self._limit:
            oldest = self._pictured.popleft()
            self[oldest] = dataclasses.replace(self[oldest], thumbnail=b"")

    def forget_chunks(self, gone: Collection[int]) -> None:
        """These chunks are no more: their key frames have none from now on."""
        for seq, keyframe in self.items():
            if keyframe.chunk in gone:
                self[seq] = dataclasses.replace(keyframe, chunk=None)
                self._changed.add(seq)

    def move(self, cameras: Mapping[int, Float64]) -> None:
        """Take corrected cameras: seq → (4, 4) rigid camera to world; of other frames, too."""
        for seq, camera in cameras.items():
            if seq in self:
                self[seq] = self[seq].moved(camera)
                self._moved[seq] = camera

    def tie(self, seq: int, chunk: int) -> None:
        """A key frame's chunk is there again."""
        self[seq] = dataclasses.replace(self[seq], chunk=chunk)
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

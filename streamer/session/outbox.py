"""Where an engine's results go: the interface between the engine and whatever carries them on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Update
from streamer.keyframe_columns import KeyframeRow

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframe(KeyframeRow):
    """A frame the map was built from; `chunk` is None where nothing of it is in the map.

    `c2w` (4, 4) float64 camera to world, rigid; `thumbnail` a JPEG of at most 160 px, empty where
    it was given up for newer ones.
    """

    thumbnail: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """Figures of a session; `latency_ms` is (p50, p95) from receipt to publication, `psnr` the mean
    over recently refined views in dB, `model` what predicts, in words. `splats` are in the map;
    of these and those that it has dropped, `splats_ready` are in memory, `splats_on_disk` not.
    `keyframe_side` is the long side in pixels that the newest key frames were predicted at."""

    keyframes: int
    splats: int
    splats_ready: int
    splats_on_disk: int
    keyframe_side: int | None
    batch_ms: float
    latency_ms: tuple[float, float] | None
    psnr: float | None
    steps: int
    model: str


class Latencies:
    """The last ones of a session, in any unit."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=256)

    def add(self, latency: float) -> None:
        self._last.append(latency)

    def percentiles(self) -> tuple[float, float] | None:
        """p50 and p95; None before the first."""
        if not self._last:
            return None
        p50, p95 = np.percentile(np.array(self._last), (50, 95)).tolist()
        return p50, p95


class Outbox:
    """Takes results and does nothing with them: the base of those that do."""

    @property
    def ready(self) -> bool:
        """Whether changes of the map are taken now; until then they add up in the map, chunk by
        chunk."""
        return True

    def updates(self, updates: Sequence[Update]) -> None:
        """Changes of the map, to be applied in order."""

    def keyframes(self, added: Sequence[Keyframe]) -> None:
        """New key frames, and those that lost their chunk."""

    def keyframes_moved(self, poses: Mapping[int, Float64]) -> None:
        """Corrected cameras of key frames: seq → (4, 4) camera to world."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Tell how long what is done within took."""
        began = time.perf_counter()
        yield
        self.took(stage, time.perf_counter() - began)

    def took(self, stage: str, seconds: float) -> None:
        """A stage of the engine's work is done: `batch`, and within it `keyframes`, `predict`,
        `fuse`, `publish`, `spill`; `refine` for one step; `correct` for one correction of poses
        until readers are told, `follow` for the rest of it, `correction` from its receipt at the
        ingest until readers are told."""

    def latency(self, seconds: float) -> None:
        """From a frame's receipt at the ingest to the publication of what it changed."""

"""Where an engine's results go: the interface between the engine and whatever carries them on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Update

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframe:
    """A frame the map was built from; `chunk` is None where nothing of it is in the map.

    `c2w` (4, 4) float64 camera to world, rigid; `thumbnail` a JPEG of at most 160 px, empty where
    it was given up for newer ones.
    """

    seq: int
    stamp_ns: int
    camera: str
    chunk: int | None
    c2w: Float64
    thumbnail: bytes

    def moved(self, c2w: Float64) -> Keyframe:
        return dataclasses.replace(self, c2w=c2w)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """Figures of a session; `latency_ms` is (p50, p95) from receipt to publication, `psnr` the mean
    over recently refined views in dB, `model` what predicts, in words."""

    keyframes: int
    splats: int
    batch_ms: float
    latency_ms: tuple[float, float] | None
    psnr: float | None
    steps: int
    model: str


class Outbox:
    """Takes results and does nothing with them: the base of those that do."""

    def updates(self, updates: Sequence[Update]) -> None:
        """Changes of the map, to be applied in order."""

    def keyframes(self, added: Sequence[Keyframe]) -> None:
        """New key frames, and those that lost their chunk."""

    def keyframes_moved(self, poses: Mapping[int, Float64]) -> None:
        """Corrected cameras of key frames: seq → (4, 4) camera to world."""

    def took(self, stage: str, seconds: float) -> None:
        """A stage of the engine's work is done: `batch`, and within it `keyframes`, `predict`,
        `fuse`, `publish`; `refine` for one step; `correct` for one correction of poses.
        """

    def latency(self, seconds: float) -> None:
        """From a frame's receipt at the ingest to the publication of what it changed."""

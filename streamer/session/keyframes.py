"""Which frames become key frames: by coverage, not by count.

A frame becomes one when it shows what the map does not hold, or looks from far enough away from
every key frame so far. The rest still serve: refinement uses every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.growing import roomier

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframeConfig:
    """Attributes:
    novelty: a frame this far from every key frame is one, whatever the map shows; a unit is
        `translation` of the scene's depth, or `rotation_deg`.
    unseen: share of the image that the map leaves empty beyond which a frame is a key frame,
        from half the novelty on.
    """

    novelty: float = 1.0
    translation: float = 0.06
    rotation_deg: float = 6.0
    unseen: float = 0.08


class KeyframeSelector:
    """Remembers the poses of the key frames and judges new frames."""

    def __init__(self, config: KeyframeConfig | None = None) -> None:
        self.config = config or KeyframeConfig()
        self._count = 0
        self._seqs: Int64 = np.zeros(0, np.int64)
        self._centres = np.zeros((0, 3))
        self._axes = np.zeros((0, 3))

    def novelty(self, c2w: Float64, depth: float) -> float:
        """Distance to the nearest key frame, in units of `translation` and `rotation_deg`.

        Args:
            c2w: (4, 4) camera to world. depth: the scene's median depth there, world units.
        """
        if not self._count:
            return np.inf
        distance = np.linalg.norm(self._centres[: self._count] - c2w[:3, 3], axis=1)
        cosine = np.clip(self._axes[: self._count] @ c2w[:3, 2], -1.0, 1.0)
        shift = distance / (self.config.translation * max(depth, 1e-9))
        turn = np.degrees(np.arccos(cosine)) / self.config.rotation_deg
        return float(np.hypot(shift, turn).min())

    def is_keyframe(self, c2w: Float64, depth: float, unseen: float) -> bool:
        """Judge a frame.

        Args:
            unseen: share of its pixels that the map leaves empty.
        """
        novelty = self.novelty(c2w, depth)
        if novelty >= self.config.novelty:
            return True
        return unseen > self.config.unseen and novelty >= 0.5 * self.config.novelty

    def add(self, seq: int, c2w: Float64) -> None:
        place = self._count
        if place == len(self._seqs):
            self._seqs = roomier(self._seqs)
            self._centres, self._axes = roomier(self._centres), roomier(self._axes)
        self._seqs[place] = seq
        self._centres[place], self._axes[place] = c2w[:3, 3], c2w[:3, 2]
        self._count += 1

    def move(self, poses: dict[int, Float64]) -> None:
        """Take corrected poses of key frames."""
        seqs = self._seqs[: self._count]
        places = np.flatnonzero(np.isin(seqs, np.fromiter(poses, np.int64)))
        moved = np.reshape([poses[seq] for seq in seqs[places].tolist()], (-1, 4, 4))
        self._centres[places] = moved[:, :3, 3]
        self._axes[places] = moved[:, :3, 2] / np.linalg.norm(moved[:, :3, 2], axis=1)[:, None]

    def places(self) -> tuple[Int64, Float64, Float64]:
        """A copy of what is remembered: seqs (N,), centres (N, 3), viewing axes (N, 3)."""
        used = slice(0, self._count)
        return self._seqs[used].copy(), self._centres[used].copy(), self._axes[used].copy()

    def remember(self, seqs: Int64, centres: Float64, axes: Float64) -> None:
        """What `places` gave, in the place of what was remembered."""
        self._count = len(seqs)
        self._seqs, self._centres, self._axes = seqs.copy(), centres.copy(), axes.copy()

"""Corrections that readers know of while a batch under way still works with the old poses.

A loop closure is published when it comes. What the batch under way works on (splats and views under
refinement, the key frame selector, the model) stays as it was until the batch is done, and follows
then: as if the correction had come right after it. Between the two, this says where things were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamer.session.corrections import Moved, rigid

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Announced:
    """A correction that readers were told of.

    Attributes:
        motions: (N, 4, 4) of the frames that moved, new @ old^-1.
        places: seq → its place among the frames that moved.
        chunks: chunk → `T_world_chunk` (4, 4) before it moved.
    """

    moved: Moved
    motions: Float64
    places: dict[int, int]
    chunks: dict[int, Float64] = field(default_factory=dict)

    @staticmethod
    def of(moved: Moved) -> Announced:
        """Nothing is announced yet."""
        motions = moved.after @ np.linalg.inv(moved.before)
        return Announced(moved, motions, {s: p for p, s in enumerate(moved.seqs)})

    @cached_property
    def cameras(self) -> dict[int, Float64]:
        """seq → (4, 4) rigid camera to world, corrected; readers need not wait for it."""
        return dict(zip(self.moved.seqs, rigid(self.moved.after)))

    def chunk_motions(self, chunk_of_seq: Mapping[int, int]) -> tuple[list[int], Float64]:
        """The chunks of the frames that have one, in order of seq, and their motions (C, 4, 4)."""
        held = [place for seq, place in self.places.items() if seq in chunk_of_seq]
        return [chunk_of_seq[self.moved.seqs[place]] for place in held], self.motions[held]


class Ahead:
    """What of the published map is ahead of what a batch under way works on."""

    def __init__(self) -> None:
        self._announced: deque[Announced] = deque()

    def put(self, announced: Announced) -> None:
        """Readers were told; the rest is to follow."""
        self._announced.append(announced)

    def take(self) -> Announced | None:
        """The next one whose rest follows now."""
        return self._announced.popleft() if self._announced else None

    def chunk(self, chunk: int, shown: Float64) -> Float64:
        """Where the batch under way has a chunk that is shown at `shown` (4, 4)."""
        known = (a.chunks[chunk] for a in self._announced if chunk in a.chunks)
        return next(known, shown)

    def frame(self, seq: int, corrected: Float64) -> Float64:
        """The similarity of a frame in the batch under way, by now `corrected` (4, 4)."""
        known = (a.moved.before[a.places[seq]] for a in self._announced if seq in a.places)
        return next(known, corrected)

    def join(self, seq: int, chunk: int, pose: Float64) -> Float64:
        """Where a chunk is to be shown that the batch under way makes of a frame at `pose`."""
        for announced in self._announced:
            if seq in announced.places:
                announced.chunks[chunk] = pose
                # As a stack, like all the others: not one bit may differ.
                place = announced.places[seq]
                pose = (announced.motions[place : place + 1] @ pose[None])[0]
        return pose

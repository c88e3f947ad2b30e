"""A copy of a map, kept up to date by its updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from gs_decoder.chunk import Chunk
from gs_decoder.splats import Splats
from gs_decoder.updates import (
    ChunkUpdate,
    DropUpdate,
    Have,
    MoveUpdate,
    ResetUpdate,
    Update,
    difference,
)
from gs_decoder.world import to_world, world_origin


class MapMirror:
    """The chunks of one epoch of a map, fed with updates.

    Applying is idempotent and, once every update has come, independent of their order. A lost
    update is repaired by a snapshot: `for update in source.snapshot(mirror.have()): apply(update)`.
    One thread at a time.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, revisions too: a new epoch begins."""
        self._chunks: dict[int, Chunk] = {}
        self._count = 0
        # Revision of the drop of ids that are gone, so that a late chunk does not come back.
        self._dropped: dict[int, int] = {}
        # Moves that came before their chunk.
        self._early_moves: dict[int, tuple[int, np.ndarray]] = {}
        self._reset = 0
        self._clock = 0

    @property
    def chunks(self) -> Mapping[int, Chunk]:
        """Chunks by id; a live, read-only view, in order of arrival."""
        return MappingProxyType(self._chunks)

    @property
    def count(self) -> int:
        """Number of splats."""
        return self._count

    @property
    def clock(self) -> int:
        """The highest revision seen."""
        return self._clock

    def apply(self, update: Update) -> set[int]:
        """Join one update; returns the ids of the chunks that it changed, added or removed."""
        if isinstance(update, ChunkUpdate):
            return self._join_chunk(update.chunk)
        if isinstance(update, MoveUpdate):
            return self._join_moves(update.moves)
        if isinstance(update, DropUpdate):
            return {i for i, revision in update.chunks if self._join_drop(i, revision)}
        return self._join_reset(update)

    def _gone(self, identity: int, revision: int) -> bool:
        return revision <= max(self._reset, self._dropped.get(identity, 0))

    def _join_chunk(self, chunk: Chunk) -> set[int]:
        self._clock = max(self._clock, chunk.revision)
        if self._gone(chunk.id, chunk.revision):
            return set()
        held = self._chunks.get(chunk.id)
        if held is None:
            self._chunks[chunk.id] = chunk
            self._count += chunk.count
            early = self._early_moves.pop(chunk.id, None)
            if early is not None:
                self._join_moves([(chunk.id, *early)])
            return {chunk.id}
        # Content and pose grow apart: a late chunk may bring newer splats under an older pose.
        newer_content, newer_pose = chunk.content > held.content, chunk.revision > held.revision
        if not (newer_content or newer_pose):
            return set()
        splats, pose = (chunk if newer_content else held), (chunk if newer_pose else held)
        self._count += splats.count - held.count
        self._chunks[chunk.id] = (
            chunk if splats is pose else splats.moved(pose.revision, pose.T_world_chunk)
        )
        return {chunk.id}

    def _join_moves(self, moves: Iterable[tuple[int, int, np.ndarray]]) -> set[int]:
        # A loop closure brings thousands, and somebody waits for it.
        chunks, changed = self._chunks, set[int]()
        for identity, revision, pose in moves:
            held = chunks.get(identity)
            if held is None:
                self._note_early(identity, revision, pose)
            elif revision > held.revision:
                # So above every drop and reset, which it has outlived.
                chunks[identity] = held.moved(revision, pose)
                changed.add(identity)
            if revision > self._clock:
                self._clock = revision
        return changed

    def _note_early(self, identity: int, revision: int, pose: np.ndarray) -> None:
        early = self._early_moves.get(identity, (0, pose))[0]
        if revision > early and not self._gone(identity, revision):
            self._early_moves[identity] = (revision, pose)

    def _join_drop(self, identity: int, revision: int) -> bool:
        self._clock = max(self._clock, revision)
        self._dropped[identity] = max(revision, self._dropped.get(identity, 0))
        if self._early_moves.get(identity, (revision + 1, None))[0] <= revision:
            del self._early_moves[identity]
        held = self._chunks.get(identity)
        if held is None or held.revision > revision:
            return False
        self._count -= self._chunks.pop(identity).count
        return True

    def _join_reset(self, update: ResetUpdate) -> set[int]:
        if update.revision is None:
            gone = set(self._chunks)
            self._early_moves.clear()
        else:
            self._clock = max(self._clock, update.revision)
            self._reset = floor = max(self._reset, update.revision)
            gone = {i for i, chunk in self._chunks.items() if chunk.revision <= floor}
            self._early_moves = {i: m for i, m in self._early_moves.items() if m[0] > floor}
            self._dropped = {i: r for i, r in self._dropped.items() if r > floor}
        for identity in gone:
            self._count -= self._chunks.pop(identity).count
        return gone

    def have(self) -> list[Have]:
        """(chunk, content, revision) of everything held: what a snapshot request sends."""
        return [(c.id, c.content, c.revision) for c in self._chunks.values()]

    def manifest(self) -> list[tuple[int, int, int, int]]:
        """(chunk, content, revision, count) of everything held."""
        return [(c.id, c.content, c.revision, c.count) for c in self._chunks.values()]

    def snapshot(self, have: Iterable[Have] = ()) -> list[Update]:
        """The updates that bring a mirror of the same epoch with `have` to this state."""
        return difference(self._chunks, self._dropped, self._clock, have)

    def equals(self, other: MapMirror) -> bool:
        """Whether both hold the same chunks to the bit, whatever the order."""
        return self._chunks.keys() == other._chunks.keys() and all(
            chunk.equals(other._chunks[identity]) for identity, chunk in self._chunks.items()
        )

    def origin(self) -> np.ndarray:
        """(3,) float64: where a float32 copy of this map should have its origin."""
        return world_origin(self._chunks.values())

    def splats_world(
        self,
        ids: Iterable[int] | None = None,
        *,
        origin: npt.ArrayLike | None = None,
        max_splats: int | None = None,
    ) -> Splats:
        """Splats of the chunks `ids` (all, in order of arrival), relative to a float64 origin.

        Args:
            origin: (3,) metres; None: zeros. Far from the world's origin pass `self.origin()`.
            max_splats: every chunk is cut to its best, so that at most this many remain.
        """
        chunks = list(self._chunks.values()) if ids is None else [self._chunks[i] for i in ids]
        return to_world(chunks, origin=origin, max_splats=max_splats)

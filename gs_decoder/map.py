"""The chunked splat map: what a session holds and everybody else mirrors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gs_decoder.budget import make_room
from gs_decoder.chunk import (
    Chunk,
    ChunkMeta,
    bounding_box,
    chunk_splats,
    frozen_poses,
    make_chunk,
)
from gs_decoder.mirror import MapMirror
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


class UnknownChunk(ValueError):
    """A chunk id that the map does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapConfig:
    """Budgets, in splats."""

    chunk_budget: int = 20_000
    """Most splats of one chunk."""
    map_budget: int = 400_000
    """Most splats of the whole map."""
    reserve: float = 0.1
    """Share of `map_budget` that is free for new frames after room was made: making room
    re-publishes the chunks it thins, so it should be rare."""
    protect_newest: int = 4
    """Chunks added last that making room leaves alone as long as others can give."""

    def __post_init__(self) -> None:
        for name in ("chunk_budget", "map_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1 splat")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve is {self.reserve}: give a share from 0 to below 1")
        if self.protect_newest < 1:
            raise ValueError(f"protect_newest is {self.protect_newest}: give at least 1 chunk")


class SplatMap(MapMirror):
    """A mirror that makes its own updates.

    Every change takes the next number of one counter as its revision, so revisions and contents
    grow for every chunk, also across a drop. `drain_updates` tells what changed since it was
    called last. One thread at a time.
    """

    def __init__(self, config: MapConfig | None = None) -> None:
        self.config = config or MapConfig()
        super().__init__()

    def clear(self) -> None:
        """Forget everything, ids and revisions too: a new epoch begins."""
        super().clear()
        self._next_id = 0
        self._drained: dict[int, Have] = {}
        self._pending_reset: ResetUpdate | None = None

    @property
    def next_id(self) -> int:
        """What the next new chunk will be called."""
        return self._next_id

    def go_on_from(self, revision: int, first_id: int = 0) -> None:
        """Revisions given later lie above this one, and ids not below: those of a map that was
        lost reached them."""
        self._clock = max(self._clock, revision)
        self._next_id = max(self._next_id, first_id)

    def restore(self, chunks: Iterable[Chunk], first_id: int) -> None:
        """Take over a lost map's chunks, each at a new revision: whoever holds a later state of
        the lost one is told of all of them, by a snapshot."""
        for chunk in chunks:
            revision = self._clock + 1
            self.apply(ChunkUpdate(replace(chunk, revision=revision, content=revision)))
        self.go_on_from(self._clock, first_id)
        self.drain_updates()

    def apply(self, update: Update) -> set[int]:
        """Join somebody else's update; ids and revisions given later lie above its own."""
        changed = super().apply(update)
        if isinstance(update, ChunkUpdate):
            self._next_id = max(self._next_id, update.chunk.id + 1)
        elif isinstance(update, ResetUpdate):
            self._pending_reset = ResetUpdate(self._clock)
            self._drained.clear()
        return changed

    def merge(self, updates: Iterable[Update]) -> set[int]:
        """Join a snapshot, of a saved state or of another map of the same epoch.

        The budgets are kept. Returns the ids of the chunks that changed.
        """
        changed: set[int] = set()
        for update in updates:
            changed |= self.apply(update)
        return changed | self._keep_budget()

    def add(self, meta: ChunkMeta, splats: Splats) -> int:
        """A new chunk; returns its id.

        Args:
            meta: its key frame and pose.
            splats: (N, ...) in the key frame's camera frame, in any order; the most important
                `chunk_budget` are kept. Full maps make room in their older chunks.

        Raises:
            InvalidSplats: batch dimensions, or values that no splat can have.
        """
        identity = self._next_id
        self.put_back(identity, meta, splats)
        return identity

    def put_back(self, identity: int, meta: ChunkMeta, splats: Splats) -> None:
        """A chunk that was dropped is there again, under the id that it had; else as `add`."""
        assert identity not in self._chunks, "what is in the map is replaced"
        stored = chunk_splats(splats, self.config.chunk_budget)
        self.apply(ChunkUpdate(make_chunk(identity, self._clock + 1, meta, stored)))
        self._keep_budget()

    def replace(
        self, identity: int, splats: Splats, *, T_world_chunk: npt.ArrayLike | None = None
    ) -> None:
        """Other splats for a chunk, and another pose where one is given.

        Splats and pose equal to those held change nothing, not even the revision.

        Raises:
            UnknownChunk: no such chunk.
            InvalidSplats: as in `add`.
            InvalidSimilarity: the pose is not a similarity.
        """
        held = self._held(identity)
        stored = chunk_splats(splats, self.config.chunk_budget)
        if T_world_chunk is not None:
            self.move({identity: T_world_chunk})
            held = self._chunks[identity]
        if stored.equals(held.splats):
            return
        self._store(held, stored)
        self._keep_budget()

    def move(self, poses: Mapping[int, npt.ArrayLike]) -> None:
        """New poses, {id: T_world_chunk (4, 4)}; splats stay as they are. All or none.

        Raises:
            UnknownChunk: no such chunk.
            InvalidSimilarity: a pose is not a similarity.
        """
        held = [self._held(identity).T_world_chunk for identity in poses]
        frozen = frozen_poses(list(poses.values()))
        changed = (frozen != np.reshape(held, (-1, 4, 4))).any(axis=(1, 2))
        moves = [
            (identity, self._clock + 1, pose)
            for identity, pose, different in zip(poses, frozen, changed)
            if different
        ]
        if moves:
            self.apply(MoveUpdate(moves))

    def drop(self, ids: Iterable[int]) -> None:
        """Remove chunks. All or none.

        Raises:
            UnknownChunk: no such chunk.
        """
        wanted = dict.fromkeys(ids)
        for identity in wanted:
            self._held(identity)
        if wanted:
            self.apply(DropUpdate([(identity, self._clock + 1) for identity in wanted]))

    def reset(self) -> None:
        """Remove everything; ids and revisions go on from where they are."""
        self.apply(ResetUpdate(self._clock + 1))

    def drain_updates(self) -> list[Update]:
        """What changed since the last call, at most one entry a chunk: feed it to a mirror."""
        updates: list[Update] = [] if self._pending_reset is None else [self._pending_reset]
        updates += difference(self._chunks, self._dropped, self._clock, self._drained.values())
        self._pending_reset = None
        self._drained = {have[0]: have for have in self.have()}
        return updates

    def snapshot(self, have: Iterable[Have] = ()) -> list[Update]:
        """The updates that bring a mirror of the same epoch with `have` to this state."""
        for identity in self._chunks:
            # Somebody knows of these chunks from now on: if they go, the next drain must say so.
            self._drained.setdefault(identity, (identity, -1, -1))
        return super().snapshot(have)

    def _held(self, identity: int) -> Chunk:
        held = self._chunks.get(identity)
        if held is None:
            raise UnknownChunk(
                f"chunk {identity} is not in the map, which holds {len(self._chunks)} chunks: it "
                "was dropped, or never added"
            )
        return held

    def _store(self, held: Chunk, splats: Splats) -> None:
        revision = self._clock + 1
        self.apply(
            ChunkUpdate(
                replace(
                    held,
                    revision=revision,
                    content=revision,
                    splats=splats,
                    aabb=bounding_box(splats),
                )
            )
        )

    def _keep_budget(self) -> set[int]:
        if self.count <= self.config.map_budget:
            return set()
        oldest_first = [self._chunks[identity] for identity in sorted(self._chunks)]
        limit = max(1, int(self.config.map_budget * (1.0 - self.config.reserve)))
        thinned = make_room(oldest_first, limit, self.config.protect_newest)
        for identity, splats in thinned.items():
            self._store(self._chunks[identity], splats)
        return set(thinned)

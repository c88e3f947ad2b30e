"""Which chunks are held ready, and which rest on the disk until the camera comes near again.

Ready chunks are in the refiner: rendered, refined, and in the way of splats that would be fused
twice. There is room for `resident_budget` splats; beyond it the chunks that no camera has seen for
longest leave, with the views that see them: refined against what is not there, others would grow
into the gap. Before every batch those come back that it may see, and the views that miss nothing.

Subscribers notice none of it: a resting chunk stays in the map as it is, until the map's own,
larger budget is full. Then the ones seen longest ago are dropped there as well, and published
again, with the same id, when they come back.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gs_decoder import SplatMap, Splats
from gs_decoder.chunk import frozen_poses
from gs_decoder.refine import (
    Refiner,
    RefineView,
    forget_chunks,
    put_back,
    resting_rows,
    resting_splats,
    splats_by_chunk,
)
from gs_decoder.world import to_world
from streamer.frames import Frame
from streamer.session.ahead import Ahead
from streamer.session.aside import Attend, attend_to_nothing
from streamer.session.batching import view_camera
from streamer.session.corrections import Trajectory
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.sight import Reach, Sight, reach_of, spheres
from streamer.session.spill_files import Arrays, SpillError, SpillFile, SpillFolder
from streamer.session.spilled_state import ResidenceState, RestingChunk, resting_chunk
from streamer.session.spilled_views import evenly, pack_views, unpack_views

log = logging.getLogger(__name__)
Float64 = NDArray[np.float64]

_FAINT = 0.03
"""A chunk that looks smaller than this (radius over distance) is not worth fetching."""
_VIEWS_LEFT = 0.9
"""Share of the views that stays when some have to go."""
_TOGETHER = 16
"""Chunks that are looked for in a thousand views before anything else has its turn."""


class Work(Protocol):
    """What an engine works on."""

    map: SplatMap
    refiner: Refiner
    keyframes: KeyframeTable
    trajectory: Trajectory
    ahead: Ahead
    chunk_of_seq: dict[int, int]


class Residence:
    """Moves chunks between a refiner and a folder. Without a folder they all stay.

    Args:
        work: what it moves them in; map, refiner and key frames stay the same.
        budget: most splats in the refiner after room was made.
    """

    def __init__(
        self,
        work: Work,
        folder: SpillFolder | None,
        budget: int,
    ) -> None:
        self._map = work.map
        self._refiner = work.refiner
        self._keyframes = work.keyframes
        self._work = work
        self._folder = folder
        if folder is not None and not folder.kept:
            # An engine that starts anew needs nothing of what was before.
            folder.clear()
        self._budget = budget
        self._batch = 0
        self._resting: dict[int, RestingChunk] = {}
        self._seen: dict[int, int] = {}
        self._reaches: dict[int, Reach] = {}
        self._full = False

    # What there is ---------------------------------------------------------------------------

    def __contains__(self, chunk: int) -> bool:
        """Whether a chunk rests on the disk."""
        return chunk in self._resting

    @property
    def resting(self) -> Collection[RestingChunk]:
        """The chunks on the disk."""
        return self._resting.values()

    @property
    def shown(self) -> int:
        """Resting splats that are in the map."""
        return sum(held.count for held in self.resting if held.id in self._map.chunks)

    def poses(self, chunks: Iterable[int]) -> Float64:
        """(C, 4, 4) T_world_chunk of chunks wherever they are, as they are shown."""
        shown = self._map.chunks
        held = (self._resting.get(chunk) or shown[chunk] for chunk in chunks)
        return np.array([chunk.T_world_chunk for chunk in held], np.float64).reshape(-1, 4, 4)

    def splats_world(self, origin: Float64 | None = None) -> Splats:
        """All splats in world axes, relative to `origin` (default zeros), those from the disk too
        that the map has dropped; unreadable ones are logged and left out."""
        chunks = dict(self._map.chunks)
        for held in self._resting.values():
            if held.id not in chunks and self._folder is not None:
                try:
                    chunks[held.id] = resting_chunk(held, self._folder.read(held.file))
                except SpillError as error:
                    log.error("%s", error)
        return to_world(list(chunks.values()), origin=origin)

    def state(self) -> ResidenceState:
        """A copy, between two batches."""
        return ResidenceState(
            batch=self._batch,
            next_file=0 if self._folder is None else self._folder.next_number,
            resting=tuple(self._resting.values()),
            seen=dict(self._seen),
            reaches=dict(self._reaches),
        )

    def restore(self, state: ResidenceState) -> None:
        """Go on from a copy; files are where they were."""
        self._batch = state.batch
        self._resting = {held.id: held for held in state.resting}
        self._seen, self._reaches = dict(state.seen), dict(state.reaches)

    # What happens to chunks ------------------------------------------------------------------

    def add(self, chunk: int, splats: Splats) -> None:
        """A new chunk, in the map and the refiner."""
        self._reaches[chunk] = reach_of(splats)
        self._seen[chunk] = self._batch

    def forget(self, chunks: Collection[int]) -> None:
        """Ready chunks that are no more."""
        for chunk in chunks:
            self._seen.pop(chunk, None)
            self._reaches.pop(chunk, None)

    def move(self, poses: Mapping[int, Float64]) -> None:
        """New poses of chunks, wherever they are: nothing is read or written."""
        shown = self._map.chunks
        self._map.move({chunk: pose for chunk, pose in poses.items() if chunk in shown})
        moved = {c: shown[c].T_world_chunk for c in poses if c in self._resting and c in shown}
        hidden = [c for c in poses if c in self._resting and c not in shown]
        # Together, as in the map: after a walk of thousands most of them rest.
        moved.update(zip(hidden, frozen_poses([poses[chunk] for chunk in hidden])))
        for chunk, pose in moved.items():
            self._resting[chunk] = self._resting[chunk].moved(pose)

    # Coming back -----------------------------------------------------------------------------

    def see(
        self,
        frames: Sequence[Frame],
        poses: Mapping[int, Float64],
        attend: Attend = attend_to_nothing,
    ) -> None:
        """A batch begins: what its frames may see comes back, the largest in sight first.

        Args:
            poses: seq → rigid (4, 4) camera to world.
            attend: called between two chunks; the disk takes its time.
        """
        self._batch += 1
        if self._folder is None:
            return
        cameras = [view_camera(frame, poses[frame.seq]) for frame in frames]
        chunks = list(self._reaches)
        seen = Sight(cameras).sizes(*self._spheres(chunks))
        sizes = dict(zip(chunks, seen.max(axis=0, initial=0.0).tolist()))
        for chunk, size in sizes.items():
            if size > _FAINT:
                self._seen[chunk] = self._batch
        wanted = [
            chunk
            for chunk in sorted(self._resting, key=lambda c: (-sizes[c], c))
            if self._seen[chunk] == self._batch
        ]
        if not wanted:
            return
        present = splats_by_chunk(self._refiner)
        limit = int(self._budget * (1.0 - self._map.config.reserve))
        room = limit - sum(n for c, n in present.items() if self._seen.get(c) == self._batch)
        coming = []
        for chunk in wanted:
            room -= self._resting[chunk].count
            if room < 0:
                break
            coming.append(chunk)
        count = sum(self._resting[chunk].count for chunk in coming)
        self._spill(self._refiner.parameters.count + count - limit, 0, (), attend)
        views: list[RefineView] = []
        for chunk in coming:
            # Where the disk is full, nothing made way.
            if self._refiner.parameters.count + self._resting[chunk].count <= self._budget:
                views += self._fetch(chunk)
                attend(None)
        self._take_views(views)

    def _fetch(self, chunk: int) -> list[RefineView]:
        """Make a chunk ready; the views that rested with it."""
        assert self._folder is not None
        held = self._resting.pop(chunk)
        try:
            rows = self._folder.read(held.file)
        except SpillError as error:
            log.error("%s", error)
            self._lose(held)
            return []
        if chunk not in self._map.chunks:
            self.publishable(held.count)
            self._map.put_back(chunk, held.meta, resting_splats(rows))
            self._keyframes.tie(held.frame_seq, chunk)
        put_back(self._refiner, chunk, rows, self._work.ahead.chunk(chunk, held.T_world_chunk))
        views = []
        for pack in held.packs:
            try:
                views += unpack_views(self._folder.read(pack), self.worked_pose)
            except SpillError as error:
                log.error("%s", error)
        for file in (held.file, *held.packs):
            self._folder.release(file)
        return views

    def _take_views(self, views: list[RefineView]) -> None:
        """Views from the disk: those that miss nothing are ready, the others rest on."""
        resting = list(self._resting)
        sizes = Sight.of(views).sizes(*self._spheres(resting))
        whole = []
        blocked: dict[int, list[RefineView]] = {}
        for view, row in zip(views, sizes):
            if len(resting) and row.max() > _FAINT:
                blocked.setdefault(resting[int(row.argmax())], []).append(view)
            else:
                whole.append(view)
        for chunk, some in blocked.items():
            held = self._resting[chunk]
            if pack := self._write(pack_views(some, self.worked_pose)):
                self._resting[chunk] = replace(held, packs=(*held.packs, pack))
        free = self._refiner.config.max_views - len(self._refiner.views)
        for view in evenly(whole, free):
            # The time on the disk was no waiting for a turn.
            view.visited = self._refiner.steps
            self._refiner.views[view.key] = view

    def _lose(self, held: RestingChunk) -> None:
        """The one thing left to do with a chunk whose file is gone."""
        if held.id in self._map.chunks:
            self._map.drop([held.id])
        self._keyframes.forget_chunks([held.id])
        self.forget([held.id])
        del self._work.chunk_of_seq[held.frame_seq]

    # Leaving ---------------------------------------------------------------------------------

    def make_room(
        self,
        splats: int,
        views: int,
        *,
        protected: Iterable[int],
        attend: Attend = attend_to_nothing,
    ) -> None:
        """Before so many come: if there is no room, chunks out of sight leave.

        Args:
            protected: chunks that stay whatever was seen.
            attend: called between two chunks.
        """
        if self._folder is None:
            return
        surplus = self._refiner.parameters.count + splats - self._budget
        if surplus > 0:
            surplus += int(self._budget * self._map.config.reserve)
        most = self._refiner.config.max_views
        crowd = len(self._refiner.views) + views - most
        if crowd > 0:
            crowd += int(most * (1.0 - _VIEWS_LEFT))
        self._spill(surplus, crowd, protected, attend)

    def publishable(self, count: int) -> None:
        """Before so many splats come into the map: if it is full, resting chunks leave it."""
        surplus = self._map.count + count - self._map.config.map_budget
        if surplus <= 0:
            return
        surplus += int(self._map.config.map_budget * self._map.config.reserve)
        hidden = []
        for chunk in sorted(self._resting, key=lambda c: (self._seen[c], c)):
            if surplus <= 0:
                break
            if chunk in self._map.chunks:
                hidden.append(chunk)
                surplus -= self._map.chunks[chunk].count
        self._map.drop(hidden)
        self._keyframes.forget_chunks(hidden)

    def _spill(self, splats: int, views: int, protected: Iterable[int], attend: Attend) -> None:
        """Free so much, or as much as is out of sight."""
        if self._folder is None or (splats <= 0 and views <= 0):
            return
        present = splats_by_chunk(self._refiner)
        protected = set(protected)
        leaving = [
            chunk
            for chunk in sorted(present, key=lambda c: (self._seen.get(c, 0), c))
            if chunk in self._map.chunks
            and chunk not in protected
            and self._seen.get(chunk, 0) < self._batch
        ]
        if not leaving:
            return
        left = dict(self._refiner.views)
        gone = []
        for chunk, seen_by in self._seen_by(leaving, left.copy()):
            if splats <= 0 and views <= 0:
                break
            seeing = [key for key in seen_by if key in left]
            if not self._rest(chunk, [left[key] for key in seeing]):
                break
            for key in seeing:
                del left[key]
            gone.append(chunk)
            splats -= present[chunk]
            views -= len(seeing)
            attend(None)
        forget_chunks(self._refiner, gone)
        self._refiner.views = left

    def _seen_by(
        self, chunks: Sequence[int], views: Mapping[int, RefineView]
    ) -> Iterator[tuple[int, list[int]]]:
        """Each chunk with the keys of the views that see it, found as they are asked for."""
        keys, sight = list(views), Sight.of(views.values())
        for start in range(0, len(chunks), _TOGETHER):
            some = chunks[start : start + _TOGETHER]
            seen = sight.sizes(*self._spheres(some)) > _FAINT
            for place, chunk in enumerate(some):
                yield chunk, [keys[row] for row in np.flatnonzero(seen[:, place])]

    def _rest(self, chunk: int, views: Sequence[RefineView]) -> bool:
        """Put a chunk on the disk with these views; whether that went well."""
        held = self._map.chunks[chunk]
        rows = resting_rows(self._refiner, chunk, self._work.ahead.chunk(chunk, held.T_world_chunk))
        pack = self._write(pack_views(views, self.worked_pose)) if views else None
        file = self._write(rows)
        if file is None:
            return False
        if self._refiner.changed(chunk):
            # What readers have is what will come back.
            self._map.replace(chunk, resting_splats(rows))
        packs = () if pack is None else (pack,)
        self._resting[chunk] = RestingChunk.of(held, len(rows["rows"]), file, packs)
        return True

    def _write(self, arrays: Arrays) -> SpillFile | None:
        """A new file; None where there is no place, which is told once."""
        assert self._folder is not None
        try:
            file = self._folder.write(arrays)
        except SpillError as error:
            if not self._full:
                log.error("%s", error)
            self._full = True
            return None
        self._full = False
        return file

    def _spheres(self, chunks: Sequence[int]) -> tuple[Float64, Float64]:
        poses = list(map(self._work.ahead.chunk, chunks, self.poses(chunks)))
        return spheres([self._reaches[chunk] for chunk in chunks], poses)

    def worked_pose(self, seq: int) -> Float64:
        """A frame's similarity, in whose scale its view has its depth now."""
        return self._work.ahead.frame(seq, self._work.trajectory.pose(seq))

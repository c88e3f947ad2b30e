"""A mirror fed with a map's updates is the map, whatever happened and however they came."""

from __future__ import annotations

import dataclasses
import random

import hypothesis.strategies as st
import numpy as np
from hypothesis import Phase, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from map_helpers import chunk_meta, random_similarity, random_splats

from gs_decoder import (
    ChunkUpdate,
    DropUpdate,
    MapConfig,
    MapMirror,
    MoveUpdate,
    ResetUpdate,
    SplatMap,
)

SEEDS = st.integers(0, 10_000)
COUNTS = st.integers(0, 12)


class MirrorMachine(RuleBasedStateMachine):
    """Operations on a map with tight budgets, and four readers of it.

    `faithful` gets every drain; `forgetful` loses some and asks for a snapshot; `shuffled` gets
    everything twice, at the end, in any order; `late` asks for a snapshot from nothing.
    """

    chunks = Bundle("chunks")

    @initialize()
    def start(self) -> None:
        self.map = SplatMap(MapConfig(chunk_budget=10, map_budget=40, reserve=0.2))
        self.faithful, self.forgetful = MapMirror(), MapMirror()
        self.emitted: list = []
        self.stale: list = []
        self.seen: dict[int, tuple[int, int]] = {}
        self.ids: set[int] = set()

    @rule(target=chunks, seed=SEEDS, count=COUNTS, degree=st.integers(0, 3))
    def add(self, seed: int, count: int, degree: int) -> int:
        identity = self.map.add(
            chunk_meta(seed, random_similarity(seed)), random_splats(count, seed, degree)
        )
        assert identity not in self.ids, "an id was given twice"
        kept, asked = self.map.chunks[identity].count, min(count, 10)
        # four newest chunks of ten splats are more than what the reserve leaves: then all give some
        left = sum(chunk.count for chunk in self.map.chunks.values())
        assert kept == asked or (1 <= kept < asked and left == 32)
        self.ids.add(identity)
        return identity

    @rule(chunk=chunks, seed=SEEDS, count=COUNTS)
    def replace(self, chunk: int, seed: int, count: int) -> None:
        if chunk in self.map.chunks:
            self.map.replace(chunk, random_splats(count, seed))

    @rule(chunk=chunks, seed=SEEDS)
    def replace_and_move(self, chunk: int, seed: int) -> None:
        if chunk in self.map.chunks:
            self.map.replace(chunk, random_splats(3, seed), T_world_chunk=random_similarity(seed))

    @rule(chunk=chunks, seed=SEEDS)
    def move(self, chunk: int, seed: int) -> None:
        if chunk in self.map.chunks:
            before = self.map.chunks[chunk].content
            self.map.move({chunk: random_similarity(seed)})
            assert self.map.chunks[chunk].content == before

    @rule(seed=SEEDS)
    def move_all(self, seed: int) -> None:
        self.map.move({i: random_similarity(seed + i) for i in self.map.chunks})

    @rule(chunk=consumes(chunks))
    def drop(self, chunk: int) -> None:
        if chunk in self.map.chunks:
            self.map.drop([chunk])

    @precondition(lambda self: len(self.map.chunks) > 2)
    @rule()
    def reset(self) -> None:
        self.map.reset()

    @rule(lost=st.booleans())
    def drain(self, lost: bool) -> None:
        updates = self.map.drain_updates()
        touched = [u.chunk.id for u in updates if isinstance(u, ChunkUpdate)]
        touched += [m[0] for u in updates if isinstance(u, MoveUpdate) for m in u.moves]
        touched += [d[0] for u in updates if isinstance(u, DropUpdate) for d in u.chunks]
        assert len(touched) == len(set(touched)), "a drain names a chunk twice"
        for update in updates:
            self.faithful.apply(update)
            if not lost:
                self.forgetful.apply(update)
        self.emitted += updates
        self.stale = self.stale[-20:] + updates
        assert self.faithful.equals(self.map)
        assert self.map.drain_updates() == []

    @rule(pick=st.randoms(use_true_random=False))
    def repeat_stale_updates(self, pick: random.Random) -> None:
        before = MapMirror()
        for update in self.faithful.snapshot():
            before.apply(update)
        for update in pick.sample(self.stale, min(4, len(self.stale))):
            self.faithful.apply(update)
        assert self.faithful.equals(before), "an old update changed an up-to-date mirror"

    @rule()
    def snapshot_after_loss(self) -> None:
        for update in self.map.snapshot(self.forgetful.have()):
            self.forgetful.apply(update)
        assert self.forgetful.equals(self.map)
        assert self.map.snapshot(self.forgetful.have()) == []

    @rule()
    def snapshot_of_a_mirror_after_loss(self) -> None:
        self.drain(lost=True)
        # A publisher that was restarted knows the chunks, but of no drop.
        restarted = MapMirror()
        for update in self.map.snapshot():
            restarted.apply(update)
        for update in restarted.snapshot(self.forgetful.have()):
            self.forgetful.apply(update)
        assert self.forgetful.equals(self.map)

    @invariant()
    def revisions_only_grow(self) -> None:
        for identity, content, revision in self.map.have():
            old_content, old_revision = self.seen.get(identity, (0, 0))
            assert content >= old_content and revision >= old_revision
            assert content <= revision
            self.seen[identity] = (content, revision)

    @invariant()
    def budgets_hold(self) -> None:
        assert self.map.count == sum(chunk.count for chunk in self.map.chunks.values()) <= 40
        assert all(chunk.count <= 10 for chunk in self.map.chunks.values())

    def teardown(self) -> None:
        if not hasattr(self, "map"):
            return
        self.drain(lost=True)
        late = MapMirror()
        for update in self.map.snapshot():
            late.apply(update)
        assert late.equals(self.map)
        shuffled = MapMirror()
        twice = self.emitted * 2
        random.Random(len(twice)).shuffle(twice)
        for update in twice:
            shuffled.apply(update)
        assert shuffled.equals(self.map)


TestMirror = MirrorMachine.TestCase
# Shrinking thirty steps with tensors takes minutes; the failing steps themselves say enough.
TestMirror.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, phases=[Phase.generate]
)


def test_newer_splats_that_come_after_a_newer_pose_are_taken_without_losing_the_pose() -> None:
    splat_map = SplatMap()
    chunk = splat_map.add(chunk_meta(), random_splats(4))
    first = splat_map.drain_updates()
    splat_map.replace(chunk, random_splats(5, 1))
    second = splat_map.drain_updates()
    splat_map.move({chunk: random_similarity(3)})
    third = splat_map.drain_updates()
    mirror = MapMirror()
    for update in [*first, *third, *second]:
        mirror.apply(update)
    assert mirror.equals(splat_map)
    np.testing.assert_array_equal(mirror.chunks[chunk].T_world_chunk, random_similarity(3))


def test_a_chunk_that_was_snapshot_but_never_drained_is_dropped_for_its_reader() -> None:
    splat_map = SplatMap()
    chunk = splat_map.add(chunk_meta(), random_splats(4))
    mirror = MapMirror()
    for update in splat_map.snapshot():
        mirror.apply(update)
    splat_map.drop([chunk])
    for update in splat_map.drain_updates():
        mirror.apply(update)
    assert not mirror.chunks


def test_a_chunk_that_came_and_went_between_drains_is_never_mentioned() -> None:
    splat_map = SplatMap()
    splat_map.drop([splat_map.add(chunk_meta(), random_splats(4))])
    assert splat_map.drain_updates() == []


def test_a_cleared_mirror_takes_the_low_revisions_of_the_next_epoch() -> None:
    old, new = SplatMap(), SplatMap()
    for seed in range(5):
        old.add(chunk_meta(seed), random_splats(3, seed))
    new.add(chunk_meta(), random_splats(7))
    mirror = MapMirror()
    for update in old.drain_updates():
        mirror.apply(update)
    mirror.clear()
    for update in new.drain_updates():
        mirror.apply(update)
    assert mirror.equals(new)


def test_what_was_sent_before_a_reset_does_not_come_back_after_it() -> None:
    splat_map = SplatMap()
    chunk = splat_map.add(chunk_meta(), random_splats(4))
    splat_map.add(chunk_meta(1), random_splats(4, 1))
    before = splat_map.drain_updates()
    splat_map.move({chunk: random_similarity(3)})
    before += splat_map.drain_updates()
    splat_map.reset()
    reset = splat_map.drain_updates()
    assert [type(update) for update in reset] == [ResetUpdate]
    new = splat_map.add(chunk_meta(2), random_splats(4, 2))
    after = splat_map.drain_updates()
    for order in (before + reset + after + before, after + before + reset, reset + before + after):
        mirror = MapMirror()
        for update in order:
            mirror.apply(update)
        assert mirror.equals(splat_map) and list(mirror.chunks) == [new]


def test_a_reset_without_revision_takes_everything() -> None:
    splat_map, mirror = SplatMap(), MapMirror()
    splat_map.add(chunk_meta(), random_splats(4))
    for update in splat_map.drain_updates():
        mirror.apply(update)
    assert mirror.apply(ResetUpdate()) == {0}
    assert not mirror.chunks


def test_an_old_drop_does_not_take_a_chunk_that_was_restored_since() -> None:
    splat_map = SplatMap()
    chunk = splat_map.add(chunk_meta(), random_splats(4))
    splat_map.drop([chunk])
    drop = DropUpdate([(chunk, splat_map.clock)])
    saved = SplatMap()
    saved.add(chunk_meta(), random_splats(4))
    restored = dataclasses.replace(saved.chunks[chunk], revision=splat_map.clock + 1)
    mirror = MapMirror()
    mirror.apply(drop)
    assert mirror.apply(ChunkUpdate(restored)) == {chunk}
    assert mirror.apply(drop) == set()
    assert list(mirror.chunks) == [chunk]


def test_a_source_that_saw_neither_chunk_nor_drop_still_tells_the_reader_to_drop_it() -> None:
    splat_map, reader, restarted = SplatMap(), MapMirror(), MapMirror()
    splat_map.add(chunk_meta(0), random_splats(4))
    gone = splat_map.add(chunk_meta(1), random_splats(4, 1))
    splat_map.move({gone: random_similarity(0)})
    for update in splat_map.drain_updates():
        reader.apply(update)
    splat_map.drop([gone])
    for update in splat_map.snapshot():
        restarted.apply(update)
    assert restarted.clock < reader.clock, "the reader knows higher revisions than its source"
    for update in restarted.snapshot(reader.have()):
        reader.apply(update)
    assert reader.equals(splat_map)

"""The map itself: order, budgets, precision, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from map_helpers import chunk_meta, random_similarity, random_splats

from gs_decoder import (
    ChunkMeta,
    InvalidSimilarity,
    InvalidSplats,
    MapConfig,
    MapMirror,
    SplatMap,
    Splats,
    UnknownChunk,
    importance,
)


def test_chunks_are_ordered_by_falling_volume_times_opacity_and_cut_to_the_best() -> None:
    splats = random_splats(50)
    splat_map = SplatMap(MapConfig(chunk_budget=20))
    chunk = splat_map.chunks[splat_map.add(chunk_meta(), splats)]
    expected = np.sort(importance(splats).numpy())[::-1][:20]
    np.testing.assert_array_equal(importance(chunk.splats).numpy(), expected)
    low, high = chunk.splats.means.amin(0), chunk.splats.means.amax(0)
    np.testing.assert_array_equal(chunk.aabb, torch.cat([low, high]).double().numpy())


def test_replacing_splats_by_the_same_changes_nothing() -> None:
    splat_map = SplatMap()
    splats = random_splats(9)
    chunk = splat_map.add(chunk_meta(), splats)
    splat_map.drain_updates()
    splat_map.replace(chunk, splats)
    splat_map.move({chunk: np.eye(4)})
    assert splat_map.drain_updates() == []


def test_splats_world_is_each_chunk_under_its_own_pose() -> None:
    splat_map = SplatMap()
    parts = []
    for seed, degree in enumerate((0, 3, 1)):
        pose = random_similarity(seed)
        identity = splat_map.add(chunk_meta(seed, pose), random_splats(11, seed, degree))
        parts.append(splat_map.chunks[identity].splats.transform(pose))
    world, expected = splat_map.splats_world(), Splats.cat(parts)
    for name, value in world.to_numpy().items():
        np.testing.assert_allclose(value, expected.to_numpy()[name], atol=2e-6, err_msg=name)
    only = splat_map.splats_world([2, 0])
    torch.testing.assert_close(only.opacities, torch.cat([parts[2].opacities, parts[0].opacities]))


def test_a_smaller_copy_keeps_the_best_of_every_chunk() -> None:
    splat_map = SplatMap()
    for seed in range(3):
        splat_map.add(chunk_meta(seed), random_splats(10 * (seed + 1), seed))
    best = [c.splats.opacities for c in splat_map.chunks.values()]
    small = splat_map.splats_world(max_splats=30)
    torch.testing.assert_close(
        small.opacities, torch.cat([best[0][:5], best[1][:10], best[2][:15]])
    )
    assert splat_map.splats_world(max_splats=0).count == 0


def test_a_map_in_utm_coordinates_keeps_its_millimetres() -> None:
    far = np.array([512_345.678, 4_123_456.789, 512.25])
    splat_map = SplatMap()
    exact = []
    for seed in range(4):
        pose = random_similarity(seed, scale=1.0)
        pose[:3, 3] += far
        identity = splat_map.add(chunk_meta(seed, pose), random_splats(20, seed))
        means = splat_map.chunks[identity].splats.means.numpy().astype(np.float64)
        exact.append(means @ pose[:3, :3].T + pose[:3, 3])
    origin = splat_map.origin()
    assert np.abs(origin - far).max() < 10
    world = splat_map.splats_world(origin=origin).means.numpy().astype(np.float64) + origin
    assert np.abs(world - np.concatenate(exact)).max() < 1e-5
    plain = splat_map.splats_world().means.numpy()
    assert np.abs(plain - np.concatenate(exact)).max() > 0.05, "float32 alone would have done"


def test_a_map_near_its_origin_needs_none() -> None:
    splat_map = SplatMap()
    assert not splat_map.origin().any()
    splat_map.add(chunk_meta(0, random_similarity(0)), random_splats(3))
    assert not splat_map.origin().any()


class TestBudget:
    def test_a_full_map_makes_room_for_the_newest_and_keeps_a_reserve(self) -> None:
        config = MapConfig(chunk_budget=100, map_budget=1000, reserve=0.2, protect_newest=3)
        splat_map = SplatMap(config)
        for seed in range(30):
            identity = splat_map.add(chunk_meta(seed), random_splats(100, seed))
            assert splat_map.count <= 1000
            newest = sorted(splat_map.chunks)[-3:]
            assert identity in newest
            assert all(splat_map.chunks[i].count == 100 for i in newest)
        rewritten = 0
        for seed in range(30, 50):
            splat_map.drain_updates()
            splat_map.add(chunk_meta(seed), random_splats(100, seed))
            rewritten += len(splat_map.drain_updates()) > 1
        assert rewritten == 7, "room is made for the third chunk of 100 after a reserve of 200"

    def test_the_faintest_and_smallest_go_first(self) -> None:
        splat_map = SplatMap(
            MapConfig(chunk_budget=100, map_budget=100, reserve=0.0, protect_newest=1)
        )
        old = random_splats(80, 1, spread=50.0)
        first = splat_map.add(chunk_meta(0), old)
        splat_map.add(chunk_meta(1), random_splats(60, 2, spread=0.0))
        kept = splat_map.chunks[first].splats
        torch.testing.assert_close(importance(kept), importance(old).sort(descending=True)[0][:40])

    def test_volume_counts_in_the_world_not_in_the_chunk(self) -> None:
        splat_map = SplatMap(
            MapConfig(chunk_budget=100, map_budget=100, reserve=0.0, protect_newest=1)
        )
        splats = random_splats(40, 1, spread=50.0)
        large = splat_map.add(chunk_meta(0, np.diag([30.0, 30, 30, 1])), splats)
        small = splat_map.add(chunk_meta(1), splats)
        splat_map.add(chunk_meta(2), random_splats(50, 3, spread=0.0))
        assert splat_map.chunks[large].count == 40
        assert splat_map.chunks[small].count == 10

    def test_what_newer_splats_cover_goes_before_what_is_seen_nowhere_else(self) -> None:
        splat_map = SplatMap(
            MapConfig(chunk_budget=100, map_budget=100, reserve=0.0, protect_newest=1)
        )
        shared, unique = random_splats(30, 1, spread=20.0), random_splats(30, 2, spread=20.0)
        tiny = Splats(
            unique.means + 500, unique.quats_wxyz, unique.scales * 0.01, unique.opacities, unique.sh
        )
        first = splat_map.add(chunk_meta(0), Splats.cat([shared, tiny]))
        copy = Splats(
            shared.means, shared.quats_wxyz, shared.scales, shared.opacities * 0 + 0.9, shared.sh
        )
        splat_map.add(chunk_meta(1), Splats.cat([copy, random_splats(40, 3, spread=0.0)]))
        kept = splat_map.chunks[first].splats
        assert kept.count == 30
        assert bool((kept.means > 100).all()), "unique splats had to go for redundant ones"

    def test_one_chunk_larger_than_the_map_keeps_its_best(self) -> None:
        splat_map = SplatMap(MapConfig(chunk_budget=500, map_budget=100, reserve=0.1))
        identity = splat_map.add(chunk_meta(), random_splats(300))
        assert splat_map.chunks[identity].count == 90

    def test_the_newest_view_is_never_empty(self) -> None:
        splat_map = SplatMap(MapConfig(chunk_budget=50, map_budget=8, reserve=0.5))
        for seed in range(20):
            identity = splat_map.add(chunk_meta(seed), random_splats(1 + seed % 3 * 20, seed))
            assert splat_map.chunks[identity].count >= 1
            assert splat_map.count <= 8

    def test_a_merged_snapshot_is_held_to_the_budget(self) -> None:
        rich, poor = SplatMap(), SplatMap(MapConfig(map_budget=50))
        for seed in range(10):
            rich.add(chunk_meta(seed), random_splats(20, seed))
        poor.merge(rich.snapshot())
        assert poor.count <= 50


def test_merging_a_saved_map_goes_on_above_its_ids_and_revisions() -> None:
    saved, restored = SplatMap(), SplatMap()
    for seed in range(3):
        saved.add(chunk_meta(seed, random_similarity(seed)), random_splats(5, seed, 2))
    changed = restored.merge(saved.snapshot())
    assert changed == {0, 1, 2}
    assert restored.equals(saved)
    assert restored.add(chunk_meta(9), random_splats(5)) == 3
    assert restored.chunks[3].revision > saved.clock
    mirror = MapMirror()
    for update in restored.drain_updates():
        mirror.apply(update)
    assert mirror.equals(restored)


class TestErrors:
    def test_unknown_chunks_are_named_and_nothing_is_done(self) -> None:
        splat_map = SplatMap()
        chunk = splat_map.add(chunk_meta(), random_splats(3))
        with pytest.raises(UnknownChunk, match="chunk 7 "):
            splat_map.drop([chunk, 7])
        with pytest.raises(UnknownChunk, match="chunk 7 "):
            splat_map.move({chunk: random_similarity(0), 7: np.eye(4)})
        with pytest.raises(UnknownChunk, match="chunk 7 "):
            splat_map.replace(7, random_splats(1))
        assert splat_map.have() == [(chunk, 1, 1)]

    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            (np.diag([1.0, 1, -1, 1]), "determinant -1"),
            (np.diag([1.0, 2, 1, 1]), "off by"),
            (np.full((4, 4), np.nan), "not finite"),
            (np.eye(3), r"shape \(3, 3\)"),
            (np.eye(4) + np.eye(4)[::-1], "last row|determinant"),
        ],
    )
    def test_poses_that_are_no_similarity(self, matrix: np.ndarray, message: str) -> None:
        with pytest.raises(InvalidSimilarity, match=message):
            ChunkMeta(frame_seq=0, stamp_ns=0, camera="a", T_world_chunk=matrix)
        splat_map = SplatMap()
        first, second = (splat_map.add(chunk_meta(), random_splats(3)) for _ in range(2))
        before = splat_map.have()
        with pytest.raises(InvalidSimilarity, match=message):
            splat_map.move({first: random_similarity(0), second: matrix})
        assert splat_map.have() == before

    def test_splats_that_no_map_can_hold(self) -> None:
        good = random_splats(4)
        splat_map = SplatMap()
        nan = Splats(
            good.means * torch.nan,
            *(getattr(good, n) for n in ("quats_wxyz", "scales", "opacities", "sh")),
        )
        with pytest.raises(InvalidSplats, match="means hold values that are not finite"):
            splat_map.add(chunk_meta(), nan)
        logs = Splats(good.means, good.quats_wxyz, good.scales.log(), good.opacities, good.sh)
        with pytest.raises(InvalidSplats, match="scales go down to -"):
            splat_map.add(chunk_meta(), logs)
        logits = Splats(good.means, good.quats_wxyz, good.scales, good.opacities * 9, good.sh)
        with pytest.raises(InvalidSplats, match="opacities span"):
            splat_map.add(chunk_meta(), logits)
        batched = Splats(
            *(getattr(good, n)[None] for n in ("means", "quats_wxyz", "scales", "opacities", "sh"))
        )
        with pytest.raises(InvalidSplats, match=r"\(1, 4, 3\)"):
            splat_map.add(chunk_meta(), batched)
        assert not splat_map.chunks

    @pytest.mark.parametrize(
        "values",
        [{"map_budget": 0}, {"chunk_budget": -1}, {"reserve": 1.0}, {"protect_newest": 0}],
    )
    def test_budgets_that_make_no_sense(self, values: dict) -> None:
        with pytest.raises(ValueError, match=next(iter(values))):
            MapConfig(**values)

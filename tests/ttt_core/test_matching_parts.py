"""The parts of the matching prior, each against a plain reference or a property."""

from __future__ import annotations

import gc

import matching_scenes as scenes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_core.matching import MatchingPrior, PriorConfig
from ttt_core.matching.consistency import compare_depths
from ttt_core.matching.depth_range import depth_range
from ttt_core.matching.fill import fill_unconfident
from ttt_core.matching.geometry import plane_depths, relative
from ttt_core.matching.points import seen_points, surface_points
from ttt_core.matching.sgm import aggregate
from ttt_core.matching.sources import choose_sources, triangulation_angle
from ttt_core.matching.sweep import NEUTRAL_COST, sweep_cost
from ttt_core.matching.triangulate import detect_features, triangulate_pair
from ttt_core.matching.winner import pick_winner


def plain_correlation(a: np.ndarray, b: np.ndarray, noise: float) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / np.sqrt(((a**2).mean() + noise) * ((b**2).mean() + noise)))


def test_sweep_cost_equals_plain_correlation():
    """Sources shifted by whole pixels: no interpolation stands between us and the definition."""
    rng = np.random.default_rng(1)
    reference = rng.random((20, 30), dtype=np.float32) - np.float32(0.5)
    sources = rng.random((3, 20, 30), dtype=np.float32) - np.float32(0.5)
    shifts, noise = [0, 1, 3], 1e-3
    cost = np.empty((20, 30, len(shifts)), np.float32)
    sweep_cost(
        reference, sources, np.array([[20, 30]] * 3), np.stack([np.eye(3)] * 3),
        np.array([[1.0, 0.0, 0.0]] * 3), np.array(shifts, np.float64), np.float32(noise), cost,
    )  # fmt: skip
    for y, x in [(2, 2), (10, 7), (17, 20), (9, 12)]:
        for d, shift in enumerate(shifts):
            window = reference[y - 2 : y + 3, x - 2 : x + 3]
            scores = sorted(
                plain_correlation(window, s[y - 2 : y + 3, x - 2 + shift : x + 3 + shift], noise)
                for s in sources
            )
            assert cost[y, x, d] == pytest.approx(0.5 - 0.25 * sum(scores[-2:]), abs=1e-4)


def test_sweep_is_neutral_where_nobody_looks():
    rng = np.random.default_rng(2)
    reference = rng.random((12, 16), dtype=np.float32)
    masked = reference.copy()
    masked[6, 8] = np.nan
    args = np.array([[12, 16]]), np.eye(3)[None]
    noise = np.float32(1e-3)
    cost = np.empty((12, 16, 2), np.float32)
    sweep_cost(reference, reference[None], *args, np.array([[99.0, 0, 0]]), np.ones(2), noise, cost)
    assert (cost == NEUTRAL_COST).all()
    sweep_cost(masked, reference[None], *args, np.zeros((1, 3)), np.ones(2), noise, cost)
    assert (cost[4:9, 6:11] == NEUTRAL_COST).all()
    assert (cost[:3] < 0.1).all()
    behind = np.diag([1.0, 1.0, -1.0])[None]
    sweep_cost(
        reference, reference[None], args[0], behind, np.zeros((1, 3)), np.ones(2), noise, cost
    )
    assert (cost == NEUTRAL_COST).all()


def plain_sgm(cost: np.ndarray, image: np.ndarray, p1: float, p2: float, edge: float) -> np.ndarray:
    rows, columns, planes = cost.shape
    total = np.zeros(cost.shape)
    for dy, dx in [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]:
        path = np.zeros(cost.shape)
        for y in range(rows)[:: 1 if dy >= 0 else -1]:
            for x in range(columns)[:: 1 if dx >= 0 else -1]:
                by, bx = y - dy, x - dx
                path[y, x] = cost[y, x]
                if 0 <= by < rows and 0 <= bx < columns:
                    before = path[by, bx]
                    large = max(p2 / (1 + abs(image[y, x] - image[by, bx]) / edge), p1)
                    for d in range(planes):
                        ways = [before[d], before.min() + large]
                        ways += [before[e] + p1 for e in (d - 1, d + 1) if 0 <= e < planes]
                        path[y, x, d] += min(ways) - before.min()
        total += path
    return total / 8


def test_aggregation_equals_its_definition():
    rng = np.random.default_rng(3)
    cost = rng.random((9, 11, 12), dtype=np.float32)
    image = rng.random((9, 11), dtype=np.float32)
    total = np.empty_like(cost)
    aggregate(cost, image, 0.06, 0.9, 0.1, total)
    np.testing.assert_allclose(total, plain_sgm(cost, image, 0.06, 0.9, 0.1), atol=1e-5)


@given(st.floats(2.0, 60.0), st.floats(0.01, 0.5))
@settings(max_examples=30, deadline=None)
def test_parabola_finds_its_minimum(minimum, steepness):
    planes = np.arange(64)
    volume = np.broadcast_to(steepness * (planes - minimum) ** 2, (2, 3, 64)).astype(np.float32)
    volume = np.ascontiguousarray(volume)
    index, mass, cost = (np.empty((2, 3), np.float32) for _ in range(3))
    pick_winner(volume, volume, np.float32(0.02), 2, index, mass, cost)
    np.testing.assert_allclose(index, minimum, atol=2e-2)
    assert (mass > 0.9).all() and (mass <= 1.0 + 1e-6).all()


def test_a_flat_volume_has_no_mass_anywhere():
    volume = np.full((2, 3, 64), 0.5, np.float32)
    index, mass, cost = (np.empty((2, 3), np.float32) for _ in range(3))
    pick_winner(volume, volume, np.float32(0.02), 2, index, mass, cost)
    assert (mass < 0.1).all()


def test_true_depths_agree_and_wrong_ones_do_not():
    a, b = (scenes.view(k, scenes.POSES[k]) for k in range(2))
    depth, other = scenes.cast(a.c2w)[1], scenes.cast(b.c2w)[1]
    trust = np.ones_like(other)
    move = relative(a, b)

    def votes(claimed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        agree, against = np.zeros_like(depth), np.zeros_like(depth)
        compare_depths(claimed, other, trust, move.rotation, move.offset, 0.03, 0.3, agree, against)
        return agree, against

    agree, against = votes(depth)
    assert agree.mean() > 0.8 and against.mean() < 0.02
    agree, against = votes(0.6 * depth)
    assert agree.mean() < 0.05 and against.mean() > 0.6
    # Behind what the other view sees: perhaps hidden there, so nobody objects.
    agree, against = votes(2.0 * depth)
    assert agree.mean() < 0.05 and against.mean() < 0.05


def test_sources_are_chosen_by_overlap_and_baseline_not_order():
    reference = scenes.view(0, scenes.look((0, 0, 0)))
    good = [scenes.view(k, scenes.look((x, 0, 0))) for k, x in ((1, 0.4), (2, -0.4))]
    same_place = scenes.view(3, scenes.look((0, 0, 0), yaw=0.1))
    tiny_step = scenes.view(4, scenes.look((0.02, 0, 0)))
    turned_away = scenes.view(5, scenes.look((0.4, 0, 0), yaw=1.5))
    behind = scenes.view(6, scenes.look((0.4, 0, 0), yaw=np.pi))
    everybody = [turned_away, same_place, tiny_step, behind, *good]
    depths = np.array([2.4, 3.5, 4.0])
    for candidates in (everybody, everybody[::-1]):
        chosen = choose_sources(reference, candidates, depths, PriorConfig(sources=2))
        assert {view.key for view in chosen} == {1, 2}
    chosen = choose_sources(reference, everybody, depths, PriorConfig(sources=4))
    assert {view.key for view in chosen} == {1, 2, 4}


@given(st.permutations(range(6)), st.floats(1e-3, 1e4))
@settings(max_examples=20, deadline=None)
def test_source_choice_ignores_order_and_scale(order, scale):
    rng = np.random.default_rng(5)
    places = rng.normal(0, 0.3, (6, 3))
    turns = rng.normal(0, 0.1, 6)
    reference = scenes.view(9, scenes.look((0, 0, 0)), scale)
    views = [scenes.view(k, scenes.look(tuple(places[k]), turns[k]), scale) for k in range(6)]
    depths = np.array([2.4, 3.5, 4.0]) * scale
    config = PriorConfig(sources=3)
    keys = [v.key for v in choose_sources(reference, [views[k] for k in order], depths, config)]
    plain = [scenes.view(k, scenes.look(tuple(places[k]), turns[k])) for k in range(6)]
    home = scenes.view(9, scenes.look((0, 0, 0)))
    assert keys == [v.key for v in choose_sources(home, plain, depths / scale, config)]


def test_triangulation_angle():
    a, b = (scenes.view(k, scenes.look((x, 0, 0))) for k, x in ((0, 0.0), (1, 1.0)))
    assert triangulation_angle(a, b, 1.0) == pytest.approx(45.0)
    assert triangulation_angle(a, b, 1e6) == pytest.approx(np.degrees(1e-6), rel=1e-6)


def test_triangulated_points_lie_on_the_surfaces():
    a, b = (scenes.view(k, scenes.POSES[k]) for k in range(2))
    points = triangulate_pair(a, detect_features(a), b, detect_features(b))
    assert len(points) > 20
    local = (points - a.center) @ a.c2w[:3, :3]
    pixels = local @ a.K.T
    u, v = (pixels[:, :2] / pixels[:, 2:]).T
    truth = scenes.cast(a.c2w)[1][v.astype(int), u.astype(int)]
    error = np.abs(local[:, 2] / truth - 1)
    assert np.median(error) < 0.02 and (error < 0.1).mean() > 0.8


def test_depth_range_comes_from_what_is_known():
    view, other = scenes.scene()[0][:2]
    known = np.linspace(2.0, 5.0, 500)
    none = np.zeros(0)
    near, far, content = depth_range(view, [np.zeros(0), known], none, [other], PriorConfig())
    assert 1.2 < near < 2.0 and 5.0 < far < 8.0
    assert near < content.min() and content.max() < far
    # A few points of a nearer thing widen the range; they are not outvoted by many of a map.
    near, _, _ = depth_range(view, [np.full(30, 0.8), known], none, [other], PriorConfig())
    assert near < 0.8
    # One wild value in a thousand does not.
    wild = np.append(known, [1e-4, 1e6])
    near, far, _ = depth_range(view, [wild], none, [other], PriorConfig())
    assert near > 1.2 and far < 8.0
    # A view that knows nothing of itself borrows from the others; one that does, does not.
    near, far, _ = depth_range(view, [none], known, [other], PriorConfig())
    assert 1.2 < near < 2.0 and 5.0 < far < 8.0
    assert depth_range(view, [known], 100 * known, [other], PriorConfig())[1] < 8.0
    near, far, _ = depth_range(view, [], none, [], PriorConfig())
    assert 0 < near < far < np.inf


def test_surface_points_return_to_their_pixels():
    view = scenes.view(0, scenes.look((0.3, -0.2, 0.1), yaw=0.2, pitch=-0.1))
    depth = scenes.cast(view.c2w)[1]
    points = surface_points(view, depth, np.ones(depth.shape, bool), 8)
    seen = seen_points(view, points)
    assert len(seen.depths) == (scenes.HEIGHT // 8) * (scenes.WIDTH // 8)
    np.testing.assert_allclose(seen.depths, depth[4::8, 4::8].ravel(), rtol=1e-5)
    assert seen.coverage == 1.0
    assert seen_points(view, points[:0]).coverage == 0.0


def test_fill_keeps_the_sure_and_closes_gaps():
    rows = np.linspace(0.0, 1.0, 40, dtype=np.float32)[:, None] * np.ones((1, 60), np.float32)
    confidence = np.ones_like(rows)
    confidence[15:25, 20:40] = 0.0
    broken = rows.copy()
    broken[confidence == 0] = -7.0
    filled = fill_unconfident(broken, confidence, background=3.0, leak=0.01)
    assert np.array_equal(filled[confidence == 1], rows[confidence == 1])
    assert np.abs(filled - rows)[confidence == 0].max() < 0.35
    nothing = fill_unconfident(broken, np.zeros_like(rows), background=3.0, leak=0.01)
    np.testing.assert_allclose(nothing, 3.0, atol=1e-4)


def test_planes_are_even_in_log_depth():
    depths = plane_depths(0.5, 32.0, 64)
    assert depths[0] == pytest.approx(0.5) and depths[-1] == pytest.approx(32.0)
    np.testing.assert_allclose(np.diff(np.log(depths)), np.log(64.0) / 63)


def test_features_do_not_outlive_their_pictures():
    prior = MatchingPrior(PriorConfig(threads=1, planes=8))
    prior.predict(scenes.scene()[0])
    gc.collect()
    assert not prior._features

"""Fusion: splats only where the map does not explain the pixels, few where little is to be seen."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder.fusion import FusionConfig, fuse_view, unexplained

HEIGHT, WIDTH = 24, 32
CAMERA = (30.0, 30.0, WIDTH / 2, HEIGHT / 2)


def view(seed=0, *, flat=False, depth=2.0):
    rng = np.random.default_rng(seed)
    color = rng.random((HEIGHT, WIDTH, 3), dtype=np.float32)
    if flat:
        color[:] = 0.4
    return (
        color,
        np.full((HEIGHT, WIDTH), depth, np.float32),
        np.full((HEIGHT, WIDTH), 0.9, np.float32),
    )


def seen(color, depth, alpha=1.0):
    return color, depth, np.full(depth.shape, alpha, np.float32)


def test_an_empty_map_takes_every_detail_and_merges_what_is_flat():
    detailed = fuse_view(*view(), CAMERA, rendered=None, budget=10_000)
    assert detailed.count == HEIGHT * WIDTH
    flat = fuse_view(*view(flat=True), CAMERA, rendered=None, budget=10_000)
    assert flat.count == HEIGHT * WIDTH // 16
    # A cell of 4x4 pixels is covered by one splat, four times as wide and a little more: the
    # renderer's own blur counts less for it.
    ratio = float(flat.scales.max()) / float(detailed.scales.max())
    assert 4.0 < ratio < 8.0


def test_a_map_that_shows_the_same_takes_nothing():
    color, depth, confidence = view()
    splats = fuse_view(color, depth, confidence, CAMERA, rendered=seen(color, depth), budget=10_000)
    assert splats.count == 0


def test_only_the_empty_part_is_filled():
    color, depth, confidence = view()
    rgb, map_depth, alpha = seen(color, depth)
    alpha[:, : WIDTH // 2] = 0.0
    splats = fuse_view(
        color, depth, confidence, CAMERA, rendered=(rgb, map_depth, alpha), budget=10_000
    )
    assert splats.count == HEIGHT * WIDTH // 2
    assert float(splats.means[:, 0].max()) < 0.0


def test_a_confident_surface_in_front_of_another_is_new_and_one_behind_is_not():
    color, _, confidence = view()
    behind, front = (np.full((HEIGHT, WIDTH), z, np.float32) for z in (3.0, 2.0))
    other = (1.0 - color).astype(np.float32)
    config = FusionConfig()
    surface, hole = unexplained(color, front, confidence, seen(other, behind), None, config)
    assert surface.mean() > 0.9 and not hole.any()
    surface, _ = unexplained(color, behind, confidence, seen(other, front), None, config)
    assert not surface.any()
    surface, _ = unexplained(color, front, 0.1 * confidence, seen(other, behind), None, config)
    assert not surface.any()


def test_unsure_pixels_fill_holes_coarsely():
    color, depth, confidence = view()
    splats = fuse_view(color, depth, 0.0 * confidence, CAMERA, rendered=None, budget=10_000)
    assert splats.count == HEIGHT * WIDTH // 16


def test_masked_pixels_give_nothing():
    valid = np.zeros((HEIGHT, WIDTH), np.bool_)
    valid[4:12, 8:16] = True
    splats = fuse_view(*view(), CAMERA, rendered=None, valid=valid, budget=10_000)
    assert splats.count == valid.sum()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    budget=st.integers(1, 800),
    height=st.integers(1, 23),
    width=st.integers(1, 30),
)
def test_the_budget_holds_and_the_view_stays_covered(seed, budget, height, width):
    color, depth, confidence = (a[:height, :width] for a in view(seed))
    splats = fuse_view(color, depth, confidence, CAMERA, rendered=None, budget=budget)
    assert 0 < splats.count <= budget
    splats.check_values()


def test_cells_do_not_reach_across_a_depth_edge():
    color, depth, confidence = view(flat=True)
    depth[:, 10:] = 5.0
    splats = fuse_view(color, depth, confidence, CAMERA, rendered=None, budget=10_000)
    z = splats.means[:, 2]
    assert bool(((z - 2.0).abs() < 0.1).logical_or((z - 5.0).abs() < 0.2).all())


def test_the_budget_holds_where_single_cells_of_every_size_are_wanted():
    color, depth, confidence = view(flat=True)
    valid = np.zeros((HEIGHT, WIDTH), np.bool_)
    valid[4:8, 8:12] = True
    valid[20, 30] = True
    for budget in (1, 2):
        splats = fuse_view(
            color, depth, confidence, CAMERA, rendered=None, valid=valid, budget=budget
        )
        assert splats.count == budget

"""Gains of views: the kernel against the sums that it stands for, and what refinement learns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refine_scenes import K, refiner_with_views, view_error

from gs_decoder.refine import RefineView
from gs_decoder.refine.gains import gain_step
from gs_decoder.refine.renderers import image_gradient


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.floats(0.0, 1.0))
def test_a_step_is_the_weighted_share_of_what_is_missing(seed, height, width, share):
    random = np.random.default_rng(seed)
    exposed, target = random.uniform(0.0, 1.0, (2, height, width, 3)).astype(np.float32)
    told = random.random((height, width)) < share
    missing = target.astype(np.float64) - exposed
    weight = told[..., None] * exposed / (np.abs(missing) + 0.05)
    expected = (weight * missing).sum(axis=(0, 1)) / ((weight * exposed).sum(axis=(0, 1)) + 1e-6)
    step = gain_step(exposed, target, told)
    assert step.dtype == np.float32
    assert np.allclose(step, expected, rtol=1e-4, atol=1e-5)
    assert told.any() or not step.any()


def test_an_exposure_gain_is_learned_by_the_view_not_the_map():
    refiner = refiner_with_views(9, noise=0.0, gain_hold=0.05)
    dark = refiner.views[3]
    dark.image = (dark.image * 0.8).astype(np.uint8)
    for _ in range(200):
        refiner.step()
    assert np.allclose(np.exp(dark.log_gain), 0.8, atol=0.08)
    others = [view.log_gain for key, view in refiner.views.items() if key != 3]
    assert np.abs(np.mean(others)) < 0.06
    refiner.close()


def test_gains_are_held_so_that_the_map_keeps_the_exposure_of_its_pictures():
    """Dimmed all alike, it is the map that has to get darker, from any gains to begin with."""
    refiner = refiner_with_views(10, noise=0.0)
    for view in refiner.views.values():
        view.image = (view.image * 0.7).astype(np.uint8)
        view.log_gain = np.full(3, 0.3, np.float32)
    for _ in range(300):
        refiner.step()
    gains = np.array([view.log_gain for view in refiner.views.values()])
    assert np.abs(gains).max() < 0.05
    assert view_error(refiner) < 1e-3
    refiner.close()


@pytest.mark.parametrize("masked", [False, True])
def test_a_gain_is_found_in_one_step_whatever_a_part_of_the_picture_does(masked):
    rng = np.random.default_rng(0)
    rgb = rng.uniform(0.2, 0.6, (40, 60, 3)).astype(np.float32)
    gain = np.array([1.1, 0.95, 1.15], np.float32)
    target = rgb * gain
    target[:, :15] = rng.uniform(0.0, 1.0, (40, 15, 3))
    valid = np.ones((40, 60), np.bool_)
    valid[:, :15] = not masked
    view = RefineView(
        key=0, image=(target * 255 + 0.5).astype(np.uint8), K=K, c2w=np.eye(4), valid=valid
    )
    filled = np.ones((40, 60), np.float32)
    step = image_gradient(rgb, filled, filled, view, ssim_weight=0.2, depth_weight=0.0).gain_step
    # A step is linear in the gain: what is left of it is its square.
    assert np.allclose(step, gain - 1.0, atol=0.005 if masked else 0.05)

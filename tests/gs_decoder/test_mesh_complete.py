"""Depth carried on from what is sure: planes stay planes, edges of colour stay edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder.mesh import CompletionConfig, complete_depth

CONFIG = CompletionConfig()
HEIGHT, WIDTH = 96, 128


def plane(a: float, b: float, c: float) -> np.ndarray:
    """(H, W) z-depth of 1 / (a + b u + c v), u and v from 0 to 1 across the picture."""
    v, u = np.indices((HEIGHT, WIDTH), np.float32)
    return np.asarray(1.0 / (a + b * u / WIDTH + c * v / HEIGHT), np.float32)


def grey(value: float = 0.5) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), value, np.float32)


@settings(max_examples=20, deadline=None)
@given(
    slopes=st.tuples(st.floats(-0.15, 0.15), st.floats(-0.15, 0.15)),
    wrong=st.floats(0.3, 3.0),
    hole=st.booleans(),
)
def test_a_wall_takes_the_plane_of_its_rim(
    slopes: tuple[float, float], wrong: float, hole: bool
) -> None:
    truth = plane(0.5, *slopes)
    depth, weight = truth.copy(), np.full(truth.shape, 0.8, np.float32)
    inside = (slice(24, 72), slice(32, 96))
    # Splats as wide as this one would be are hardly weighed; or there are none.
    depth[inside], weight[inside] = 0.0 if hole else wrong * truth[inside], 1e-4
    filled, left = complete_depth(depth, weight, grey(), CONFIG)
    assert np.abs(filled / truth - 1.0)[inside].max() < 0.03
    assert np.abs(filled / truth - 1.0).mean() < 0.005
    assert (left <= weight).all() and (left[inside] <= 1e-4).all()
    assert left[:12].min() > 0.7


def test_an_edge_of_colour_parts_two_walls() -> None:
    near, far = plane(1.0, 0.1, 0.0), plane(0.3, 0.0, 0.05)
    right = np.arange(WIDTH) >= 64
    truth, rgb = np.where(right, far, near), grey(0.3)
    rgb[:, right] = 0.8
    weight = np.full(truth.shape, 0.8, np.float32)
    # Nothing is known of a broad stripe along the edge.
    weight[:, 48:80] = 0.0
    filled, _ = complete_depth(truth, weight, rgb, CONFIG)
    error = np.abs(filled / truth - 1.0)
    assert np.median(error[:, 48:80]) < 0.05 and error.mean() < 0.04
    # Of one colour, the stripe is a slope from one to the other instead.
    slope, _ = complete_depth(truth, weight, grey(), CONFIG)
    assert np.abs(slope / truth - 1.0)[:, 60:68].min() > 0.2


def test_what_contradicts_its_neighbours_is_believed_less() -> None:
    truth = plane(0.5, 0.1, 0.1)
    depth, weight = truth.copy(), np.full(truth.shape, 0.5, np.float32)
    depth[40:44, 60:64] *= 2.0
    filled, left = complete_depth(depth, weight, grey(), CONFIG)
    assert left[40:44, 60:64].max() < 0.1 < 0.4 < left[:30].min()
    assert np.abs(filled / truth - 1.0)[40:44, 60:64].max() < 0.25


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    unit=st.floats(1e-3, 1e3),
)
def test_nothing_lies_beyond_what_is_known(seed: int, size: tuple[int, int], unit: float) -> None:
    generator = np.random.default_rng(seed)
    depth = generator.uniform(0.5, 5.0, size).astype(np.float32)
    depth[generator.random(size) < 0.3] = 0.0
    weight = generator.uniform(0.0, 1.0, size).astype(np.float32)
    rgb = generator.uniform(0.0, 1.0, (*size, 3)).astype(np.float32)
    filled, left = complete_depth(depth, weight, rgb, CONFIG)
    assert filled.shape == left.shape == depth.shape
    assert filled.dtype == left.dtype == np.float32
    if not (depth > 0).any():
        assert not filled.any() and not left.any()
        return
    known = depth[depth > 0]
    assert filled.min() >= 0.999 * known.min() and filled.max() <= 1.001 * known.max()
    assert (left[depth == 0] == 0).all()
    # The unit of length is of no account.
    scaled, _ = complete_depth(depth * np.float32(unit), weight, rgb, CONFIG)
    assert scaled / unit == pytest.approx(filled, rel=1e-3)

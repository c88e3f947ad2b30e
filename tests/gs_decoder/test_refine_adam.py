"""Adam's step, the average that is shown of it, and gradients through the activations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refine_scenes import some_splats

from gs_decoder.refine import SplatParameters, adam
from gs_decoder.refine.adam import accumulate_rows


def adam_step(rows, average, ages, gradient, **options):
    """One step of Adam without memory, on all splats but those in `unseen`."""
    count = len(rows)
    seen = ~np.isin(np.arange(count), options.get("unseen", ()))
    eagerness = np.ones(14, np.float32)
    eagerness[11:] = options.get("eager", 8.0)
    moments = np.zeros((2, count, 14), np.float32)
    rates = np.full(14, options.get("rate", 0.01), np.float32)
    tail, longest = options.get("tail", 16.0), options.get("longest", 400.0)
    adam.adam_rows(
        0, count, rows, average, *moments, ages, gradient, seen, rates, eagerness, 200.0, tail,
        longest, 0.0, 0.0, 1e-12,
    )  # fmt: skip


def test_faint_young_splats_are_eager_and_settle():
    """The first step of Adam is the rate itself: it tells the factor."""

    def first_step(logit, age, **options):
        rows = np.zeros((1, 14), np.float32)
        rows[0, 10] = logit
        before = rows.copy()
        ages = np.array([age], np.int32)
        adam_step(rows, rows.copy(), ages, np.ones((1, 14), np.float32), **options)
        return float((before - rows)[0, 12]) / 0.01

    assert first_step(-9.0, 0) == pytest.approx(8.0, rel=0.01)
    assert first_step(0.0, 0) == pytest.approx(4.5, rel=0.01)
    assert first_step(9.0, 0) == pytest.approx(1.0, rel=0.01)
    assert first_step(-9.0, 200) == pytest.approx(4.5, rel=0.02)
    assert first_step(-9.0, 0, eager=1.0) == pytest.approx(1.0, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 16))
def test_the_average_is_over_the_last_part_of_a_splats_own_steps(seed, steps, tail):
    """Against the weights in closed form: step i of n counts C(i + tail - 2, tail - 1) times."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((2, 14), np.float32)
    average = rng.normal(size=(2, 14)).astype(np.float32)
    unseen = average[1].copy()
    ages = np.zeros(2, np.int32)
    history = []
    for _ in range(steps):
        gradient = rng.normal(size=(2, 14)).astype(np.float32)
        adam_step(rows, average, ages, gradient, unseen=(1,), tail=float(tail), longest=1e9)
        history.append(rows[0].astype(np.float64))
    counts = np.array([math.comb(i + tail - 2, tail - 1) for i in range(1, steps + 1)], np.float64)
    expected = counts @ np.array(history) / counts.sum()
    assert np.allclose(average[0], expected, atol=1e-5)
    assert np.array_equal(average[1], unseen), "who was not seen stays as shown"
    assert ages.tolist() == [steps, 0]


def test_an_old_splats_average_forgets_at_the_pace_of_the_longest_one():
    rows, average = np.zeros((1, 14), np.float32), np.ones((1, 14), np.float32)
    ages = np.array([100_000], np.int32)
    for _ in range(20):
        adam_step(rows, average, ages, np.ones((1, 14), np.float32), rate=0.0, longest=10.0)
    assert np.allclose(average, 0.9**20, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_gradients_pass_the_activations_as_autograd_says(seed):
    rng = np.random.default_rng(seed)
    parameters = SplatParameters(8)
    parameters.add(0, some_splats(seed, 8))
    given_gradients = {
        "means": rng.normal(size=(8, 3)),
        "quats": rng.normal(size=(8, 4)),
        "scales": rng.normal(size=(8, 3)),
        "opacities": rng.normal(size=8),
        "colors": rng.normal(size=(8, 3)),
    }
    arrays = {name: value.astype(np.float32) for name, value in given_gradients.items()}
    # Of another step there may be anything.
    gradient, seen = np.full((8, 14), 7.0, np.float32), np.zeros(8, np.bool_)
    everything = np.arange(8)
    for first, last in ((0, 3), (3, 8)):
        accumulate_rows(
            first, last, gradient, seen, parameters.scales, parameters.opacities, everything,
            *arrays.values(),
        )  # fmt: skip
    rows = torch.tensor(parameters.rows, requires_grad=True)
    activated = (
        rows[:, :3],
        rows[:, 3:7],
        rows[:, 7:10].exp(),
        rows[:, 10].sigmoid(),
        rows[:, 11:],
    )
    total = sum(
        (a * torch.tensor(g)).sum() for a, g in zip(activated, arrays.values(), strict=True)
    )
    (expected,) = torch.autograd.grad(total, rows)
    assert seen.all()
    assert np.allclose(gradient, expected.numpy(), rtol=1e-4, atol=1e-5)

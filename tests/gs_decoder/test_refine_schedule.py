"""Whose turn it is, and when refinement ends."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder import Splats
from gs_decoder.refine import RefineConfig, Refiner, RefineView, refiner_state, restore_refiner
from gs_decoder.refine.choice import choose_views
from gs_decoder.refine.convergence import Convergence
from gs_decoder.refine.renderers import NumbaViewRenderer
from gs_decoder.refine.schedule import RateSchedule

K = np.array([[20.0, 0, 12], [0, 20.0, 8], [0, 0, 1]])
IMAGE = np.zeros((16, 24, 3), np.uint8)


def some_views(psnrs):
    return [
        RefineView(key=key, image=IMAGE, K=K, c2w=np.eye(4), psnr=psnr)
        for key, psnr in enumerate(psnrs)
    ]


def take_turns(views, steps, together=2, novelty=4.0, seed=0):
    random = np.random.default_rng(seed)
    turns = Counter()
    for step in range(1, steps + 1):
        for view in choose_views(views, together, step, novelty, random):
            view.visited, view.visits = step, view.visits + 1
            turns[view.key] += 1
    return turns


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | st.floats(5.0, 60.0), min_size=1, max_size=40),
    st.integers(1, 8),
    st.floats(0.0, 20.0),
    st.integers(0, 2**32 - 1),
)
def test_no_view_is_taken_twice_or_waits_for_ever(psnrs, together, novelty, seed):
    views = some_views(psnrs)
    random = np.random.default_rng(seed)
    # Errors differ by 4 at most, chance by 3, novelty by 1 + novelty: so long may a turn take.
    longest = int(12 * (1 + novelty) * (len(views) / together + 1)) + 1
    for step in range(1, 200):
        chosen = choose_views(views, together, step, novelty, random)
        assert len({view.key for view in chosen}) == len(chosen) == min(together, len(views))
        for view in chosen:
            view.visited, view.visits = step, view.visits + 1
        assert all(step - view.visited <= longest for view in views)


def test_alike_views_take_turns_and_bad_ones_get_more_of_them():
    turns = take_turns(some_views([25.0] * 20), 400)
    assert min(turns.values()) > 30 and max(turns.values()) < 50
    turns = take_turns(some_views([15.0] * 2 + [30.0] * 18), 400)
    assert min(turns[0], turns[1]) > 1.5 * max(turns[key] for key in range(2, 20))


def test_a_new_view_comes_sooner_and_never_before_it_came():
    old = some_views([25.0] * 20)
    take_turns(old, 200)
    new = RefineView(key=99, image=IMAGE, K=K, c2w=np.eye(4), visited=200)
    random = np.random.default_rng(1)
    turns = Counter()
    for step in range(201, 241):
        for view in choose_views([*old, new], 2, step, 4.0, random):
            view.visited, view.visits, view.psnr = step, view.visits + 1, 25.0
            turns[view.key] += 1
    assert turns[99] > max(count for key, count in turns.items() if key != 99)


def run_down(levels, views=10, **options):
    """Passes until it is reached, for views whose PSNR in pass n is levels(n)."""
    watch = Convergence(**options)
    watched = some_views([0.0] * views)
    for number in range(1, 20_000):
        for view in watched:
            view.psnr = levels(number / 50)
        watch.step(watched, 2)
        if watch.reached:
            return number / 50
    return None


def test_refinement_ends_when_nothing_is_gained_and_not_while_something_is():
    assert run_down(lambda n: 20.0 + 0.05 * n) is None
    rising = run_down(lambda n: 30.0 - 10.0 * np.exp(-n / 20.0), least_gain=0.1, patience=6)
    # 10 exp(-n / 20) loses 0.1 dB in six passes from n = 66 on; rates fall over a third as many.
    assert rising == pytest.approx(72 / 0.75, abs=11)
    assert run_down(lambda n: 25.0 + 0.01 * np.sin(7 * n)) <= 8 / 0.75


def test_what_is_new_starts_it_again_and_a_saved_state_goes_on():
    watch = Convergence()
    views = some_views([20.0])
    for _ in range(1000):
        watch.step(views, 2)
    assert watch.reached
    watch.restart()
    assert not watch.reached

    renderer = NumbaViewRenderer(1)
    one = Refiner(renderer, RefineConfig(workers=1))
    one.convergence.levels, one.convergence.counted = [20.0, 21.0], 7
    one.convergence.steps, one.convergence.level_at = 500, 450
    other = Refiner(renderer, RefineConfig(workers=1))
    restore_refiner(other, refiner_state(one), {})
    assert other.convergence == one.convergence
    one.close()
    other.close()


def test_new_views_and_moved_chunks_are_something_to_learn_from():
    refiner = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1))
    for change in (
        lambda: refiner.add_view(some_views([None])[0]),
        lambda: refiner.move_chunks({3: np.eye(4)}),
    ):
        refiner.convergence.steps, refiner.convergence.level_at = 700, 400
        assert refiner.convergence.reached
        change()
        assert refiner.convergence.share == 0.0 and not refiner.convergence.reached
    refiner.close()


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.05, 0.95),
    st.floats(0.01, 1.0),
    st.lists(st.floats(0.0, 3.0), min_size=2, max_size=30),
)
def test_rates_are_held_and_fall_to_their_rest(hold, rest, shares):
    schedule = RateSchedule(hold=hold, rest=rest)
    factors = [schedule.factor(share) for share in sorted(shares)]
    assert all(later <= sooner for sooner, later in pairwise(factors))
    assert all(rest * (1 - 1e-9) <= factor <= 1.0 for factor in factors)
    assert schedule.factor(0.0) == schedule.factor(hold) == 1.0
    assert schedule.factor(hold + 1e-9) == pytest.approx(1.0, rel=1e-4)
    assert schedule.factor(1.0) == schedule.factor(9.0) == pytest.approx(rest)
    # The same share of what is left always takes off the same factor.
    third = (1.0 - hold) / 3.0
    fall = [schedule.factor(hold + n * third) for n in range(4)]
    assert np.allclose(np.diff(np.log(fall)), np.log(rest) / 3.0)


@pytest.mark.parametrize("wrong", [{"hold": 0.0}, {"hold": 1.0}, {"rest": 0.0}, {"rest": 2.0}])
def test_a_schedule_that_rises_is_refused(wrong):
    with pytest.raises(ValueError, match="fall"):
        RateSchedule(**wrong)


def stepping(seed=0):
    """A refiner that has something to learn."""
    refiner = Refiner(NumbaViewRenderer(2), RefineConfig(seed=seed))
    rng = np.random.default_rng(seed)
    count = 60
    refiner.add_splats(
        4,
        Splats(
            means=torch.tensor(
                rng.uniform([-1, -1, 2], [1, 1, 3], (count, 3)), dtype=torch.float32
            ),
            quats_wxyz=torch.tensor([[1.0, 0, 0, 0]] * count),
            scales=torch.full((count, 3), 0.1),
            opacities=torch.full((count,), 0.5),
            sh=torch.zeros((count, 1, 3)),
        ),
    )
    for key in range(4):
        image = rng.integers(0, 255, IMAGE.shape).astype(np.uint8)
        refiner.add_view(RefineView(key=key, image=image, K=K, c2w=np.eye(4)))
    return refiner


def moved_by(share, level_at=None):
    """How far the first step moves each splat's parameters."""
    refiner = stepping()
    if level_at is not None:
        refiner.convergence.steps, refiner.convergence.level_at = 1000, level_at
    before = refiner.parameters.rows[:60].astype(np.float64)
    refiner.step(share)
    moved = refiner.parameters.rows[:60] - before
    refiner.close()
    return moved


def test_a_step_goes_as_far_as_the_schedule_says():
    config = RefineConfig().schedule
    free = moved_by(0.0)
    assert np.abs(free).max() > 1e-3
    for share, level_at, factor in (
        (config.hold, None, 1.0),
        (1.0, None, config.rest),
        (7.0, None, config.rest),
        (0.0, 1000, 1.0),
        (0.0, 500, config.rest),
        (0.2, 500, config.rest),
        (1.0, 1000, config.rest),
    ):
        assert np.allclose(moved_by(share, level_at), factor * free, rtol=1e-3, atol=1e-5)


def test_a_saved_state_goes_on_where_rates_had_fallen_to():
    """To the bit, beyond the end, and up again with a new view."""
    one = stepping()
    for _ in range(9):
        one.step()
    one.convergence.level_at = one.convergence.steps
    for _ in range(2):
        one.step()
    assert one.config.schedule.hold < one.convergence.share < 1.0
    other = Refiner(NumbaViewRenderer(2), one.config)
    views = {key: dataclasses.replace(view) for key, view in one.views.items()}
    restore_refiner(other, refiner_state(one), views)
    for place in range(8):
        if place == 5:
            for refiner in (one, other):
                refiner.add_view(RefineView(key=9, image=IMAGE, K=K, c2w=np.eye(4)))
                assert refiner.convergence.share == 0.0
        one.step()
        other.step()
        assert np.array_equal(one.parameters.rows[:60], other.parameters.rows[:60])
    one.close()
    other.close()

"""What key frames may cost: never more than was earned, always one at last, spread over time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from engine_helpers import make_engine, office
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.session import pace
from streamer.session.batching import picked, reduced
from streamer.session.engine import Engine
from streamer.session.pace import Pace, Rush, in_turn

SIZE = (160, 240)
PIXELS = SIZE[0] * SIZE[1]


def worked(account: Pace, seconds: float, wanted: int, true_cost: float) -> tuple[int, float]:
    """A batch of which so many frames would be key frames: how many are, and at which reduction.

    Args:
        true_cost: seconds of a whole key frame on this machine.
    """
    account.earn(seconds, *SIZE)
    most = account.affords(*SIZE)
    taken = wanted if most is None else min(wanted, most)
    factor = account.reduction(taken, *SIZE)
    if taken:
        pixels = taken * PIXELS / factor**2
        account.spent(true_cost / PIXELS * pixels, int(pixels))
    return taken, factor


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 10.0), st.floats(1e-3, 10.0), st.lists(st.integers(0, 4), max_size=60))
def test_key_frames_never_cost_more_than_was_earned(
    cost: float, seconds: float, wanted: list[int]
) -> None:
    account = Pace(per_pixel=cost / PIXELS)
    work = 0.0
    for number, count in enumerate(wanted, 1):
        taken, factor = worked(account, seconds, count, cost)
        work += taken * cost / factor**2
        # One whole reduction step of rounding, and no more.
        assert work <= number * seconds * 1.001
        assert 1.0 <= factor <= 2.0


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 10.0), st.floats(1e-3, 10.0))
def test_however_slow_the_machine_a_moving_camera_makes_key_frames_for_ever(
    cost: float, seconds: float
) -> None:
    account = Pace(per_pixel=cost / PIXELS)
    patience = math.ceil(cost / seconds) + 2
    since = 0
    for _ in range(5 * patience):
        taken, _ = worked(account, seconds, 4, cost)
        since = 0 if taken else since + 1
        assert since <= patience


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_what_a_key_frame_costs_is_found_out(guess: float, true: float, seconds: float) -> None:
    account = Pace(per_pixel=guess / PIXELS)
    work = 0.0
    for _ in range(60):
        taken, factor = worked(account, seconds, 4, true)
        work += taken * true / factor**2
    # A wrong guess costs a batch or two, not the stream.
    assert work <= 60 * seconds + 8 * true
    assert account.per_pixel is not None
    if work > 20 * true:
        assert account.per_pixel * PIXELS == pytest.approx(true, rel=0.1)


def test_fine_where_there_is_time_then_coarse_then_fewer() -> None:
    cost = 0.1
    outcomes = []
    for seconds in (1.0, 0.41, 0.2, 0.11, 0.06, 0.03):
        account = Pace(per_pixel=cost / PIXELS)
        outcomes.append(worked(account, seconds, 4, cost))
    assert outcomes[:2] == [(4, 1.0), (4, 1.0)]
    assert outcomes[2] == (4, 1.5)
    assert outcomes[3:] == [(4, 2.0), (2, 1.875), (1, 1.875)]


@given(st.floats(-10.0, 10.0), st.integers(1, 16))
def test_the_last_frames_are_taken_whatever_is_owed(purse: float, frames: int) -> None:
    account = Pace(per_pixel=0.1 / PIXELS, purse=purse)
    account.finish(frames, *SIZE)
    most = account.affords(*SIZE)
    assert most is not None and most >= frames
    assert account.purse == pytest.approx(max(purse, frames * 0.025), rel=2e-3)


def test_without_a_limit_or_a_measurement_nothing_is_refused() -> None:
    account = Pace(per_pixel=1e9)
    account.earn(math.inf, *SIZE)
    assert account.affords(*SIZE) is None
    assert account.reduction(4, *SIZE) == 1.0
    unknown = Pace()
    unknown.earn(1e-9, *SIZE)
    assert unknown.affords(*SIZE) is None


def test_what_is_saved_and_what_is_owed_has_bounds() -> None:
    account = Pace(per_pixel=0.1 / PIXELS)
    for _ in range(1000):
        account.earn(1.0, *SIZE)
    assert account.purse == 8.0
    account.spent(1e6, PIXELS)
    account.earn(1.0, *SIZE)
    account.per_pixel = 0.1 / PIXELS
    account.earn(1.0, *SIZE)
    assert account.purse == 1.0, "a machine that stood still for days does not pay for it"


def test_frames_that_are_there_are_taken_together_until_they_fill_a_batch() -> None:
    account = Pace(per_pixel=0.1 / PIXELS)
    assert [account.together(4, seconds, *SIZE) for seconds in (math.inf, 1.0, 0.11)] == [1, 1, 1]
    assert account.together(4, 0.06, *SIZE) == 2
    assert account.together(4, 1e-6, *SIZE) == 4


@given(st.integers(1, 40), st.integers(0, 40))
def test_key_frames_of_a_batch_are_spread_over_it(frames: int, most: int) -> None:
    places: list[int] = []
    for place in range(frames):
        if in_turn(place, len(places), most, frames):
            places.append(place)
    assert len(places) == min(most, frames)
    if len(places) > 1:
        gaps = np.diff(places)
        assert gaps.max() - gaps.min() <= 1


def test_a_stream_is_limited_from_the_moment_that_frames_are_lost() -> None:
    rush = Rush()
    assert rush.batch(10.0, 4, 0) == math.inf
    assert rush.batch(11.0, 4, 0) == math.inf
    # In two seconds twelve frames came, and eight were lost: four last two thirds of a second.
    assert rush.batch(13.0, 4, 8) == pytest.approx(pace.SHARE * 2.0 / 3.0)
    # Nothing is lost any more, which does not mean that all is well without the limit.
    assert rush.batch(14.0, 4, 8) == pytest.approx(pace.SHARE)


def engine_that_takes(per_pixel: float | None, seconds: float, **options: object) -> Engine:
    """After 24 frames, with so many seconds a batch."""
    engine, _ = make_engine(**options)
    for start in range(0, 24, 4):
        # How long it really takes on this machine is not what this is about.
        engine.pace = Pace(per_pixel)
        engine.process(office(start, start + 4), seconds=seconds)
    engine.close()
    return engine


def test_a_slow_engine_makes_fewer_key_frames_all_over_the_stream_and_keeps_every_view() -> None:
    unlimited = engine_that_takes(1e9, math.inf)
    slow = engine_that_takes(1.0, 42.0 * 64.0)
    assert 1 < len(slow.keyframes) <= 6 < len(unlimited.keyframes), "one a batch"
    assert max(slow.keyframes) >= 16, "not at the beginning alone"
    sides = [engine.status().keyframe_side for engine in (slow, unlimited)]
    assert sides[0] and sides[1] and sides[0] < sides[1] == max(office(0, 1)[0].image.shape)
    assert len(engine_that_takes(1e9, 1.0).keyframes) == 1, "a map begins, whatever it costs"
    assert sorted(slow.refiner.views) == list(range(24)), "the others serve refinement"
    assert slow.frames_done == 24


@pytest.mark.parametrize("last", [False, True])
def test_what_is_seen_last_is_mapped_however_late_it_is(last: bool) -> None:
    engine, _ = make_engine()
    for start in (0, 20):
        engine.pace = Pace(per_pixel=1e9)
        engine.process(office(start, start + 4), seconds=1e-9, last=last and start == 20)
    engine.close()
    assert any(seq >= 20 for seq in engine.keyframes) == last


def test_an_engine_with_fixed_steps_does_not_look_at_the_clock() -> None:
    one = engine_that_takes(1e9, 1e-9, refine_steps=1)
    other = engine_that_takes(None, math.inf, refine_steps=1)
    assert list(one.keyframes) == list(other.keyframes)
    assert np.array_equal(one.splats_world().means.numpy(), other.splats_world().means.numpy())


def test_key_frames_of_fewer_pixels_make_a_smaller_map_of_the_same_place() -> None:
    frames = office(0, 4, long_side=128)
    height, width = frames[0].image.shape[:2]
    sizes, renders = [], []
    for factor in (1.0, 2.0):
        engine, _ = make_engine()
        # What is there for four key frames pays for them at this reduction.
        engine.pace.per_pixel = 1.0 / (height * width)
        engine.process(frames, seconds=4.0 / factor**2)
        assert len(engine.keyframes) == 4
        assert all(v.image.shape[:2] == (height, width) for v in engine.refiner.views.values())
        sizes.append(engine.refiner.parameters.count)
        frame = frames[1]
        assert frame.c2w is not None
        render = engine.refiner.render(frame.c2w, frame.K, width, height)
        assert render is not None
        renders.append(float(np.square(render[0] - frame.image / 255.0).mean()))
        engine.close()
    assert sizes[1] < 0.6 * sizes[0]
    assert renders[1] < 1.2 * renders[0], "it shows the same room"


def test_a_reduced_frame_shows_the_same_through_larger_pixels() -> None:
    frame = office(0, 1)[0]
    height, width = frame.image.shape[:2]
    depth = np.random.default_rng(0).uniform(1.0, 3.0, (height, width)).astype(np.float32)
    valid = np.ones((height, width), np.bool_)
    valid[: height // 2] = False
    frame = dataclasses.replace(frame, depth=depth, valid=valid)
    assert reduced(frame, 1.0) is frame
    small = reduced(frame, 2.0)
    rows, columns = round(height / 2), round(width / 2)
    assert small.image.shape == (rows, columns, 3)
    assert np.allclose(small.image.mean((0, 1)), frame.image.mean((0, 1)), atol=1.0)
    ray = np.linalg.inv(frame.K) @ [width, height, 1.0]
    assert np.allclose(small.K @ ray, [columns, rows, 1.0])
    assert small.depth is not None and small.valid is not None
    assert np.isin(small.depth, depth).all(), "no depth that was not measured"
    assert not small.valid[: rows // 2].any() and small.valid[rows // 2 + 1 :].all()
    assert picked(depth, frame) is depth

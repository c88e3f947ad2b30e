"""What a run's plan says of time: when batches are due, and what their key frames may take."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from engine_helpers import CAPTURE, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder.refine.workers import Wait
from streamer.run import RunPlan, run_capture
from streamer.session.pace import SHARE
from streamer.sources import open_capture


def plan(
    rate: float, frames: int = 16, folder: Path = CAPTURE, time_limit: float = math.inf
) -> RunPlan:
    capture = open_capture(folder)
    return RunPlan(
        capture=capture,
        given=capture.frames[:frames],
        kept=(),
        long_side=64,
        with_depth=False,
        time_limit=time_limit,
        rate=rate,
    )


@settings(deadline=None)
@given(st.integers(1, 16))
def test_key_frames_have_their_share_of_the_limit_or_of_the_time_between_frames(
    frames: int,
) -> None:
    limited = plan(rate=0.0, time_limit=10.0)
    assert limited.key_frame_seconds(16) == pytest.approx(SHARE * 10.0)
    assert limited.key_frame_seconds(frames) == pytest.approx(SHARE * 10.0 * frames / 16)
    assert plan(rate=5.0).key_frame_seconds(frames) == pytest.approx(SHARE * frames / 5.0)
    assert plan(rate=0.0).key_frame_seconds(frames) == math.inf


@settings(deadline=None)
@given(st.integers(0, 12))
def test_at_a_rate_the_time_until_the_next_batch_is_there_is_refinements(taken: int) -> None:
    assert plan(rate=5.0).next_batch_at(taken, 4) == (taken + 4) / 5.0
    assert plan(rate=0.0, time_limit=10.0).next_batch_at(taken, 4) == 0.0


LIMITED, ENDLESS, LIVE = plan(0.0, time_limit=10.0), plan(0.0), plan(5.0, time_limit=10.0)


@given(st.floats(0.0, 9.9), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8))
def test_the_share_of_a_limit_that_is_gone_rises_from_the_last_frame_to_the_end(
    last: float, places: list[float]
) -> None:
    times = [last + place * (10.0 - last) for place in sorted(places)]
    shares = [LIMITED.share_gone(last, now) for now in times]
    assert shares == pytest.approx(sorted(places), abs=1e-6)
    assert LIMITED.share_gone(10.5, 10.6) >= 1.0, "frames took longer than there was"
    assert ENDLESS.share_gone(last, 9.9) == LIVE.share_gone(last, 9.9) == 0.0


@pytest.mark.parametrize(("limit", "steps"), [(math.inf, 6), (4.0, None)])
def test_a_run_tells_refinement_how_much_of_its_end_is_left(
    limit: float, steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock, or by steps where so many were asked for; every step once."""
    engine, _ = make_engine(idle_steps=steps)
    shares: list[float] = []
    step = engine.refiner.step

    def told(share: float, wait: Wait) -> float | None:
        shares.append(share)
        return step(share, wait)

    monkeypatch.setattr(engine.refiner, "step", told)
    engine.warm_up(43, 64)
    run_capture(engine, plan(rate=0.0, frames=4, time_limit=limit))
    assert shares == sorted(shares) and shares[0] >= 0.0 and len(set(shares)) == len(shares)
    if steps is not None:
        assert shares == pytest.approx([n / steps for n in range(steps)])

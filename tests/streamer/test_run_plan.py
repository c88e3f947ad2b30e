"""What a run's plan says of time: when batches are due, and what their key frames may take."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from engine_helpers import CAPTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.run import RunPlan
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

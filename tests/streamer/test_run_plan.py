"""What a run's plan says of time: when batches are due, and how far behind the engine is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from engine_helpers import CAPTURE
from hypothesis import given
from hypothesis import strategies as st

from streamer.run import RunPlan
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


STREAM = plan(rate=5.0)


@given(st.integers(0, 12), st.floats(0.0, 0.19))
def test_an_engine_in_time_is_not_told_of_frames_that_wait(taken: int, late: float) -> None:
    begins = STREAM.next_batch_at(taken, 4)
    assert STREAM.waiting(begins + late + 1e-6, taken + 4) == 0


@pytest.mark.parametrize(
    ("elapsed", "taken", "waiting"), [(2.0, 4, 6), (100.0, 4, 12), (1.0, 8, 0)]
)
def test_frames_wait_that_have_come_and_are_not_taken(
    elapsed: float, taken: int, waiting: int
) -> None:
    assert STREAM.waiting(elapsed + 1e-6, taken) == waiting


def test_without_a_rate_or_a_limit_nothing_waits() -> None:
    assert plan(rate=0.0).waiting(1e6, 0) == 0


@given(st.integers(0, 16))
def test_a_limit_leaves_time_for_refinement(taken: int) -> None:
    limited = plan(rate=0.0, time_limit=10.0)
    due = limited.next_batch_at(taken, 4)
    assert limited.waiting(due + 1e-6, taken) == 0
    # Six of the ten seconds are the frames': half of them late by half of the frames.
    assert limited.waiting(due + 3.0 + 1e-6, taken) == min(8, 16 - taken)
    assert limited.waiting(10.0, taken) == 16 - taken

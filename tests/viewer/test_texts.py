"""The panel's texts."""

from __future__ import annotations

import pytest

from viewer.nodes import Shown
from viewer.state import FeedState, Figures
from viewer.texts import describe, figures_html, state_html

NOTHING = Shown(splats=0, available=0, bytes_sent=0, skipped=0)


def live(figures: Figures | None, sessions: tuple[str, ...] = ("a",)) -> FeedState:
    return FeedState(link="live", session="a", sessions=sessions, figures=figures)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (FeedState(), "connecting to the daemon"),
        (FeedState(link="waiting"), "waiting for frames"),
        (live(Figures(frames_in=3, state="idle"), sessions=()), "waiting for frames"),
        (live(None), "waiting for frames"),
        (FeedState(link="away", silent_s=12.4), "the daemon has been away for 12 s"),
        (live(Figures(frames_in=3, state="streaming")), "mapping"),
        (live(Figures(frames_in=3, state="paused")), "paused"),
        (live(Figures(frames_in=3, state="lost")), "process died"),
        (live(Figures(frames_in=3, state="dreaming")), "dreaming"),
    ],
)
def test_the_state_is_said_in_words(state: FeedState, text: str) -> None:
    assert text in describe(state)[0]
    assert text in state_html(state)


def test_all_figures_are_there() -> None:
    figures = Figures(
        frames_in=1200, frames_done=1100, frames_waiting=90, frames_dropped=10, frames_rejected=2,
        keyframes=77, splats=5, batch_ms=301.4, latency_p50_ms=412.2, latency_p95_ms=1803.0,
        psnr=23.456, model="no trained checkpoint",
    )  # fmt: skip
    html = figures_html(
        FeedState(link="live", figures=figures),
        Shown(splats=300_000, available=412_345, bytes_sent=0, skipped=3),
        "4,500,000, 0, 0",
    )
    for text in (
        "1,200 in", "1,100 done", "90 waiting", "10 dropped", "2 rejected", "77", "412,345",
        "300,000 shown", "412 ms p50", "1,803 ms p95", "301 ms", "23.46 dB",
        "no trained checkpoint", "4,500,000, 0, 0", "3 chunks without a usable pose",
    ):  # fmt: skip
        assert text in html


def test_missing_figures_are_dashes() -> None:
    assert figures_html(FeedState(), NOTHING, None).count("&ndash;") == 3


def test_foreign_text_cannot_become_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    state = live(Figures(frames_in=1, state=evil, model=evil))
    assert "<img" not in state_html(state) + figures_html(state, NOTHING, evil)

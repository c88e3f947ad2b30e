"""What an evaluation found: the content of report.json."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamer.evaluation.job import MapRecord
from streamer.evaluation.methods import Slug
from streamer.scoring import Scores, ViewScore

FIRST_BATCHES = 12
"""Batches of a stream that are also summed up by themselves: the map is young and small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapResult:
    """One map against the held-out views; means over the views, names as in `ViewScore`.

    `views_of`: how many held-out views there are in all, where only those seen so far count.
    """

    record: MapRecord
    views_of: int
    psnr: float | None
    ssim: float | None
    psnr_gain: float | None
    ssim_gain: float | None
    psnr_poses: float | None
    psnr_gain_poses: float | None
    ssim_gain_poses: float | None
    depth_error: float | None
    depth_filled: float | None
    views: list[ViewScore]

    @staticmethod
    def of(record: MapRecord, scores: Scores, views_of: int) -> MapResult:
        """Scores and their means."""
        return MapResult(
            record=record,
            views_of=views_of,
            psnr=scores.mean("psnr"),
            ssim=scores.mean("ssim"),
            psnr_gain=scores.mean("psnr_gain"),
            ssim_gain=scores.mean("ssim_gain"),
            psnr_poses=scores.mean("psnr_poses"),
            psnr_gain_poses=scores.mean("psnr_gain_poses"),
            ssim_gain_poses=scores.mean("ssim_gain_poses"),
            depth_error=scores.mean("depth_error"),
            depth_filled=scores.mean("depth_filled"),
            views=scores.views,
        )

    @property
    def name(self) -> str:
        """How tables call it."""
        if self.record.batch is not None:
            return f"batch {self.record.batch}"
        return "map" if self.record.at is None else f"{self.record.at:g} s"


@dataclass(slots=True, kw_only=True)
class RunResult:
    """One way to start, on one capture.

    Attributes:
        depth_given: whether the engine was given sensor depth.
        maps: at the marks (or after the steps), by time.
        batches: of a stream, after every batch.
        failed: why there is no result.
    """

    method: str
    label: str
    about: str
    depth_given: bool
    model: str = ""
    frames_in: int = 0
    frames_unreadable: int = 0
    stream_seconds: float | None = None
    settled_after: float | None = None
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    maps: list[MapResult] = field(default_factory=list)
    batches: list[MapResult] = field(default_factory=list)
    failed: str | None = None

    @property
    def last(self) -> MapResult | None:
        """The map that pictures are shown of."""
        by_time = sorted([*self.maps, *self.batches], key=lambda result: result.record.written)
        return by_time[-1] if by_time else None

    def first_batches(self, name: str) -> float | None:
        """Mean of a figure over the first batches that have it."""
        values = [getattr(result, name) for result in self.batches[:FIRST_BATCHES]]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None


@dataclass(slots=True, kw_only=True)
class CaptureResult:
    """All runs on one capture."""

    capture: str
    frames_given: int
    views_held_out: int
    views_unreadable: int
    has_depth: bool
    runs: list[RunResult] = field(default_factory=list)
    left_out: dict[Slug, str] = field(default_factory=dict)
    """Methods that do not apply, and why."""

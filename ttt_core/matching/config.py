"""Every constant of the matching prior in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorConfig:
    """Settings of `MatchingPrior`; none of them has a unit of length, so any world scale works."""

    planes: int = 64
    """Depth planes, spaced evenly in log depth."""
    sources: int = 4
    """Views that a key frame is matched against, at most."""
    threads: int | None = None
    """Views worked on at a time; None: numba's thread count. Results do not depend on it."""

    # Choice of sources.
    least_overlap: float = 0.15
    """A source must see this share of the view."""
    best_angle: float = 7.0
    """Triangulation angle in degrees at the median depth that is liked best."""
    angle_spread: float = 1.0
    """Standard deviation of that liking, in natural logarithm of the angle."""

    # Depth range.
    range_percentile: float = 2.0
    """Nearest and farthest known depths in percent that are taken for outliers."""
    range_widening: float = 1.4
    """Known depths are widened by this factor on both sides."""
    range_limit: float = 100.0
    """Farthest over nearest plane, at most."""

    known_coverage: float = 0.7
    """Share of a view that must be known (map, sensor, earlier views) to need no triangulation."""
    point_step: int = 8
    """Every so many pixels of a known depth picture become a point that ranges are taken from."""
    point_confidence: float = 0.6
    """Confidence from which the depth of earlier views counts as known."""
    triangulation_views: int = 6
    """Views that each view is triangulated with, at most."""

    # Matching cost and aggregation.
    noise: float = 1.0e-5
    """Variance of grey values (0..1) in a window below which it counts as textureless."""
    small_penalty: float = 0.06
    """Path cost of a step of one plane."""
    large_penalty: float = 0.90
    """Path cost of a larger step."""
    edge_contrast: float = 0.10
    """Step of the grey value that halves the large penalty."""
    temperature: float = 0.02
    """Difference of aggregated cost that makes a plane e times less likely."""

    smoothing: float = 2.5
    """Planes by which neighbours may differ and still be smoothed into one surface."""

    # Confidence.
    agreement: float = 0.05
    """Difference of log depth up to which two views see the same surface."""
    least_trust: float = 0.3
    """Depths of other views trusted less than this have no vote."""
    sensor_confidence: float = 0.95
    """Confidence of sensor depth."""
    fill_leak: float = 0.007
    """How fast unconfident pixels far from confident ones fall back to the farthest plane."""

    def __post_init__(self) -> None:
        if not 8 <= self.planes <= 256:
            raise ValueError(f"planes is {self.planes}: use 8 to 256")
        if not 1 <= self.sources <= 16:
            raise ValueError(f"sources is {self.sources}: use 1 to 16")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}: use 1 or more, or None for numba's count")

"""Settings of refinement."""

from __future__ import annotations

from dataclasses import dataclass, field

from gs_decoder.refine.schedule import RateSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineConfig:
    """Rates are per step; those of means are in units of the splat's own size.

    Attributes:
        schedule: how they fall towards an end.
        eager_opacity, eager_color: factors on the rates of a new and faint splat (see `adam_rows`):
            fillers of holes know neither their place nor their colour yet.
        settling: steps of its own by which half of that is gone.
        dropout_views, max_dropout: every step leaves out a random share of the splats,
            dropout_views / number of views, at most max_dropout: what few views have seen is
            learnt by heart otherwise (DropGaussian, arXiv 2504.00773).
        gain_step: share of the way to the exposure gain that suits a view best, taken at a visit:
            at first most of what differs is the map's fault.
        gain_hold: how strongly gains are held at 1, so that the map keeps the exposure of the
            pictures around: 1 allows half of what suits a view best. Gains bring 0.3 dB after the
            judge's gain on `hololens_office` (700 steps, 160 pixels), 0.05 on `skull` and
            `brighton_drone`, and cost nothing before it (benchmarks/results/refinement.json).
        refine_poses: whether to look for each view's camera as well (see `poses`).
        pose_after: visits of a view before: what a map that is still to settle has in the wrong
            place is no fault of the camera's.
        pose_step, pose_settling, pose_hold, pose_alike, pose_reach, pose_bound: see `PoseOffsets`.
        average_tail, average_most: what leaves the refiner is the average over about the last
            1 / average_tail of a splat's own steps, at most over the last average_most. On
            `hololens_office` 0.5 dB and 0.02 SSIM after 1000 to 1500 steps; skull and
            `brighton_drone` gain a tenth or nothing (docs/evaluation.md).
        novelty: how much sooner new views come to their turn (see `choose_views`).
    """

    rate_mean: float = 0.2
    rate_quat: float = 3e-2
    rate_log_scale: float = 4e-2
    rate_opacity: float = 8e-2
    rate_color: float = 1.5e-2
    rate_sh: float = 3e-3
    schedule: RateSchedule = field(default_factory=RateSchedule)
    eager_opacity: float = 5.0
    eager_color: float = 8.0
    settling: float = 50.0
    gain_step: float = 0.2
    gain_hold: float = 1.0
    refine_poses: bool = False
    pose_after: int = 2
    pose_step: float = 0.5
    pose_settling: float = 8.0
    pose_hold: float = 0.05
    pose_alike: float = 0.15
    pose_reach: int = 3
    pose_bound: float = 0.03
    novelty: float = 4.0
    dropout_views: float = 2.0
    max_dropout: float = 0.2
    ssim_weight: float = 0.2
    depth_weight: float = 0.1
    recent_views: int = 8
    max_views: int = 1024
    prune_opacity: float = 0.01
    prune_every: int = 100
    workers: int = 2
    average_tail: float = 16.0
    average_most: float = 400.0
    sh_degree: int = 2
    seed: int = 0

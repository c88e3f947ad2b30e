"""Learning rate over a run: warm-up by steps, constant, linear decay by wall clock.

Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395, section 4): what the constant part leaves
can be trained on at any time, so that a run of any length gives a decayed checkpoint and a state
to continue from.
"""

from __future__ import annotations

from dataclasses import dataclass

from ttt_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """When the learning rate rises and falls."""

    warmup_steps: int = 100
    """Steps until the full rate, in equal parts."""
    decay_share: float = 0.2
    """Last part of the time over which the rate falls to zero, 0..1; 0 never decays."""
    horizon_s: float | None = None
    """Training seconds, counted over all resumed runs, at which the decay ends. None: at the end of
    each run; a longer run then continues from the state before the decay."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}: give 0 or more")
        if not 0 <= self.decay_share <= 1:
            raise ConfigError(f"decay_share is {self.decay_share}: give 0..1")
        if self.horizon_s is not None and not self.horizon_s > 0:
            raise ConfigError(f"horizon_s is {self.horizon_s}: give seconds > 0, or null")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of one run: factors of the learning rate at a step and a time."""

    warmup_steps: int
    decay_from: float  # training seconds over all runs
    decay_until: float

    @classmethod
    def of_run(cls, config: ScheduleConfig, started: float, seconds: float) -> Schedule:
        """For a run of `seconds` that begins after `started` seconds of training."""
        if config.horizon_s is None:
            end, length = started + seconds, config.decay_share * seconds
        else:
            end, length = config.horizon_s, config.decay_share * config.horizon_s
        return cls(config.warmup_steps, end - length, end)

    def decays(self, elapsed: float) -> bool:
        """Whether the rate falls at this time."""
        return self.decay_until > self.decay_from and elapsed >= self.decay_from

    def factor(self, step: int, elapsed: float) -> float:
        """0..1, for the step with this number (from 0) that begins at this time."""
        factor = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.decays(elapsed):
            left = (self.decay_until - elapsed) / (self.decay_until - self.decay_from)
            factor *= max(0.0, left)
        return factor

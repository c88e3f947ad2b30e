"""When more refinement is of no use: a measured end in the place of a number of steps.

Once steps bring nothing at full rates, rates fall over some more of them (`RateSchedule`), which is
what settles splats that went on trembling. Then it is at its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from gs_decoder.refine.views import RefineView

_LEAST_PASS = 50
"""Steps: below, what dropout and the order of views do to the mean is more than what is learnt."""


@dataclass(slots=True)
class Convergence:
    """Watches the mean PSNR of the views, each at its last visit, once for every pass over them.

    Attributes:
        hold: share of the steps to the end that were made when they bring nothing any more.
        least_gain: dB; less than this in `patience` passes is no progress any more.
        steps: since the last change of map or views.
        levels: means since then, dB.
        counted: steps of the pass under way.
        level_at: `steps` when the last `patience` passes had brought less than `least_gain` for the
            first time; None: they still bring something.
    """

    hold: float = 0.75
    least_gain: float = 0.1
    patience: int = 6
    steps: int = 0
    levels: list[float] = field(default_factory=list)
    counted: int = 0
    level_at: int | None = None

    def restart(self) -> None:
        """Splats or views came or moved: there is something to learn again."""
        self.levels.clear()
        self.steps = self.counted = 0
        self.level_at = None

    def step(self, views: Iterable[RefineView], together: int) -> None:
        """A step over `together` of the views was made."""
        self.steps += 1
        self.counted += 1
        known = [view.psnr for view in views if view.psnr is not None]
        if known and self.counted >= max(_LEAST_PASS, len(known) / together):
            self.counted = 0
            self.levels.append(float(np.mean(known)))
            if self.level_at is None and self._level():
                self.level_at = self.steps

    @property
    def share(self) -> float:
        """Of the steps to the end, those made; 0 while it is not in sight."""
        return 0.0 if self.level_at is None else self.hold * self.steps / self.level_at

    @property
    def reached(self) -> bool:
        """Whether this is the end."""
        return self.share >= 1.0

    def _level(self) -> bool:
        before, after = self.levels[: -self.patience], self.levels[-self.patience :]
        return bool(before) and max(after) < max(before) + self.least_gain

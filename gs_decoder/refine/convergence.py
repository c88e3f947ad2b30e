"""When more refinement is of no use: a measured end in the place of a number of steps."""

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
        least_gain: dB; less than this in `patience` passes is no progress any more.
        steps: since the last change of map or views.
        levels: means since then, dB.
        counted: steps of the pass under way.
    """

    least_gain: float = 0.1
    patience: int = 6
    steps: int = 0
    levels: list[float] = field(default_factory=list)
    counted: int = 0

    def restart(self) -> None:
        """Splats or views came or moved: there is something to learn again."""
        self.levels.clear()
        self.steps = self.counted = 0

    def step(self, views: Iterable[RefineView], together: int) -> None:
        """A step over `together` of the views was made."""
        self.steps += 1
        self.counted += 1
        known = [view.psnr for view in views if view.psnr is not None]
        if known and self.counted >= max(_LEAST_PASS, len(known) / together):
            self.counted = 0
            self.levels.append(float(np.mean(known)))

    @property
    def reached(self) -> bool:
        """Whether the last `patience` passes brought less than `least_gain`."""
        before, after = self.levels[: -self.patience], self.levels[-self.patience :]
        return bool(before) and max(after) < max(before) + self.least_gain

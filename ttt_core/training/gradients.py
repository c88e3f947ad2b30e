"""Clipping of gradients, and steps that are better not taken."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_core.errors import TrainingError

_WINDOW = 200
_LEAST = 20
_PATIENCE = 100


@dataclass(frozen=True, slots=True)
class GradientReport:
    """`norm` of the whole gradient before clipping, and whether the step should be skipped."""

    norm: float
    skip: bool


class GradientGuard:
    """Clips to `clip`; asks to skip where the norm is not finite or far above its running median.

    Skipped norms count for the median too, unless they are not finite: a lasting change of scale
    is met by a lasting change of the median.
    """

    def __init__(self, clip: float, skip_above: float) -> None:
        self._clip, self._skip_above = clip, skip_above
        self._norms: deque[float] = deque(maxlen=_WINDOW)
        self._in_a_row = 0

    @property
    def norms(self) -> list[float]:
        """The latest norms, oldest first: all that has to be kept for a resumed run."""
        return list(self._norms)

    def restore(self, norms: Sequence[float]) -> None:
        """Go on with the norms of an earlier run."""
        self._norms = deque(norms, maxlen=_WINDOW)

    def check(self, parameters: Iterable[Tensor]) -> GradientReport:
        """Clip the gradients in place and say whether to take the step.

        Raises:
            TrainingError: so many steps in a row were to be skipped that nothing is learned.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(list(parameters), self._clip))
        finite = math.isfinite(norm)
        skip = not finite
        if finite:
            if len(self._norms) >= _LEAST:
                skip = norm > self._skip_above * statistics.median(self._norms)
            self._norms.append(norm)
        self._in_a_row = self._in_a_row + 1 if skip else 0
        if self._in_a_row >= _PATIENCE:
            raise TrainingError(
                f"{_PATIENCE} steps in a row were skipped (last gradient norm {norm:.3g}): "
                "training diverged; resume from the last saved state with a lower learning rate"
            )
        return GradientReport(norm, skip)

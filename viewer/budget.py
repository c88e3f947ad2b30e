"""How much of every chunk is shown when the map holds more splats than the page may."""

from __future__ import annotations

from collections.abc import Mapping

_STEP = 0.9


class BudgetCut:
    """Cuts every chunk to the same share of its best splats.

    The share moves in steps of a tenth and does not come back by a single step: a map that grows
    by a few splats would otherwise change, and so re-send, every chunk at every update.
    """

    def __init__(self) -> None:
        self._steps = 0

    def counts(self, available: Mapping[int, int], budget: int) -> dict[int, int]:
        """Splats to show of each chunk; together at most `budget`.

        Args:
            available: splats of each chunk, which are ordered by importance.
            budget: splats that may be shown, 0 or more.
        """
        total = sum(available.values())
        if total <= budget:
            self._steps = 0
            return dict(available)
        if budget <= 0:
            return dict.fromkeys(available, 0)
        fitting = 0
        while total * _STEP**fitting > budget:
            fitting += 1
        if not fitting <= self._steps <= fitting + 1:
            self._steps = fitting
        share = _STEP**self._steps
        return {chunk: int(count * share) for chunk, count in available.items()}

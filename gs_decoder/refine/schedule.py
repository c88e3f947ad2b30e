"""How fast refinement learns: at full rates while much is wrong, at falling ones towards an end.

Averages over the last steps take most of the noise out of what is shown, whether an end is known
or not (see `adam`). Falling rates take out more, but spend steps on it: they need an end to fall
towards, be it a limit or that full rates bring nothing any more (`Convergence`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSchedule:
    """Factors on all rates by the share of the steps to an end that was made.

    Attributes:
        hold: share of the steps before rates begin to fall; from there they fall geometrically.
        rest: factor at the end.
    """

    hold: float = 0.75
    rest: float = 0.3

    def __post_init__(self) -> None:
        if not (0.0 < self.hold < 1.0 and 0.0 < self.rest <= 1.0):
            raise ValueError(f"rates fall: 0 < hold < 1 and 0 < rest <= 1, got {self}")

    def factor(self, share: float) -> float:
        """Args:
        share: of the steps to the end, those made; beyond 1 rates stay as they are there.
        """
        fallen = (min(share, 1.0) - self.hold) / (1.0 - self.hold)
        return 1.0 if fallen <= 0.0 else float(self.rest**fallen)

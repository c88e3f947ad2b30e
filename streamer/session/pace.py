"""How many key frames a batch may have, and how fine, where time is short.

Whoever feeds an engine says how many seconds a batch may work on key frames. What is not spent is
kept for later batches, what was spent too much is paid back: a slow machine gets a coarser map, and
nothing waits. What a key frame costs is measured as the work goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARE = 0.25
"""Of the time there is, what key frames may take; refinement has most of the rest."""

_COARSEST = 2.0
"""Beyond, fewer key frames tell more than coarser ones."""
_FINER = 8
"""Reductions are whole eighths, so that not every batch has a size of its own."""
_LEAST_SIDE = 32
"""Pixels; matching needs something to look at."""
_KEPT_BATCHES = 8
"""What so many batches may take is kept of what was not spent: a camera that stood still for an
hour is not answered by a minute's work."""
_MOST_TOGETHER = 4
_NEWEST = 0.3
"""Weight of the newest batch in what a pixel is taken to cost."""


@dataclass(slots=True)
class Pace:
    """One stream's account, in seconds.

    Attributes:
        per_pixel: what a pixel of a key frame costs, predicted and fused; None: not known yet,
            then nothing is refused.
        purse: what may be spent; below 0 what is owed. Infinite until a batch was given a limit.
    """

    per_pixel: float | None = None
    purse: float = math.inf

    def earn(self, seconds: float, height: int, width: int) -> None:
        """A batch of frames of this size comes that may take so long; inf: however long it takes.

        No more than that is still owed from a batch that stalled: the map has to go on.
        """
        if math.isinf(self.purse):
            self.purse = 0.0
        one = 0.0 if self.per_pixel is None else self._coarsest(height, width)
        most = max(_KEPT_BATCHES * seconds, one)
        self.purse = min(max(self.purse, -seconds) + seconds, most)

    def finish(self, frames: int, height: int, width: int) -> None:
        """No batch comes after this one of so many frames: none of them is to be passed over, or
        what they see last would be missing for ever. Frames are as coarse as they get."""
        if self.per_pixel is not None:
            self.purse = max(self.purse, 1.001 * frames * self._coarsest(height, width))

    def affords(self, height: int, width: int) -> int | None:
        """How many key frames of this size, as coarse as they get; None: any number."""
        if self.per_pixel is None or math.isinf(self.purse):
            return None
        return max(0, int(self.purse / self._coarsest(height, width)))

    def together(self, batch: int, seconds: float, height: int, width: int) -> int:
        """How many batches of frames that are there already make one: as many as it takes to bring
        a batch full of key frames, which cost less together."""
        if self.per_pixel is None or math.isinf(seconds):
            return 1
        full = batch * self._coarsest(height, width)
        return min(max(1, math.ceil(full / seconds)), _MOST_TOGETHER)

    def reduction(self, count: int, height: int, width: int) -> float:
        """By what factor the sides of so many key frames shrink; 1: none."""
        if self.per_pixel is None or math.isinf(self.purse):
            return 1.0
        limit = _limit(height, width)
        full = self.per_pixel * count * height * width
        if self.purse * limit**2 <= full:
            return limit
        factor = math.ceil(_FINER * math.sqrt(full / self.purse)) / _FINER
        return min(max(1.0, factor), limit)

    def spent(self, seconds: float, pixels: int) -> None:
        """Key frames of so many pixels together took so long."""
        self.purse -= seconds
        cost = seconds / pixels
        known = self.per_pixel
        self.per_pixel = cost if known is None else known + _NEWEST * (cost - known)

    def _coarsest(self, height: int, width: int) -> float:
        """Seconds for one key frame."""
        assert self.per_pixel is not None, "asked for where it is known"
        return self.per_pixel * height * width / _limit(height, width) ** 2


class Rush:
    """What the key frames of a live stream may take, from the moment that frames were lost.

    Until then the machine keeps up, and nothing is limited.
    """

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._lost = False

    def batch(self, now: float, frames: int, dropped: int) -> float:
        """Seconds for the key frames of a batch that begins; inf where nothing was ever lost.

        Args:
            now: seconds of a clock that does not go back.
            dropped: frames of the stream that were lost so far.
        """
        last, self._last = self._last, (now, dropped)
        if last is None:
            return math.inf
        lost = max(0, dropped - last[1])
        self._lost |= lost > 0
        # So many came since the last batch began, of which these are taken.
        return SHARE * (now - last[0]) * frames / (frames + lost) if self._lost else math.inf


def _limit(height: int, width: int) -> float:
    return max(1.0, min(_COARSEST, min(height, width) / _LEAST_SIDE))


def in_turn(place: int, taken: int, most: int | None, frames: int) -> bool:
    """Whether frame `place` of a batch may be a key frame, after `taken` before it: `most` of its
    `frames` may, and not the first ones alone."""
    return most is None or taken < math.ceil((place + 1) * min(most, frames) / frames)

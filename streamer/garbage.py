"""Python's search for objects that only keep each other alive, and free memory given back to the
system, at moments when nobody waits.

A whole search looks at every container in a process, and nothing else runs meanwhile: libraries
alone make that a tenth of a second and more. What was looked at once and goes on living is passed
over afterwards (`gc.freeze`), so that the searches which Python starts by itself, in the middle of
whatever is done, find little to look at. Everything else is freed at once, frozen or not.
"""

from __future__ import annotations

import gc

from streamer.allocator import give_back

_YOUNG = 20_000
"""Containers that come before a search of the new ones alone: one header may bring thousands."""
_EVERY_S = 10.0
_WHOLE_EVERY_S = 600.0
"""Among what is passed over garbage may come about too."""
_WHOLE_AT_LAST_S = 3600.0
"""The same where a process is never idle."""


def begin() -> None:
    """What a process starts with is passed over from now on, unsearched: that would take up to a
    sixth of a second of its start. New objects are not looked at all the time."""
    _, *older = gc.get_threshold()
    gc.set_threshold(_YOUNG, *older)
    gc.freeze()


class QuietTimes:
    """Searches, and gives memory back, when nobody waits for a process, but not all the time.

    Times are in seconds of any one clock that does not go back.
    """

    def __init__(self, now: float) -> None:
        begin()
        self._searched, self._whole = now, now

    def use(self, now: float, *, idle: bool = True) -> None:
        """Nothing waits at this moment.

        Args:
            idle: nor is anything expected soon; else what is passed over is looked at only when
                that can be put off no longer.
        """
        if now - self._searched < _EVERY_S:
            return
        if now - self._whole >= (_WHOLE_EVERY_S if idle else _WHOLE_AT_LAST_S):
            self._whole = now
            gc.unfreeze()
        gc.collect()
        gc.freeze()
        give_back()
        self._searched = now

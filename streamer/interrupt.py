"""Ctrl-C as a wish to come to an end, where being broken off would leave half of something."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class InterruptWish:
    """Within the block the first SIGINT is only noted; the next ones do what they did before.

    For the main thread. Where SIGINT was ignored it stays so.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Callable[[int, FrameType | None], Any] | int | None = None

    def __enter__(self) -> InterruptWish:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.signal(signal.SIGINT, self._before)

"""The threads that share a step of refinement, and whoever waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

Wait = Callable[[Future[Any]], object]
"""Called with what a thread does; returns when that is done, or earlier. Until then the caller's
thread is free for something else, as long as that leaves the refiner alone."""


def only_wait(_: Future[Any]) -> None:
    """A `Wait` that does nothing else."""


class Workers:
    """So many threads."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="refine")

    def together(
        self, wait: Wait, function: Callable[..., Result], *arguments: Iterable[Any]
    ) -> list[Result]:
        """As `map` has it, but every call in a thread, and `wait` called for each of them."""
        calls = [self._pool.submit(function, *each) for each in zip(*arguments)]
        for call in calls:
            wait(call)
        return [call.result() for call in calls]

    def close(self) -> None:
        """Wait for what runs, and stop."""
        self._pool.shutdown()

"""A thread for what takes long, so that whoever waits for it can attend to something else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

Attend = Callable[[Future[Any] | None], None]
"""Called in the middle of a batch, with something to wait for or without: it may announce poses,
and nothing else. It returns when what it was given is done, or earlier."""


def attend_to_nothing(_: Future[Any] | None) -> None:
    """An `Attend` that does not look up."""


class Aside:
    """The thread; it starts when it is needed first."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="aside")

    def call(
        self, attend: Attend, function: Callable[P, Result], *args: P.args, **options: P.kwargs
    ) -> Result:
        """What the function returns, or raises; it runs beside `attend`."""
        if attend is attend_to_nothing:
            return function(*args, **options)
        future = self._pool.submit(function, *args, **options)
        attend(future)
        return future.result()

    def close(self) -> None:
        """Wait for what runs, and stop."""
        self._pool.shutdown()

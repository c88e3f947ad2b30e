"""Threads that share the work of one kernel."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = Lock()


def _workers(count: int) -> ThreadPoolExecutor:
    """Threads shared by all rasterisers of the process, at least `count` of them."""
    global _pool, _pool_size
    with _pool_lock:
        if _pool is None or _pool_size < count:
            # A replaced pool ends by itself once its last job is done.
            _pool = ThreadPoolExecutor(count, thread_name_prefix="rasterise")
            _pool_size = count
        return _pool


def deal(function: Callable[..., Any], *arguments: Any, counter_at: int, threads: int) -> None:
    """Run a kernel that deals its work out by a shared counter, on `threads` threads.

    The calling thread is one of them. The counter becomes argument number `counter_at`.
    """
    given = (*arguments[:counter_at], np.zeros(1, np.int64), *arguments[counter_at:])
    if threads == 1:
        function(*given)
        return
    pool = _workers(threads - 1)
    others: list[Future[Any]] = [pool.submit(function, *given) for _ in range(threads - 1)]
    try:
        function(*given)
    finally:
        for other in others:
            # One that has not begun would find the counter at its end.
            if not other.cancel():
                other.result()

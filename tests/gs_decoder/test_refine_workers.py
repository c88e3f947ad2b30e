"""Threads that share a step, and whoever does something else meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from gs_decoder.refine.workers import Workers, only_wait


def test_results_come_in_order_and_each_is_waited_for() -> None:
    workers, second_done, waited = Workers(2), threading.Event(), []

    def work(number: int, factor: int) -> int:
        if number == 0:
            assert second_done.wait(60)
        else:
            second_done.set()
        return number * factor

    def wait(call: Future[Any]) -> None:
        waited.append(call)

    assert workers.together(wait, work, range(2), [10, 100]) == [0, 100]
    assert [call.result() for call in waited] == [0, 100]
    workers.close()


def test_what_waits_is_called_while_the_threads_work() -> None:
    workers, may = Workers(1), threading.Event()

    def wait(call: Future[Any]) -> None:
        assert not call.done()
        may.set()

    assert workers.together(wait, may.wait, [60]) == [True]
    workers.close()


def test_a_failure_is_the_callers() -> None:
    workers = Workers(2)
    with pytest.raises(ZeroDivisionError):
        workers.together(only_wait, lambda number: 1 // number, [1, 0])
    assert workers.together(only_wait, abs, [-1]) == [1]
    workers.close()

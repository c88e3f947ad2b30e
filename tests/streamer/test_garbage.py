"""When Python looks for objects that only keep each other alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from streamer.garbage import QuietTimes


class Ring:
    """Keeps itself alive."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def own_searches_alone() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.disable()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()
    gc.enable()


def alive(ring: weakref.ref[Ring]) -> bool:
    return ring() is not None


def test_quiet_times_free_what_came_since_and_not_all_the_time() -> None:
    quiet = QuietTimes(0.0)
    ring = weakref.ref(Ring())
    quiet.use(1.0)
    assert alive(ring)
    quiet.use(10.0)
    assert not alive(ring)
    ring = weakref.ref(Ring())
    quiet.use(19.0)
    assert alive(ring)
    quiet.use(20.0)
    assert not alive(ring)


def test_what_goes_on_living_is_looked_at_again_only_now_and_then() -> None:
    kept = Ring()
    ring = weakref.ref(kept)
    quiet = QuietTimes(0.0)
    passed_over = gc.get_freeze_count()
    assert passed_over > 0
    del kept
    gc.collect()
    quiet.use(590.0)
    assert alive(ring)
    quiet.use(600.0)
    assert not alive(ring)
    assert gc.get_freeze_count() > 0


def test_a_process_that_is_never_idle_looks_at_all_of_it_in_the_end() -> None:
    kept = Ring()
    ring = weakref.ref(kept)
    quiet = QuietTimes(0.0)
    young = weakref.ref(Ring())
    quiet.use(10.0, idle=False)
    assert not alive(young)
    del kept
    quiet.use(3590.0, idle=False)
    assert alive(ring)
    quiet.use(3600.0, idle=False)
    assert not alive(ring)

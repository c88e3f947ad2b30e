"""The bounded choice of earlier key frames."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_core.kept_views import keep_views
from ttt_core.matching import PosedImage

_GRAY = np.zeros((2, 2), np.float32)
_K = np.array([[2.0, 0, 1], [0, 2.0, 1], [0, 0, 1]])


def view(key: int, x: float, yaw: float = 0.0) -> PosedImage:
    c2w = np.eye(4)
    cos, sin = np.cos(yaw), np.sin(yaw)
    c2w[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
    c2w[0, 3] = x
    return PosedImage(key, _GRAY, _K, c2w)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    places=st.lists(st.floats(-5, 5), min_size=40, max_size=40),
    limit=st.integers(1, 9),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_bounded_ordered_and_newest_first(
    sizes: list[int], places: list[float], limit: int, data: st.DataObject
) -> None:
    recent = data.draw(st.integers(1, limit))
    kept: tuple[PosedImage, ...] = ()
    arrived: list[int] = []
    for size in sizes:
        keys = range(len(arrived), len(arrived) + size)
        arrived.extend(keys)
        kept = keep_views(
            kept, [view(k, places[k]) for k in keys], limit=limit, recent=recent, unit=1.0
        )
        names = [v.key for v in kept]
        assert len(names) == min(len(arrived), limit)
        assert names == sorted(set(names))
        assert names[-recent:] == arrived[-recent:][-len(names) :]


def test_crowded_views_go_before_lonely_ones() -> None:
    crowd = [view(0, 0.0), view(1, 8.0), view(2, 0.1), view(3, 0.2), view(4, 0.0, yaw=1.5)]
    kept = keep_views(crowd, [view(5, 20.0), view(6, 30.0)], limit=5, recent=2, unit=1.0)
    names = {v.key for v in kept}
    assert {1, 4, 5, 6} <= names and len(names & {0, 2, 3}) == 1


def test_unit_weighs_distance_against_turning() -> None:
    walk = [view(0, 0.0), view(1, 1.0), view(2, 5.0, yaw=0.5), view(3, 5.0, yaw=0.8)]
    new = [view(4, 50.0)]
    near_sighted = keep_views(walk, new, limit=4, recent=1, unit=0.1)
    assert {v.key for v in near_sighted} >= {0, 1}  # a metre is ten units here: turning is nothing
    far_sighted = keep_views(walk, new, limit=4, recent=1, unit=100.0)
    assert {v.key for v in far_sighted} >= {2, 3}


def test_a_view_sent_again_replaces_itself() -> None:
    kept = keep_views([view(0, 0.0), view(1, 1.0)], [view(0, 2.0)], limit=4, recent=1, unit=1.0)
    assert [(v.key, v.c2w[0, 3]) for v in kept] == [(1, 1.0), (0, 2.0)]

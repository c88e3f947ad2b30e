"""Key frames in arrays hold what a dict of them would."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.keyframe_columns import KeyframeColumns, KeyframeRow

_SEQS = st.integers(0, 40)
_STEPS = st.one_of(
    st.tuples(st.just("put"), _SEQS, st.none() | st.integers(0, 2**32 - 1), st.sampled_from("ab")),
    st.tuples(st.just("remove"), _SEQS, st.none(), st.just("")),
)


def row(seq: int, chunk: int | None, camera: str, x: float) -> KeyframeRow:
    c2w = np.eye(4)
    c2w[0, 3] = x
    return KeyframeRow(seq, 2**62 + seq, camera, chunk, c2w)


def same(one: KeyframeRow, other: KeyframeRow) -> bool:
    names = ("seq", "stamp_ns", "camera", "chunk")
    plain = all(getattr(one, name) == getattr(other, name) for name in names)
    return plain and np.array_equal(one.c2w, other.c2w)


@given(st.lists(_STEPS, max_size=60))
def test_any_order_of_changes(steps: list[tuple[str, int, int | None, str]]) -> None:
    columns, expected = KeyframeColumns(), {}
    for number, (what, seq, chunk, camera) in enumerate(steps):
        if what == "put":
            expected[seq] = row(seq, chunk, camera, number / 7)
            columns.put(expected[seq])
        else:
            expected.pop(seq, None)
            columns.remove(columns.places([seq]))
        before = columns.copy()
        assert columns.seqs.tolist() == sorted(expected) and len(columns) == len(expected)
        for place, known in enumerate(sorted(expected)):
            assert known in columns and columns.find(known) == place
            assert same(columns.row(place), expected[known])
            assert same(before.row(place), expected[known])
        assert columns.cameras() == [expected[known].camera for known in sorted(expected)]
        assert seq in columns or columns.find(seq) is None


@settings(max_examples=10, deadline=None)
@given(st.integers(200, 1_500))
def test_growing(count: int) -> None:
    columns = KeyframeColumns()
    for seq in range(count):
        columns.put(row(3 * seq, seq if seq % 2 else None, "front", seq / 3))
    assert columns.chunks.tolist() == [seq if seq % 2 else -1 for seq in range(count)]
    assert columns.poses[:, 0, 3].tolist() == [seq / 3 for seq in range(count)]
    assert columns.places(range(0, 3 * count, 2)).tolist() == list(range(0, count, 2))

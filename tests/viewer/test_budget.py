"""The cut to a budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from viewer.budget import BudgetCut

COUNTS = st.dictionaries(st.integers(0, 50), st.integers(0, 5_000), max_size=30)


@given(st.lists(st.tuples(COUNTS, st.integers(0, 40_000)), min_size=1, max_size=6))
def test_never_above_the_budget_and_never_far_below(
    steps: list[tuple[dict[int, int], int]],
) -> None:
    cut = BudgetCut()
    for available, budget in steps:
        shown = cut.counts(available, budget)
        total = sum(available.values())
        assert shown.keys() == available.keys()
        assert all(0 <= shown[chunk] <= available[chunk] for chunk in available)
        assert sum(shown.values()) <= budget
        if total <= budget:
            assert shown == available
        else:
            # Two steps of a tenth at most, and less than one splat a chunk.
            assert sum(shown.values()) >= 0.8 * budget - len(available)


def test_a_map_that_grows_a_little_keeps_its_shares() -> None:
    cut = BudgetCut()
    before = cut.counts({1: 1000, 2: 1000}, 1500)
    after = cut.counts({1: 1000, 2: 1000, 3: 40}, 1500)
    assert {chunk: after[chunk] for chunk in before} == before

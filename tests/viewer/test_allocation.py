"""Rows of nodes: nobody's rows overlap, nothing is lost, and there is room for the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewer.allocation import BLOCK_ROWS, Extent, NodeLayout, RowAllocator

LAYOUT = NodeLayout(nodes=6, rows=128)


def check(held: dict[int, tuple[Extent, ...]], layout: NodeLayout) -> None:
    """No row is given twice, and an owned node is one chunk's alone."""
    taken = np.zeros((layout.nodes, layout.rows), np.int64)
    owners: dict[int, set[int]] = {}
    sharers: dict[int, set[int]] = {}
    for chunk, extents in held.items():
        first = 0
        for extent in extents:
            assert extent.first == first and extent.count > 0
            assert extent.row + extent.count <= layout.rows
            first += extent.count
            taken[extent.node, extent.row : extent.row + extent.count] += 1
            (owners if extent.owned else sharers).setdefault(extent.node, set()).add(chunk)
    assert taken.max(initial=0) <= 1
    assert all(len(chunks) == 1 for chunks in owners.values())
    assert not owners.keys() & sharers.keys()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 400)), max_size=40))
def test_any_sequence_of_sizes_keeps_rows_apart(operations: list[tuple[int, int]]) -> None:
    allocator = RowAllocator(LAYOUT)
    held: dict[int, tuple[Extent, ...]] = {}
    for chunk, count in operations:
        if count == 0:
            allocator.release(chunk)
            held.pop(chunk, None)
        else:
            held[chunk] = allocator.place(chunk, count)
            assert sum(extent.count for extent in held[chunk]) <= count
        check(held, LAYOUT)
    allocator.clear()
    # Everything came back: the whole capacity can be given to one chunk.
    (extents,) = [allocator.place(99, LAYOUT.capacity)]
    assert sum(extent.count for extent in extents) == LAYOUT.capacity


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([20_000, 60_000, 300_000]))
def test_the_layout_of_a_budget_holds_it(data: st.DataObject, budget: int) -> None:
    layout = NodeLayout.for_budget(budget)
    allocator = RowAllocator(layout)
    largest = data.draw(st.sampled_from([200, 1_000, 5_000, 20_000]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    left, held = budget, {}
    while left > 0:
        count = min(left, int(random.integers(100, largest + 1)))
        held[len(held)] = allocator.place(len(held), count)
        assert sum(extent.count for extent in held[len(held) - 1]) == count
        left -= count
    check(held, layout)


def test_a_chunk_that_grows_a_little_stays_where_it_is() -> None:
    allocator = RowAllocator(LAYOUT)
    before = allocator.place(1, 200)
    after = allocator.place(1, 205)
    assert [(e.node, e.row, e.owned) for e in after] == [(e.node, e.row, e.owned) for e in before]


def test_a_count_that_wanders_about_the_threshold_keeps_its_node() -> None:
    allocator = RowAllocator(LAYOUT)
    counts = (116, 110, 120, 100, 116)
    nodes = {tuple(e.node for e in allocator.place(1, count)) for count in counts}
    assert len(nodes) == 1


def test_a_node_that_was_emptied_rests_longest() -> None:
    allocator = RowAllocator(LAYOUT)
    (first,) = allocator.place(1, LAYOUT.rows)
    allocator.release(1)
    others = [allocator.place(chunk, LAYOUT.rows)[0].node for chunk in range(2, 7)]
    assert first.node not in others


def test_small_chunks_share_nodes() -> None:
    allocator = RowAllocator(LAYOUT)
    extents = [allocator.place(chunk, BLOCK_ROWS)[0] for chunk in range(4)]
    assert len({extent.node for extent in extents}) == 1
    assert not any(extent.owned for extent in extents)


def test_more_than_fits_is_cut() -> None:
    allocator = RowAllocator(LAYOUT)
    extents = allocator.place(1, 10 * LAYOUT.capacity)
    assert sum(extent.count for extent in extents) == LAYOUT.capacity
    assert allocator.place(2, 100) == ()


@pytest.mark.parametrize(("nodes", "rows"), [(0, 128), (3, 16), (3, 100)])
def test_an_impossible_layout_is_refused(nodes: int, rows: int) -> None:
    with pytest.raises(ValueError, match=f"{nodes} nodes with {rows} rows"):
        NodeLayout(nodes=nodes, rows=rows)

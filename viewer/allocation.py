"""Which rows of which node hold which chunk: an allocator over nodes of fixed capacity.

A node is either empty, owned by one chunk (its pose is then the chunk's, and moving the chunk
costs a few bytes), or shared by many in small blocks (their splats are then in map axes). Whole
nodes go to large chunks, what is left over and small chunks go to shared nodes, so that neither
few large nor very many small chunks waste the capacity.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

BLOCK_ROWS = 32
# A remainder gets a node of its own from this fill on, and keeps it down to the other: a chunk
# whose count wanders about one threshold must not change nodes at every update.
_TAKE_NODE_AT = 0.9
_KEEP_NODE_DOWN_TO = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayout:
    """How many nodes there are, and how many rows each has; fixed for a viewer's life.

    Raises:
        ValueError: a count that is not positive, or rows that do not divide into blocks.
    """

    nodes: int
    rows: int

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.rows < BLOCK_ROWS or self.rows % BLOCK_ROWS:
            raise ValueError(
                f"layout of {self.nodes} nodes with {self.rows} rows: give at least one node and "
                f"a multiple of {BLOCK_ROWS} rows"
            )

    @staticmethod
    def for_budget(max_splats: int) -> NodeLayout:
        """Room for `max_splats` however they are spread over chunks of some hundred splats.

        A node is the smallest thing that can be sent, and every node costs the browser time in
        each picture: about 200 of them at any budget.
        """
        rows = 256
        while rows * 200 < max_splats:
            rows *= 2
        # Nodes are taken when nine tenths full, and a block is half empty on the average.
        return NodeLayout(nodes=-(-max_splats * 5 // (4 * rows)) + 4, rows=rows)

    @property
    def capacity(self) -> int:
        """Rows of all nodes together."""
        return self.nodes * self.rows


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of a chunk's splats in a run of a node's rows."""

    node: int
    row: int
    first: int
    """Index of the run's first splat in the chunk."""
    count: int
    owned: bool
    """The whole node is this chunk's."""


@dataclass(slots=True)
class _Holding:
    owned: list[int]
    blocks: list[tuple[int, int]]
    """(node, block)."""


class RowAllocator:
    """Gives chunks rows. Extents of a chunk whose count hardly changes stay where they are."""

    def __init__(self, layout: NodeLayout) -> None:
        self.layout = layout
        self._blocks_per_node = layout.rows // BLOCK_ROWS
        # First in, first out: a node just emptied rests as long as possible, so that its new
        # pose and its new splats do not have to reach the browser in one picture.
        self._empty: deque[int] = deque(range(layout.nodes))
        self._free_blocks: dict[int, set[int]] = {}
        self._held: dict[int, _Holding] = {}

    def place(self, chunk: int, count: int) -> tuple[Extent, ...]:
        """Rows for the first `count` splats of a chunk, or for as many as there is room; those in
        owned nodes come first."""
        holding = self._held.setdefault(chunk, _Holding([], []))
        rows = self.layout.rows
        whole, rest = divmod(count, rows)
        threshold = _KEEP_NODE_DOWN_TO if len(holding.owned) > whole else _TAKE_NODE_AT
        if rest >= threshold * rows:
            whole, rest = whole + 1, 0
        self._resize_owned(holding, whole)
        # Rows that no empty node was left for go to shared nodes.
        missing = max(0, count - len(holding.owned) * rows)
        self._resize_blocks(holding, -(-missing // BLOCK_ROWS))
        if not holding.owned and not holding.blocks:
            del self._held[chunk]
        return self._extents(holding, count)

    def release(self, chunk: int) -> None:
        """Give a chunk's rows back; unknown chunks hold none."""
        holding = self._held.pop(chunk, None)
        if holding is not None:
            self._resize_owned(holding, 0)
            self._resize_blocks(holding, 0)

    def clear(self) -> None:
        """Give back everything."""
        for chunk in list(self._held):
            self.release(chunk)

    def _resize_owned(self, holding: _Holding, wanted: int) -> None:
        while len(holding.owned) > wanted:
            self._empty.append(holding.owned.pop())
        while len(holding.owned) < wanted and self._empty:
            holding.owned.append(self._empty.popleft())

    def _resize_blocks(self, holding: _Holding, wanted: int) -> None:
        while len(holding.blocks) > wanted:
            node, block = holding.blocks.pop()
            free = self._free_blocks[node]
            free.add(block)
            if len(free) == self._blocks_per_node:
                del self._free_blocks[node]
                self._empty.append(node)
        while len(holding.blocks) < wanted:
            node_or_none = self._node_with_blocks(holding, wanted - len(holding.blocks))
            if node_or_none is None:
                return
            free = self._free_blocks[node_or_none]
            for block in sorted(free)[: wanted - len(holding.blocks)]:
                free.remove(block)
                holding.blocks.append((node_or_none, block))

    def _node_with_blocks(self, holding: _Holding, wanted: int) -> int | None:
        """A shared node to take blocks from: one the chunk is in already, else the tightest fit."""
        mine = {node for node, _ in holding.blocks}
        usable = [node for node, free in self._free_blocks.items() if free]
        for node in usable:
            if node in mine:
                return node
        fitting = [node for node in usable if len(self._free_blocks[node]) >= wanted]
        if fitting:
            return min(fitting, key=lambda node: len(self._free_blocks[node]))
        if self._empty:
            node = self._empty.popleft()
            self._free_blocks[node] = set(range(self._blocks_per_node))
            return node
        return max(usable, key=lambda node: len(self._free_blocks[node]), default=None)

    def _extents(self, holding: _Holding, count: int) -> tuple[Extent, ...]:
        extents: list[Extent] = []
        first = 0
        for node in holding.owned:
            taken = min(self.layout.rows, count - first)
            extents.append(Extent(node, 0, first, taken, owned=True))
            first += taken
        for node, block in holding.blocks:
            taken = min(BLOCK_ROWS, count - first)
            if taken <= 0:
                break
            last = extents[-1] if extents else None
            row = block * BLOCK_ROWS
            if (
                last is not None
                and not last.owned
                and last.node == node
                and (last.row + last.count == row)
            ):
                extents[-1] = Extent(node, last.row, last.first, last.count + taken, owned=False)
            else:
                extents.append(Extent(node, row, first, taken, owned=False))
            first += taken
        return tuple(extents)

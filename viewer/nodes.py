"""The splats of the page: a fixed set of fixed-size viser nodes, rewritten in place.

The browser merges and sorts the splats of all nodes together, and shows none at all between a
change of their number and the next sort. So every node is made once, padded with splats of zero
opacity, and only ever rewritten at its own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import viser
import viser.transforms

from gs_decoder import Chunk, Similarity
from viewer.allocation import Extent, NodeLayout, RowAllocator
from viewer.budget import BudgetCut
from viewer.geometry import PoseCache
from viewer.packing import PackedSplats, pack_splats, place_order, typical_size

ROOT = "/map"
_BYTES_PER_ROW = 32
_IDENTITY = Similarity(scale=1.0, rotation=np.eye(3), translation=np.zeros(3))


@dataclass(frozen=True, slots=True)
class Shown:
    """What one call of `SplatNodes.show` left on the page."""

    splats: int
    """Splats on the page now."""
    available: int
    """Splats of the map."""
    bytes_sent: int
    """What a browser has to receive for this call."""
    skipped: int
    """Chunks left out because their pose is not a similarity."""


@dataclass(frozen=True, slots=True)
class _Placed:
    content: int
    revision: int
    wanted: int
    unit: float
    """Length in the chunk's frame that its rows in owned nodes are multiples of."""
    extents: tuple[Extent, ...]

    @property
    def count(self) -> int:
        return sum(extent.count for extent in self.extents)


class _Node:
    """One viser node and the rows it holds. Rows are written here and sent by `flush`."""

    def __init__(self, server: viser.ViserServer, name: str, rows: int) -> None:
        self.centers = np.zeros((rows, 3), np.float32)
        self.covariances = np.zeros((rows, 3, 3), np.float32)
        self.rgbs = np.zeros((rows, 3), np.uint8)
        self.opacities = np.zeros((rows, 1), np.uint8)
        self._dirty = False
        self._pose: tuple[bytes, float] | None = None
        self.handle = server.scene.add_gaussian_splats(
            name, self.centers, self.covariances, self.rgbs, self.opacities
        )

    def write(self, extent: Extent, packed: PackedSplats, first: int) -> None:
        """Write an extent's rows, which begin at the row `first` of `packed`."""
        rows = slice(extent.row, extent.row + extent.count)
        some = slice(first, first + extent.count)
        self.centers[rows] = packed.centers[some]
        self.covariances[rows] = packed.covariances[some]
        self.rgbs[rows] = packed.rgbs[some]
        self.opacities[rows] = packed.opacities[some]
        self._dirty = True

    def blank(self, extent: Extent) -> None:
        """Pad an extent's rows. Padding lies at the node's own origin, which is inside the map:
        it counts when the browser spreads its sort keys over the range of depths."""
        rows = slice(extent.row, extent.row + extent.count)
        for array in (self.centers, self.covariances, self.rgbs, self.opacities):
            array[rows] = 0
        self._dirty = True

    def place(self, pose: Similarity, unit: float) -> None:
        """Where the node's frame lies on the page, and how long its unit is there."""
        key = (pose.matrix().tobytes(), unit)
        if key == self._pose:
            return
        self._pose = key
        self.handle.position = pose.translation
        self.handle.wxyz = viser.transforms.SO3.from_matrix(pose.rotation).wxyz
        self.handle.scale = unit * pose.scale

    def flush(self) -> int:
        """Send the rows where they changed; returns the bytes."""
        if not self._dirty:
            return 0
        self._dirty = False
        self.handle.set_gaussians(self.centers, self.covariances, self.rgbs, self.opacities)
        return len(self.centers) * _BYTES_PER_ROW


class SplatNodes:
    """Keeps the nodes of a page at the state of a map. One thread at a time.

    Args:
        server: the page.
        layout: how many nodes of which size; all of them are made here, and none later.
    """

    def __init__(self, server: viser.ViserServer, layout: NodeLayout) -> None:
        self.layout = layout
        self._server = server
        self._nodes = [
            _Node(server, f"{ROOT}/splats_{i:03d}", layout.rows) for i in range(layout.nodes)
        ]
        self._allocator = RowAllocator(layout)
        self._cut = BudgetCut()
        self._poses = PoseCache()
        self._placed: dict[int, _Placed] = {}
        self._unit: float | None = None

    def show(self, chunks: Mapping[int, Chunk], budget: int, origin: np.ndarray) -> Shown:
        """Bring the page to `chunks`, each cut to its best so that `budget` splats remain.

        Args:
            origin: (3,) float64, the world point at the page's origin. It may change only while
                nothing is shown.
        """
        split = self._poses.split({i: chunk.T_world_chunk for i, chunk in chunks.items()})
        poses = {
            i: replace(pose, translation=pose.translation - origin) for i, pose in split.items()
        }
        counts = self._cut.counts({i: chunks[i].count for i in poses}, budget)
        with self._server.atomic():
            self._release(identity for identity in list(self._placed) if identity not in poses)
            if self._unit is None:
                self._unit = _choose_unit(chunks, poses)
            for identity, pose in poses.items():
                self._place(chunks[identity], pose, counts[identity])
            sent = sum(node.flush() for node in self._nodes)
        return Shown(
            splats=sum(placed.count for placed in self._placed.values()),
            available=sum(chunk.count for chunk in chunks.values()),
            bytes_sent=sent,
            skipped=len(chunks) - len(poses),
        )

    def counts(self) -> dict[int, int]:
        """Splats on the page, by chunk."""
        return {identity: placed.count for identity, placed in self._placed.items()}

    def clear(self) -> None:
        """Blank every node and forget the map's size."""
        with self._server.atomic():
            self._release(list(self._placed))
            for node in self._nodes:
                node.flush()
        self._unit = None

    def _release(self, identities: Iterable[int]) -> None:
        for identity in identities:
            for extent in self._placed.pop(identity).extents:
                self._nodes[extent.node].blank(extent)
            self._allocator.release(identity)

    def _place(self, chunk: Chunk, pose: Similarity, wanted: int) -> None:
        before = self._placed.get(chunk.id)
        complete = before is not None and before.wanted == wanted == before.count
        if before is not None and complete and before.content == chunk.content:
            if before.revision != chunk.revision:
                self._move(chunk, pose, before)
            return
        extents = self._allocator.place(chunk.id, wanted)
        if before is not None:
            for extent in before.extents:
                self._nodes[extent.node].blank(extent)
        unit = self._map_unit / pose.scale
        placed = _Placed(chunk.content, chunk.revision, wanted, unit, extents)
        self._write(chunk, pose, placed)
        self._placed[chunk.id] = placed

    def _move(self, chunk: Chunk, pose: Similarity, before: _Placed) -> None:
        placed = replace(before, revision=chunk.revision)
        for extent in before.extents:
            if extent.owned:
                self._nodes[extent.node].place(pose, before.unit)
        if not all(extent.owned for extent in before.extents):
            self._write(chunk, pose, placed, owned=False)
        self._placed[chunk.id] = placed

    def _write(
        self, chunk: Chunk, pose: Similarity, placed: _Placed, *, owned: bool = True
    ) -> None:
        """Write a chunk's rows; with `owned=False` only those that are in page axes."""
        # The page knows no view dependence: it shows a chunk in its key frame's colours.
        splats = chunk.splats.select(slice(0, placed.count)).seen_from(np.zeros(3))
        splats = splats.select(place_order(splats))
        mine = [extent for extent in placed.extents if extent.owned]
        shared = placed.extents[len(mine) :]
        begin = sum(extent.count for extent in mine)
        # Packed at once: a small chunk's blocks are many, and hold some 30 splats each.
        if mine and owned:
            packed = pack_splats(splats.select(slice(0, begin)), placed.unit)
            for extent in mine:
                self._nodes[extent.node].place(pose, placed.unit)
                self._nodes[extent.node].write(extent, packed, extent.first)
        if shared:
            packed = pack_splats(splats.select(slice(begin, None)), self._map_unit, pose)
            for extent in shared:
                self._nodes[extent.node].place(_IDENTITY, self._map_unit)
                self._nodes[extent.node].write(extent, packed, extent.first - begin)

    @property
    def _map_unit(self) -> float:
        return 1.0 if self._unit is None else self._unit


def _choose_unit(chunks: Mapping[int, Chunk], poses: Mapping[int, Similarity]) -> float | None:
    """The length that covariances are divided by: how large a splat of the first chunk is."""
    for identity, pose in poses.items():
        if chunks[identity].count:
            return typical_size(chunks[identity].splats) * pose.scale
    return None

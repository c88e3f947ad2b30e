"""Which splats go when a map is full."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gs_decoder.chunk import Chunk, importance
from gs_decoder.rotations import split_similarity
from gs_decoder.splats import Splats
from gs_decoder.world import prefix_counts, to_world, world_origin

# A splat that lets nine tenths of the light through does not stand for the one behind it.
_COVERING_OPACITY = 0.1
# Below the logarithm of every float32 importance, so that redundant splats all go first.
_REDUNDANT = -1000.0


def make_room(chunks: Sequence[Chunk], limit: int, protected: int) -> dict[int, Splats]:
    """Thin `chunks` out to `limit` splats together.

    Splats go that have a newer one of about their size in their place; then those of the least
    opacity × volume in the world. The newest chunks are touched only when they alone exceed the
    limit: then each keeps the same share of its best, and the newest at least one splat.

    Args:
        chunks: oldest first.
        limit: splats that may stay, at least 1.
        protected: number of newest chunks to leave alone.

    Returns:
        The new splats, in their order, of every chunk that loses some, by id.
    """
    if sum(chunk.count for chunk in chunks) <= limit:
        return {}
    border = max(len(chunks) - protected, 0)
    old, new = chunks[:border], chunks[border:]
    thinned: dict[int, Splats] = {}
    kept = prefix_counts([chunk.count for chunk in new], limit)
    if new and new[-1].count and not kept[-1]:
        largest = max(range(len(kept)), key=kept.__getitem__)
        kept[largest] -= min(1, kept[largest])
        kept[-1] = 1
    for chunk, count in zip(new, kept, strict=True):
        if count < chunk.count:
            thinned[chunk.id] = chunk.splats.select(slice(0, count))
    excess = sum(chunk.count for chunk in old) + sum(kept) - limit
    if excess > 0:
        stays = np.ones(sum(chunk.count for chunk in old), dtype=bool)
        stays[np.argpartition(_usefulness(old, new), excess - 1)[:excess]] = False
        ends = np.cumsum([0, *(chunk.count for chunk in old)])
        for chunk, start, end in zip(old, ends[:-1], ends[1:], strict=True):
            if not stays[start:end].all():
                thinned[chunk.id] = chunk.splats.select(np.flatnonzero(stays[start:end]))
    return thinned


def _usefulness(old: Sequence[Chunk], new: Sequence[Chunk]) -> np.ndarray:
    """(n,) of the splats of `old`: log(opacity × volume), with the redundant ones below all."""
    chunks = [*old, *new]
    splats = to_world(chunks, origin=world_origin(chunks))
    age = np.repeat(np.arange(len(chunks)), [chunk.count for chunk in chunks])
    cells = _cells(splats)
    _, cell = np.unique(cells, return_inverse=True)
    covering = splats.opacities.numpy() >= _COVERING_OPACITY
    newest = np.full(cell.max() + 1, -1)
    np.maximum.at(newest, cell[covering], age[covering])
    count = sum(chunk.count for chunk in old)
    redundant = newest[cell[:count]] > age[:count]
    value = torch.cat(
        [
            importance(chunk.splats).double() * split_similarity(chunk.T_world_chunk).scale ** 3
            for chunk in old
        ]
    ).numpy()
    return np.log(np.maximum(value, 1e-60)) + np.where(redundant, _REDUNDANT, 0.0)


def _cells(splats: Splats) -> np.ndarray:
    """(n,) int64 number of the cube a splat lies in, cubes being as large as the splat.

    Edge: two standard deviations of the longest axis, up to the next power of two.
    """
    longest = splats.scales.amax(-1).double().clamp_min(1e-9).numpy()
    level = np.ceil(np.log2(2.0 * longest))
    index = np.floor(splats.means.double().numpy() / np.exp2(level)[:, None]).astype(np.int64)
    # Collisions would at worst call a splat redundant too early: 64 mixed bits make them rare.
    mixed = level.astype(np.int64)
    for axis in range(3):
        mixed = (mixed ^ index[:, axis]) * np.int64(-7046029254386353131)
        mixed ^= mixed >> 29
    return mixed

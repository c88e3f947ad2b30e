"""What changes in a map, as messages: the unit of everything downstream.

Updates join rather than overwrite: of one chunk's content the highest `content` counts, of its
pose the highest `revision`, of its life the highest revision of a drop. So they may arrive twice,
late or in another order, and a mirror that has seen them all holds the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gs_decoder.chunk import Chunk

Have = tuple[int, int, int]
"""(chunk, content, revision) of a chunk that somebody holds."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkUpdate:
    """A chunk is new, or its splats changed."""

    chunk: Chunk


@dataclass(frozen=True, slots=True, eq=False)
class MoveUpdate:
    """Chunks moved as wholes; their splats did not change."""

    moves: list[tuple[int, int, np.ndarray]]
    """(chunk, revision, T_world_chunk (4, 4) float64)."""


@dataclass(frozen=True, slots=True, eq=False)
class DropUpdate:
    """Chunks are gone."""

    chunks: list[tuple[int, int]]
    """(chunk, revision): the revision is above every one that the chunk had."""


@dataclass(frozen=True, slots=True, eq=False)
class ResetUpdate:
    """The whole map is gone."""

    revision: int | None = None
    """Everything up to this revision is gone; None: everything held."""


Update = ChunkUpdate | MoveUpdate | DropUpdate | ResetUpdate


def difference(
    chunks: Mapping[int, Chunk],
    dropped: Mapping[int, int],
    clock: int,
    have: Iterable[Have],
) -> list[Update]:
    """What brings somebody who holds `have` to `chunks`: the answer to a snapshot request.

    Args:
        chunks: what is there now, by id.
        dropped: revision of the drop, by id, as far as known.
        clock: the highest revision ever seen.
        have: what the asker holds, of the same epoch.
    """
    held = {chunk: (content, revision) for chunk, content, revision in have}
    drops = []
    for identity, (_, revision) in held.items():
        if identity not in chunks:
            # Whoever never saw the drop itself may know only lower revisions than the asker.
            drops.append((identity, dropped.get(identity, max(clock, revision + 1))))
    updates: list[Update] = [DropUpdate(drops)] if drops else []
    moves = []
    for identity, chunk in chunks.items():
        content, revision = held.get(identity, (-1, -1))
        if content < chunk.content:
            updates.append(ChunkUpdate(chunk))
        elif revision < chunk.revision:
            moves.append((identity, chunk.revision, chunk.T_world_chunk))
    if moves:
        updates.append(MoveUpdate(moves))
    return updates

"""Chunks that leave a refiner for a while, and come back with all that was learnt of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine.adam import COLUMNS
from gs_decoder.refine.parameters import SPLATS, SplatParameters
from gs_decoder.refine.refiner import Refiner
from gs_decoder.sh import degree_of
from gs_decoder.splats import Splats

Float64 = NDArray[np.float64]
Rows = Mapping[str, NDArray[Any]]
"""N splats with their optimiser's state, as `RefinerState` has them but for `chunk`."""


def splats_by_chunk(refiner: Refiner) -> dict[int, int]:
    """chunk → how many splats it has there; the ones without are not named."""
    parameters = refiner.parameters
    ids, counts = np.unique(parameters.chunk[: parameters.count], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist()))


def resting_rows(refiner: Refiner, chunk: int, T_world_chunk: Float64) -> Rows:
    """A copy of a chunk's splats in its own frame, so that its pose may change while it is away.

    First moments of place and axes are forgotten, as after any move.
    """
    parameters = refiner.parameters
    members = np.flatnonzero(parameters.chunk[: parameters.count] == chunk)
    rows = {name: getattr(parameters, name)[members] for name in SPLATS}
    away = _moved(rows, np.linalg.inv(refiner.local(T_world_chunk)).astype(np.float64))
    return {name: array for name, array in away.items() if name != "chunk"}


def resting_splats(rows: Rows) -> Splats:
    """What these are as a chunk's splats, in its own frame."""
    count = len(rows["rows"])
    scratch = _scratch(rows)
    scratch.load({**rows, "chunk": np.zeros(count, np.int64)})
    return scratch.splats()


def forget_chunks(refiner: Refiner, chunks: Collection[int]) -> None:
    """Take chunks out; nothing else counts as changed."""
    count = refiner.parameters.count
    refiner.remove(np.flatnonzero(np.isin(refiner.parameters.chunk[:count], list(chunks))))


def put_back(refiner: Refiner, chunk: int, rows: Rows, T_world_chunk: Float64) -> None:
    """Go on with a chunk where it is now; it does not count as changed."""
    named = {**rows, "chunk": np.full(len(rows["rows"]), chunk, np.int64)}
    refiner.parameters.append(_moved(named, refiner.local(T_world_chunk)))


def _scratch(rows: Rows) -> SplatParameters:
    """An empty store that takes just these."""
    count, columns = rows["rows"].shape
    return SplatParameters(max(count, 1), degree_of(1 + (columns - COLUMNS) // 3))


def _moved(rows: Rows, motion: Float64) -> dict[str, NDArray[Any]]:
    """Rows of one chunk under a similarity."""
    scratch = _scratch(rows)
    scratch.load(rows)
    if scratch.count:
        scratch.transform({int(rows["chunk"][0]): motion})
    return scratch.used()

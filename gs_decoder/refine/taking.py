"""Which chunks refinement has changed, a bounded number at a time, and their splats."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine.parameters import SplatParameters
from gs_decoder.splats import Splats


class Taking:
    """Goes round the chunks that changed, so that each of many has its turn."""

    def __init__(self) -> None:
        self._last = -1

    def turn(
        self,
        parameters: SplatParameters,
        touched: NDArray[np.bool_],
        chunks: Collection[int],
        most: int | None,
    ) -> list[int]:
        """The chunks that changed.

        Args:
            touched: (count,) the splats that changed; the ones that do not count are unmarked.
            chunks: the ones that count.
            most: of them at most; the others have their turn later.
        """
        chunk = parameters.chunk[: parameters.count]
        ids = [identity for identity in np.unique(chunk[touched]).tolist() if identity in chunks]
        touched &= np.isin(chunk, ids)
        if most is not None and len(ids) > most:
            start = bisect_right(ids, self._last)
            ids = (ids[start:] + ids[:start])[:most]
            self._last = ids[-1]
        return ids


def take(
    parameters: SplatParameters, touched: NDArray[np.bool_], chunks: Collection[int]
) -> list[tuple[int, Splats]]:
    """A copy of the splats of these chunks, which are unmarked in `touched` (count,)."""
    chunk = parameters.chunk[: parameters.count]
    rows = np.flatnonzero(np.isin(chunk, list(chunks)))
    touched[rows] = False
    rows = rows[np.argsort(chunk[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(chunk[rows])) + 1
    groups = np.split(rows, bounds) if len(rows) else []
    return [(int(chunk[group[0]]), parameters.splats(group)) for group in groups]

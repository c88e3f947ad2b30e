"""Copies of large arrays that somebody waits for, into memory that was touched ahead.

Most of what such a copy takes is the first touch of fresh memory, which the system has to find and
clear. That can be done earlier, and in another thread.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class CopyRoom:
    """Memory for one copy of arrays, every page of it touched.

    Args:
        rows: how many fit in, of each.
        like: their types, and the shapes of their rows.
    """

    def __init__(self, rows: int, like: Arrays) -> None:
        self.rows = rows
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, array in like.items():
            self._arrays[name] = np.empty((rows, *array.shape[1:]), array.dtype)
            # Without Python's lock, as every assignment of so many.
            self._arrays[name].reshape(-1).view(np.uint8)[:: mmap.PAGESIZE] = 0

    def take(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Copies in this room's memory: what is here is lost."""
        copied = {name: self._arrays[name][: len(array)] for name, array in arrays.items()}
        for name, array in arrays.items():
            assert len(array) <= self.rows, "what does not fit is not copied"
            np.copyto(copied[name], array)
        return copied


def copies(arrays: Arrays, room: CopyRoom | None) -> dict[str, NDArray[Any]]:
    """Copies, where there is no room in fresh memory, which takes several times as long."""
    if room is None:
        return {name: array.copy() for name, array in arrays.items()}
    return room.take(arrays)

"""Arrays that a stream appends to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def roomier(array: NDArray[Any], least: int = 256) -> NDArray[Any]:
    """The same with twice the rows; what is not written to yet costs no memory."""
    grown = np.zeros((max(2 * len(array), least), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown

"""Compact cost features of 4x4-pixel cells: what a network reads of the cost volume."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

CELL = 4
"""Side of a cell in pixels."""
COST_BINS = 32

CELL_CHANNELS: tuple[str, ...] = (
    *(f"cost_{k}" for k in range(COST_BINS)),
    "log_depth",
    "confidence",
    "agreement",
    "parallax",
)
"""Channels of `PriorDepth.cells`.

cost_k: mean over the cell of the lowest aggregated cost among the planes of the k-th part of
the log depth range, less the pixel's lowest. log_depth: confidence-weighted mean of the log depth,
0 at the nearest and 1 at the farthest plane. confidence: mean. agreement: mean votes of other
views for the depth less votes against, within -2..2. parallax: mean of log(1 + pixels moved per
unit of log depth).
"""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def pool_costs(
    total: NDArray[np.float32],
    bins: int,
    pooled: NDArray[np.float32],
) -> None:
    """Fills `pooled` (Hc,Wc,bins) from the aggregated volume `total` (H,W,D)."""
    rows, columns, planes = total.shape
    pooled[:] = np.float32(0.0)
    lowest = np.empty(bins, np.float32)
    edges = np.empty(bins + 1, np.int64)
    for k in range(bins + 1):
        edges[k] = k * planes // bins
    for cy in range(pooled.shape[0]):
        y1 = min((cy + 1) * CELL, rows)
        for cx in range(pooled.shape[1]):
            x1 = min((cx + 1) * CELL, columns)
            count = np.float32((y1 - cy * CELL) * (x1 - cx * CELL))
            for y in range(cy * CELL, y1):
                for x in range(cx * CELL, x1):
                    floor = np.float32(1e9)
                    for k in range(bins):
                        # Fewer planes than bins: some planes stand for several of them.
                        first = edges[k]
                        value = total[y, x, first]
                        for d in range(first + 1, edges[k + 1]):
                            value = min(value, total[y, x, d])
                        lowest[k] = value
                        floor = min(floor, value)
                    for k in range(bins):
                        pooled[cy, cx, k] += (lowest[k] - floor) / count


def cell_means(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Hc,Wc) means of the 4x4 cells of `picture` (H,W); cells at the edge may be smaller."""
    height, width = picture.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    padded = np.full((rows * CELL, columns * CELL), np.nan, np.float32)
    padded[:height, :width] = picture
    blocks = padded.reshape(rows, CELL, columns, CELL)
    return np.nanmean(blocks, axis=(1, 3), dtype=np.float32)

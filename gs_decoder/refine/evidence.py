"""What the depth that a view is sure of says against the splats that stand before it.

Whatever is in front of what a view surely sees stands where that view looked through. That it came
first is no right: it loses log-odds for every such view, as a cell of an occupancy grid does
(Moravec and Elfes 1985; OctoMap, Hornung et al. 2013), its opacity being what is left of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine.refiner import Refiner

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    """Attributes:
    margin: what lies this share of depth in front of a sure surface stands in free space.
    log_odds: what a splat in free space loses for every view that says so.
    cull: opacity below which such a splat is removed.
    """

    margin: float = 0.1
    log_odds: float = 1.0
    cull: float = 0.05


@numba.njit(nogil=True, cache=True)
def _in_front(
    points: NDArray[np.float32],  # (N, 3)
    w2c: NDArray[np.float64],  # (4, 4)
    K: NDArray[np.float64],  # (3, 3)
    depth: NDArray[np.float32],  # (H, W), 0 where there is none
    margin: float,
    found: NDArray[np.bool_],  # out (N,)
) -> None:
    height, width = depth.shape
    for n in range(len(points)):
        p = points[n]
        found[n] = False
        z = w2c[2, 0] * p[0] + w2c[2, 1] * p[1] + w2c[2, 2] * p[2] + w2c[2, 3]
        if z <= 1e-6:
            continue
        x = w2c[0, 0] * p[0] + w2c[0, 1] * p[1] + w2c[0, 2] * p[2] + w2c[0, 3]
        y = w2c[1, 0] * p[0] + w2c[1, 1] * p[1] + w2c[1, 2] * p[2] + w2c[1, 3]
        u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
        if 0.0 <= u < width and 0.0 <= v < height:
            there = depth[int(v), int(u)]
            found[n] = there > 0.0 and z < (1.0 - margin) * there


def doubt_splats(
    refiner: Refiner, depth: Float32, K: Float64, c2w: Float64, config: EvidenceConfig
) -> int:
    """Splats in front of what a new view surely sees lose log-odds; how many it was.

    Args:
        depth: (H, W) float32 z-depth where it is sure, world units; 0 where it is not.
        K: (3, 3), pixels. c2w: (4, 4) rigid camera to world, OpenCV axes.
    """
    parameters = refiner.parameters
    count = parameters.count
    found = np.zeros(count, np.bool_)
    view = refiner.view_matrix(c2w).astype(np.float64)
    _in_front(parameters.means[:count], view, K.astype(np.float64), depth, config.margin, found)
    doubted = np.flatnonzero(found)
    if len(doubted):
        refiner.doubt(doubted, config.log_odds)
        refiner.remove(doubted[parameters.opacities[doubted] < config.cull])
    return len(doubted)

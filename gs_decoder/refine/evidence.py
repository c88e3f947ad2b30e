"""What depth seen from elsewhere says against splats, and against new surfaces before they come.

A surface in front of what another view surely sees stands where that view looked through. Neither
came first by right: a splat loses log-odds for every such view, as a cell of an occupancy grid does
(Moravec and Elfes 1985; OctoMap, Hornung et al. 2013), its opacity being what is left of them; and
a new surface comes only if as many of the other views find it in its place as look through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import adam
from gs_decoder.refine.refiner import Refiner

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    """Attributes:
    margin: what lies this share of depth in front of a sure surface stands in free space.
    agreement: what lies within this share of it is that surface.
    log_odds: what a splat in free space loses for every view that says so.
    cull: opacity below which such a splat is removed.
    witnesses: newest key frames whose depth new surfaces are held against.
    """

    margin: float = 0.1
    agreement: float = 0.05
    log_odds: float = 1.0
    cull: float = 0.05
    witnesses: int = 24


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """A view's depth where it is sure.

    Attributes:
        depth: (H, W) float32 z-depth, world units; 0 where it is not.
        K: (3, 3), pixels.
        c2w: (4, 4) rigid camera to world, OpenCV axes.
    """

    depth: Float32
    K: Float64
    c2w: Float64


@numba.njit(nogil=True, cache=True)
def _votes(
    points: NDArray[np.float64],  # (N, 3)
    w2c: NDArray[np.float64],  # (4, 4)
    K: NDArray[np.float64],  # (3, 3)
    depth: NDArray[np.float32],  # (H, W)
    margin: float,
    agreement: float,
    against: NDArray[np.int32],  # (N,) +1 where a point is in front of the depth
    for_: NDArray[np.int32],  # (N,) +1 where it is there
) -> None:
    height, width = depth.shape
    for n in range(len(points)):
        p = points[n]
        z = w2c[2, 0] * p[0] + w2c[2, 1] * p[1] + w2c[2, 2] * p[2] + w2c[2, 3]
        if z <= 1e-6:
            continue
        x = w2c[0, 0] * p[0] + w2c[0, 1] * p[1] + w2c[0, 2] * p[2] + w2c[0, 3]
        y = w2c[1, 0] * p[0] + w2c[1, 1] * p[1] + w2c[1, 2] * p[2] + w2c[1, 3]
        u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
        if not (0.0 <= u < width and 0.0 <= v < height):
            continue
        there = depth[int(v), int(u)]
        if there <= 0.0:
            continue
        if z < (1.0 - margin) * there:
            against[n] += 1
        elif abs(z - there) < agreement * there:
            for_[n] += 1


def doubt_splats(refiner: Refiner, witness: Witness, config: EvidenceConfig) -> int:
    """Splats in front of what a new view surely sees lose log-odds; how many it was."""
    parameters = refiner.parameters
    count = parameters.count
    against, agreeing = np.zeros(count, np.int32), np.zeros(count, np.int32)
    _votes(
        parameters.means[:count].astype(np.float64),
        refiner.view_matrix(witness.c2w).astype(np.float64),
        witness.K,
        witness.depth,
        config.margin,
        config.agreement,
        against,
        agreeing,
    )
    doubted = np.flatnonzero(against)
    if len(doubted):
        refiner._fit_buffers()
        parameters.rows[doubted, adam.LOGIT] -= np.float32(config.log_odds)
        parameters.activate()
        refiner._touched[doubted] = True
        refiner.remove(doubted[parameters.opacities[doubted] < config.cull])
    return len(doubted)


def contradicted(view: Witness, others: Iterable[Witness], config: EvidenceConfig) -> Mask:
    """(H, W) pixels of a new view whose depth more of the others look through than confirm."""
    rows, columns = np.nonzero(view.depth > 0.0)
    z = view.depth[rows, columns].astype(np.float64)
    x = (columns + 0.5 - view.K[0, 2]) / view.K[0, 0] * z
    y = (rows + 0.5 - view.K[1, 2]) / view.K[1, 1] * z
    points = np.stack([x, y, z], axis=1)
    against, agreeing = np.zeros(len(z), np.int32), np.zeros(len(z), np.int32)
    for other in others:
        # From camera to camera: world coordinates may be too large for a small difference.
        between = np.linalg.inv(other.c2w) @ view.c2w
        _votes(
            points, between, other.K, other.depth, config.margin, config.agreement,
            against, agreeing,
        )  # fmt: skip
    found = np.zeros(view.depth.shape, np.bool_)
    found[rows, columns] = against > agreeing
    return found

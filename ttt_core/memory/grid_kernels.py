"""The surface grid on a CPU: the same arithmetic as `SurfaceGrid` has in torch, point by point.

Shape suffixes: B streams, N points or rays, T slots, S samples of a ray.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

SUMS = 7
"""Carried for a corner: sums of shares, of places (3) and of colours (3), times their weights."""
LEVELS = 3
"""Cell sizes at which a point is written: about the side of the pixels that it stands for, twice
and four times that, so that it is found from nearby and from afar."""
LITTLE = 1e-3
"""Weight below which a corner is as good as empty."""
ENOUGH = 1.0
"""Weight that stops half of a ray."""
LEAST_WEIGHT = 0.02
"""Of a point in a corner, up to which it is not written there: it would hardly count, and most
corners would be taken for such."""
LEAST_STEP = 1e-6
"""Between samples, of log depth: a range may be a single depth."""
FARTHEST = 2.0**40
"""Cells; farther places share the last ones."""
LOWEST, HIGHEST = -40.0, 40.0
"""Levels: cells of 2**level units."""
# odd constants with well-spread bits (splitmix64, xxHash64), as signed 64-bit integers
OF_X, OF_Y, OF_Z = -7046029288634856825, -4417276706812531889, 1609587929392839161
OF_LEVEL = 0x01E3779B97F4A7C5
MIX = -4658895280553007687
OCTAVES = np.float32(1.4426950408889634)  # in a factor of e
NOBODY = 0
PROBES = 8
"""Slots that a corner may have, one after the other; none is ever given up, so that an empty one
ends the search."""

_SIZES = 2.0 ** np.arange(LOWEST, HIGHEST + LEVELS + 1).astype(np.float32)
"""Of cells by level, from the lowest."""
_SCALES = 1 / _SIZES

_jit: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
# calls with arrays cost more than what these do
_inlined: Any = numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")


@_inlined
def _level(size: float) -> Any:
    exact = np.log2(np.float32(max(size, 1e-30)))
    return min(max(np.rint(exact), LOWEST), HIGHEST)


@_inlined
def _mixed(x: float, y: float, z: float, level: float) -> Any:
    """The hash of whole coordinates."""
    hashed = (
        (np.int64(min(max(x, -FARTHEST), FARTHEST)) * np.int64(OF_X))
        ^ (np.int64(min(max(y, -FARTHEST), FARTHEST)) * np.int64(OF_Y))
        ^ (np.int64(min(max(z, -FARTHEST), FARTHEST)) * np.int64(OF_Z))
        ^ (np.int64(level) * np.int64(OF_LEVEL))
    )
    return (hashed ^ (hashed >> np.int64(31))) * np.int64(MIX)


@_inlined
def _slot(tags: Int64, mixed: int, claim: bool) -> Any:
    """Where a corner stands in `tags` (T,), -1: nowhere; `claim`: it may take an empty one."""
    last = np.int64(len(tags) - 1)
    tag = mixed | np.int64(1)
    slot = (mixed >> np.int64(20)) & last
    stride = (mixed >> np.int64(40)) | np.int64(1)
    for _ in range(PROBES):
        if tags[slot] == tag:
            return slot
        if tags[slot] == NOBODY:
            if not claim:
                return np.int64(-1)
            tags[slot] = tag
            return slot
        slot = (slot + stride) & last
    return np.int64(-1)


@_inlined
def _nearest(tags: Int64, x: float, y: float, z: float, level: float) -> Any:
    """Where the corner nearest to a place stands, -1: nowhere."""
    scale = _SCALES[np.int64(level - LOWEST)]
    half = np.float32(0.5)
    x, y, z = np.floor(x * scale + half), np.floor(y * scale + half), np.floor(z * scale + half)
    return _slot(tags, _mixed(x, y, z, level), False)


@_jit
def recall(
    tags: Int64,  # (B, T)
    sums: Float32,  # (B, T, SUMS)
    origins: Float32,  # (B, N, 3)
    directions: Float32,  # (B, N, 3)
    footprint: Float32,  # (B, N)
    log_range: Float32,  # (B, N, 2)
    log_depth: Float32,  # (B, N), filled like the following
    weight: Float32,  # (B, N)
    opened: Float32,  # (B, N)
    color: Float32,  # (B, N, 3)
    held: Float32,  # (B, N, S)
    first: Float32,  # (B, N, S)
) -> None:
    """`SurfaceGrid.recall`."""
    samples = held.shape[2]
    seen = np.empty(3, np.float32)
    at, of_sample = np.empty(samples, np.int64), np.empty(samples, np.float32)
    log_along = np.empty(samples, np.float32)
    for b in range(len(tags)):
        table, total = tags[b], sums[b]
        for n in range(origins.shape[1]):
            origin, direction = origins[b, n], directions[b, n]
            near, far = log_range[b, n, 0], log_range[b, n, 1]
            size = footprint[b, n]
            step = max((far - near) / np.float32(samples), np.float32(LEAST_STEP))
            squared = direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2
            passed = np.float32(1.0)
            octaves = np.log2(max(size, np.float32(1e-30)))
            for s in range(samples):
                log_z = near + step * np.float32(s + 0.5)
                z = np.exp(log_z)
                x = origin[0] + direction[0] * z
                y = origin[1] + direction[1] * z
                depth = origin[2] + direction[2] * z
                level = min(max(np.rint(octaves + OCTAVES * log_z), LOWEST), HIGHEST)
                slot = _nearest(table, x, y, depth, level)
                if slot < 0 or not total[slot, 0] > LITTLE:
                    slot = _nearest(table, x, y, depth, level + 1)
                at[s], of_sample[s] = slot, 0.0
                held[b, n, s], first[b, n, s] = 0.0, 0.0
                if slot < 0:
                    continue
                whole = max(total[slot, 0], np.float32(1e-12))
                along = np.float32(0.0)
                for i in range(3):
                    seen[i] = total[slot, 1 + i] / whole - origin[i]
                    along += seen[i] * direction[i]
                along /= squared
                aside = np.float32(0.0)
                for i in range(3):
                    aside += (seen[i] - along * direction[i]) ** 2
                log_along[s] = np.log(max(along, np.float32(1e-12)))
                miss = aside / (size * z) ** 2
                miss += np.float32(0.5) * ((log_along[s] - log_z) / step) ** 2
                of_sample[s] = max(total[slot, 0], np.float32(0.0)) * np.exp(-miss)
                held[b, n, s] = of_sample[s] / (of_sample[s] + np.float32(ENOUGH))
                first[b, n, s] = held[b, n, s] * passed
                passed *= np.float32(1.0) - held[b, n, s]
            best, most = 0, np.float32(-1.0)
            for s in range(samples):
                window = of_sample[s]
                window += of_sample[s - 1] if s > 0 else np.float32(0.0)
                window += of_sample[s + 1] if s + 1 < samples else np.float32(0.0)
                if window > most:
                    best, most = s, window
            opened[b, n] = 1.0
            for s in range(max(best - 1, 0)):
                opened[b, n] *= np.float32(1.0) - held[b, n, s]
            weight[b, n] = np.log1p(max(most, np.float32(0.0)))
            log_depth[b, n] = 0.0
            color[b, n] = 0.0
            for s in range(max(best - 1, 0), min(best + 2, samples)):
                if of_sample[s] > 0:
                    share = of_sample[s] / max(most, np.float32(1e-12))
                    log_depth[b, n] += share * log_along[s]
                    whole = max(total[at[s], 0], np.float32(1e-12))
                    for i in range(3):
                        color[b, n, i] += share * total[at[s], 4 + i] / whole
            if not most > LITTLE:
                log_depth[b, n] = np.float32(0.5) * (near + far)


@_jit
def add(
    tags: Int64,  # (B, T), changed
    sums: Float32,  # (B, T, SUMS), changed
    places: Float32,  # (B, N, 3)
    sizes: Float32,  # (B, N)
    colors: Float32,  # (B, N, 3)
    weights: Float32,  # (B, N)
    factor: float,
) -> None:
    """Points added `factor` times to a state; where it is above 0, corners may take slots."""
    claim, times = factor > 0, np.float32(factor)
    low, part = np.empty(3, np.float32), np.empty(3, np.float32)
    for b in range(len(tags)):
        table, total = tags[b], sums[b]
        for n in range(places.shape[1]):
            if not weights[b, n] > LEAST_WEIGHT:
                continue
            finest = _level(sizes[b, n])
            for coarser in range(LEVELS):
                level = finest + coarser
                cell = _SIZES[np.int64(level - LOWEST)]
                for i in range(3):
                    scaled = places[b, n, i] / cell
                    low[i] = np.floor(scaled)
                    part[i] = scaled - low[i]
                for corner in range(8):
                    x, y, z = (corner >> 2) & 1, (corner >> 1) & 1, corner & 1
                    share = part[0] if x else np.float32(1.0) - part[0]
                    share *= part[1] if y else np.float32(1.0) - part[1]
                    share *= part[2] if z else np.float32(1.0) - part[2]
                    share *= weights[b, n]
                    if not share > LEAST_WEIGHT:
                        continue
                    mixed = _mixed(low[0] + x, low[1] + y, low[2] + z, level)
                    slot = _slot(table, mixed, claim)
                    if slot < 0:
                        continue
                    share *= times
                    total[slot, 0] += share
                    for i in range(3):
                        total[slot, 1 + i] += share * places[b, n, i]
                        total[slot, 4 + i] += share * colors[b, n, i]

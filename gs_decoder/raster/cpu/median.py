"""The depth at which half of a pixel's light is passed: where expected depth is of no surface.

At an edge, through mist or behind a floater the mean of all depths lies between surfaces; the
median lies on one, and what lies close to it says where exactly, how clearly and how finely.
"""

import math

import numpy as np

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.jit import kernel
from gs_decoder.raster.cpu.layout import (
    BOTTOM,
    DEPTH,
    LEFT,
    LOG_OPACITY,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    RECORD,
    RESIDUAL_FALL,
    RIGHT,
    SLOPE,
    TILE,
    TOP,
    X_FALL,
    X,
    Y,
)

_LOG2_MIN_ALPHA = math.log2(MIN_ALPHA)
_FALL = -0.5 / math.log(2.0)
"""What a record's falls are multiples of (see `projection`)."""


@kernel
def median_depth(
    records: np.ndarray,  # (N*RECORD,)
    pair_splat: np.ndarray,  # (pairs,) uint32
    tile_start: np.ndarray,  # (tiles+1,) int64
    tiles_x: int,
    width: int,
    height: int,
    max_alpha: float,
    window: float,
    alpha_image: np.ndarray,  # (H*W,) of `blend`
    counter: np.ndarray,  # (1,) int64, 0: tiles already dealt out
    depth: np.ndarray,  # out (H*W,): mean depth of what lies within the window of the median
    share: np.ndarray,  # out (H*W,): and its part of the weight
    sigma: np.ndarray,  # out (H*W,): and how wide its splats are, pixels
) -> None:
    tiles = tile_start.shape[0] - 1
    while True:
        tile = simd.fetch_add(counter, 0, 1)
        if tile >= tiles:
            break
        left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        for y in range(top, min(top + TILE, height)):
            for x in range(left, min(left + TILE, width)):
                pixel = y * width + x
                whole = alpha_image[pixel]
                depth[pixel], share[pixel], sigma[pixel] = 0.0, 0.0, 0.0
                if whole <= 0.0:
                    continue
                median = 0.0
                # The first walk finds the median, the second what lies about it.
                for walk in range(2):
                    light, passed, near, total, area = 1.0, 0.0, 0.0, 0.0, 0.0
                    for pair in range(tile_start[tile], tile_start[tile + 1]):
                        s = np.int64(pair_splat[pair]) * RECORD
                        if (
                            x < records[s + LEFT]
                            or x > records[s + RIGHT]
                            or y < records[s + TOP]
                            or y > records[s + BOTTOM]
                        ):
                            continue
                        dx = x + 0.5 - records[s + X]
                        t = y + 0.5 - records[s + Y] + records[s + SLOPE] * dx
                        power = (
                            records[s + LOG_OPACITY]
                            + records[s + X_FALL] * dx * dx
                            + records[s + RESIDUAL_FALL] * t * t
                        )
                        if power < _LOG2_MIN_ALPHA:
                            continue
                        alpha = min(max_alpha, 2.0**power)
                        if light * (1.0 - alpha) <= MIN_TRANSMITTANCE:
                            break
                        weight = alpha * light
                        light -= weight
                        z = records[s + DEPTH]
                        if walk == 0:
                            passed += weight
                            median = z
                            if passed >= 0.5 * whole:
                                break
                        elif z > median * (1.0 + window):
                            # Splats come in order of depth.
                            break
                        elif z >= median * (1.0 - window):
                            near += weight
                            total += weight * z
                            falls = records[s + X_FALL] * records[s + RESIDUAL_FALL]
                            area += weight * (-_FALL / math.sqrt(falls))
                depth[pixel] = total / near if near > 0.0 else median
                share[pixel] = min(1.0, near / whole)
                sigma[pixel] = math.sqrt(area / near) if near > 0.0 else 0.0

"""Blending, front to back, tile by tile.

A tile is 16 blocks of 4x4 pixels and a block is one 16-lane vector, so the six running
values of a block (light left, red, green, blue, depth, weight) stay in registers over its list of
splats. A block's list holds the splats whose pixel box touches the block; a block stops as
soon as all its pixels are opaque. A tile takes its splats in portions small enough for the
first-level cache.

Every forward decision is made again by the backward pass from the same operations in the
same order (`alpha_at`, `step`), so both see the same pixels.
"""

import math

import numpy as np

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.jit import helper, kernel
from gs_decoder.raster.cpu.layout import (
    BLOCK,
    BLUE,
    BOTTOM,
    DEPTH,
    GREEN,
    LEFT,
    LOG_OPACITY,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    RECORD,
    RED,
    RESIDUAL_FALL,
    RIGHT,
    SLOPE,
    TILE,
    TOP,
    X_FALL,
    X,
    Y,
)

BLOCKS = 16  # blocks of a tile
PORTION = 192  # splats of a tile taken at a time
# Vectors of a block: light left (negative once stopped), red, green, blue, depth, weight.
_STATE = 6
_LOG2_MIN_ALPHA = math.log2(MIN_ALPHA)


@helper
def blocks_touched(records, base, tile_x, tile_y):  # type: ignore[no-untyped-def]
    """Bit mask of the tile's blocks (row by row) that the splat's pixel box touches."""
    x0, y0 = tile_x * TILE, tile_y * TILE
    left = max(int(records[base + LEFT]) - x0, 0) // BLOCK
    right = min(int(records[base + RIGHT]) - x0, TILE - 1) // BLOCK
    top = max(int(records[base + TOP]) - y0, 0) // BLOCK
    bottom = min(int(records[base + BOTTOM]) - y0, TILE - 1) // BLOCK
    columns = (2 << right) - (1 << left)
    rows = (0x1111 >> (4 * (3 - bottom))) & (0x1111 << (4 * top))
    return columns * rows


@helper
def deal_to_blocks(mask, index, lists, lengths):  # type: ignore[no-untyped-def]
    """Append `index` to the list of every block of the mask."""
    while mask != 0:
        block = simd.lowest_bit(mask)
        mask &= mask - 1
        lists[block * PORTION + lengths[block]] = index
        lengths[block] += 1


@helper
def alpha_at(splats, base, px, py, max_alpha):  # type: ignore[no-untyped-def]
    """A block's alpha of one splat: dx, t = dy + slope dx, log2(alpha), alpha clamped."""
    dx = px - splats[base + X]
    dy = py - splats[base + Y]
    t = simd.fma(dx, splats[base + SLOPE], dy)
    power = simd.fma(dx * dx, splats[base + X_FALL], splats[base + LOG_OPACITY])
    power = simd.fma(t * t, splats[base + RESIDUAL_FALL], power)
    full = simd.exp2(simd.maximum(power, -126.0))
    return dx, t, power, full, simd.minimum(full, max_alpha)


@helper
def step(power, alpha, light):  # type: ignore[no-untyped-def]
    """Which pixels the splat is blended into, its weight there, and the light left after.

    `light` of a pixel that has stopped is negative, so that it never passes again.
    """
    weight = alpha * light
    left = light - weight
    reached = power >= _LOG2_MIN_ALPHA
    passes = left > MIN_TRANSMITTANCE
    blended = reached & passes
    stopped = simd.select(reached, -simd.absolute(light), light)
    return blended, simd.select(blended, weight, 0.0), simd.select(blended, left, stopped)


@helper
def block_pixels(block, tile_x, tile_y, offsets):  # type: ignore[no-untyped-def]
    """Pixel centres of a block's lanes (lane = 4 y + x)."""
    x0 = np.float32(tile_x * TILE + (block % 4) * BLOCK)
    y0 = np.float32(tile_y * TILE + (block // 4) * BLOCK)
    return simd.load(offsets, 0) + x0, simd.load(offsets, 16) + y0


@helper
def lane_offsets():  # type: ignore[no-untyped-def]
    """Offsets of a block's pixel centres: 16 times x, 16 times y."""
    offsets = np.empty(32, np.float32)
    for lane in range(16):
        offsets[lane] = lane % 4 + 0.5
        offsets[16 + lane] = lane // 4 + 0.5
    return offsets


@kernel
def blend(
    records: np.ndarray,  # (N*RECORD,)
    pair_splat: np.ndarray,  # (pairs,) int32
    tile_start: np.ndarray,  # (tiles+1,) int64
    tiles_x: int,
    width: int,
    height: int,
    background: np.ndarray,  # (3,)
    max_alpha: float,
    counter: np.ndarray,  # (1,) int64, 0: tiles already dealt out
    touched: np.ndarray,  # out (pairs,) uint16: bit mask of blocks that the pair was blended into
    rgb: np.ndarray,  # out (H*W*3,)
    depth: np.ndarray,  # out (H*W,): expected depth, 0 where nothing is
    alpha_image: np.ndarray,  # out (H*W,)
) -> None:
    limit = np.float32(max_alpha)
    offsets = lane_offsets()
    splats = np.empty(PORTION * RECORD, np.float32)
    lists = np.empty(BLOCKS * PORTION, np.int16)
    lengths = np.empty(BLOCKS, np.int64)
    state = np.empty(BLOCKS * _STATE * 16, np.float32)
    reached = np.empty(PORTION, np.uint16)
    tiles = tile_start.shape[0] - 1
    while True:
        tile = simd.fetch_add(counter, 0, 1)
        if tile >= tiles:
            break
        tile_x, tile_y = tile % tiles_x, tile // tiles_x
        columns = min(TILE, width - tile_x * TILE)
        rows = min(TILE, height - tile_y * TILE)
        open_blocks = 0
        for block in range(BLOCKS):
            base = block * _STATE * 16
            state[base : base + _STATE * 16] = 0.0
            if (block % 4) * BLOCK < columns and (block // 4) * BLOCK < rows:
                open_blocks |= 1 << block
            for lane in range(16):
                # Pixels outside the image count as stopped.
                x, y = (block % 4) * BLOCK + lane % 4, (block // 4) * BLOCK + lane // 4
                state[base + lane] = 1.0 if x < columns and y < rows else -1.0
        begin, end = tile_start[tile], tile_start[tile + 1]
        while begin < end and open_blocks != 0:
            count = min(PORTION, end - begin)
            lengths[:] = 0
            for i in range(count):
                base = pair_splat[begin + i] * RECORD
                simd.store(splats, i * RECORD, simd.load(records, base))
                deal_to_blocks(
                    blocks_touched(records, base, tile_x, tile_y) & open_blocks,
                    i,
                    lists,
                    lengths,
                )
                reached[i] = 0
            for block in range(BLOCKS):
                if lengths[block] == 0:
                    continue
                px, py = block_pixels(block, tile_x, tile_y, offsets)
                base = block * _STATE * 16
                light = simd.load(state, base)
                red = simd.load(state, base + 16)
                green = simd.load(state, base + 32)
                blue = simd.load(state, base + 48)
                far = simd.load(state, base + 64)
                covered = simd.load(state, base + 80)
                bit = 1 << block
                for k in range(lengths[block]):
                    i = lists[block * PORTION + k]
                    s = i * RECORD
                    _, _, power, _, alpha = alpha_at(splats, s, px, py, limit)
                    blended, weight, light = step(power, alpha, light)
                    red = simd.fma(weight, splats[s + RED], red)
                    green = simd.fma(weight, splats[s + GREEN], green)
                    blue = simd.fma(weight, splats[s + BLUE], blue)
                    far = simd.fma(weight, splats[s + DEPTH], far)
                    covered = covered + weight
                    if simd.any_lane(blended):
                        reached[i] |= bit
                    elif not simd.any_lane(light > 0.0):
                        open_blocks &= ~bit
                        break
                simd.store(state, base, light)
                simd.store(state, base + 16, red)
                simd.store(state, base + 32, green)
                simd.store(state, base + 48, blue)
                simd.store(state, base + 64, far)
                simd.store(state, base + 80, covered)
            for i in range(count):
                touched[begin + i] = reached[i]
            begin += count
        for i in range(begin, end):
            touched[i] = 0
        for y in range(rows):
            for x in range(columns):
                base = ((y // BLOCK) * 4 + x // BLOCK) * _STATE * 16 + (y % 4) * 4 + x % 4
                pixel = (tile_y * TILE + y) * width + tile_x * TILE + x
                weights = state[base + 80]
                left = np.float32(1.0) - weights
                for c in range(3):
                    rgb[3 * pixel + c] = state[base + 16 * (c + 1)] + left * background[c]
                alpha_image[pixel] = weights
                # The sum of weights, not one minus the light: exact where little is covered.
                depth[pixel] = state[base + 64] / weights if weights > 0.0 else 0.0

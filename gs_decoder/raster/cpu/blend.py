"""Blending, front to back, tile by tile.

A tile is 16 blocks of 4x4 pixels and a block is one 16-lane vector, so the six running
values of a block (light left, red, green, blue, depth, weight) stay in registers over its
splats. A tile takes its splats in portions small enough for the first-level cache, finds for
sixteen of them at a time which blocks they can reach, and keeps that as bits: one word of 64
splats a block. A block is left as soon as all its pixels are opaque.

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
WORD = 64  # splats of one word of bits
WORDS = 3  # words of a portion
PORTION = WORDS * WORD  # splats of a tile taken at a time
_LOG2_MIN_ALPHA = math.log2(MIN_ALPHA)
_ROUNDING = 1e-6  # relative, several times float32's
_ROOM = 1e-3  # pixels, or powers of two
# Vectors of a block: light left (0 once stopped), red, green, blue, depth, weight.
_STATE = 6

# Constants that the inner loops hold in registers: those of 2^x, then log2(1/255), 1e-4.
CONSTANTS = np.array([*simd.EXP2_TABLE, _LOG2_MIN_ALPHA, MIN_TRANSMITTANCE], np.float32)


@helper
def load_constants(table):  # type: ignore[no-untyped-def]
    """`CONSTANTS` -> vectors of 2^x's table, log2(1/255), and the least transmittance."""
    exp2_table = (
        simd.spread(table, 0),
        simd.spread(table, 1),
        simd.spread(table, 2),
        simd.spread(table, 3),
        simd.spread(table, 4),
        simd.spread(table, 5),
        simd.spread(table, 6),
        simd.spread(table, 7),
    )
    return exp2_table, simd.spread(table, 8), simd.spread(table, 9)


@helper
def first_word(tile, tile_start):  # type: ignore[no-untyped-def]
    """Where a tile's words begin: room for its splats in words of 64, for any split of pairs."""
    return tile_start[tile] // WORD + tile


@helper
def alpha_at(splats, base, px, py, exp2_table, limit):  # type: ignore[no-untyped-def]
    """A block's alpha of one splat: dx, t = dy + slope dx, log2(alpha), alpha, alpha clamped."""
    dx = px - simd.spread(splats, base + X)
    dy = py - simd.spread(splats, base + Y)
    t = simd.fma(dx, simd.spread(splats, base + SLOPE), dy)
    power = simd.fma(
        dx * dx, simd.spread(splats, base + X_FALL), simd.spread(splats, base + LOG_OPACITY)
    )
    power = simd.fma(t * t, simd.spread(splats, base + RESIDUAL_FALL), power)
    full = simd.exp2(power, exp2_table)
    return dx, t, power, full, simd.minimum(full, limit)


@helper
def step(power, alpha, light, least_power, least_light):  # type: ignore[no-untyped-def]
    """Alpha where the splat is blended, else 0; the light left; pixels that it would end.

    The light of a pixel that has stopped is 0. While no pixel stops, one multiplication is all
    that the next splat has to wait for.
    """
    alpha = simd.select(power >= least_power, alpha, 0.0)
    left = simd.fma(-alpha, light, light)
    ends = (left <= least_light) & (light > 0.0)
    return alpha, left, ends


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


@helper
def _least_square(low, high):  # type: ignore[no-untyped-def]
    """Smallest square between two numbers, low <= high."""
    nearest = simd.maximum(simd.maximum(low, -high), 0.0)
    return nearest * nearest


@helper
def _find_blocks(splats, group, tile_x, tile_y, valid, bits):  # type: ignore[no-untyped-def]
    """Which of the tile's blocks sixteen splats can reach: 16 bits a block into `bits`.

    Over a block, log2(alpha) is at most what its two squares give at their own smallest
    values; splats that stay below 1/255 even so are left out, besides those whose pixel
    box does not touch the block.
    """
    columns = simd.load_columns(splats, group * 16 * RECORD)
    slope = columns[SLOPE]
    x0, y0 = np.float32(tile_x * TILE), np.float32(tile_y * TILE)
    dx, dy = (x0 + np.float32(0.5)) - columns[X], (y0 + np.float32(0.5)) - columns[Y]
    left, right = columns[LEFT] - x0, columns[RIGHT] - x0
    top, bottom = columns[TOP] - y0, columns[BOTTOM] - y0
    # Blending rounds the same numbers in another way: the bound leaves room for that.
    margin_x = simd.fma(simd.absolute(dx), _ROUNDING, _ROOM)
    start = columns[LOG_OPACITY] + _ROOM
    for bx in range(4):
        near = dx + np.float32(4 * bx)
        far = near + 3.0
        square = _least_square(near - margin_x, far + margin_x)
        power = simd.fma(square, columns[X_FALL], start)
        at_near, at_far = slope * near, slope * far
        size = simd.maximum(simd.absolute(at_near), simd.absolute(at_far)) + simd.absolute(dy)
        margin_t = simd.fma(size, _ROUNDING, _ROOM)
        low = simd.minimum(at_near, at_far) + dy - margin_t
        high = simd.maximum(at_near, at_far) + dy + margin_t
        across = (left <= np.float32(4 * bx + 3)) & (right >= np.float32(4 * bx))
        for by in range(4):
            square = _least_square(low + np.float32(4 * by), high + np.float32(4 * by + 3))
            reach = simd.fma(square, columns[RESIDUAL_FALL], power) >= _LOG2_MIN_ALPHA
            down = (top <= np.float32(4 * by + 3)) & (bottom >= np.float32(4 * by))
            block = 4 * by + bx
            bits[block * 4 * WORDS + group] = simd.mask_bits(reach & across & down) & valid


@kernel
def blend(
    records: np.ndarray,  # (N*RECORD,)
    pair_splat: np.ndarray,  # (pairs,) uint32
    tile_start: np.ndarray,  # (tiles+1,) int64
    tiles_x: int,
    width: int,
    height: int,
    background: np.ndarray,  # (3,)
    max_alpha: float,
    table: np.ndarray,  # CONSTANTS
    counter: np.ndarray,  # (1,) int64, 0: tiles already dealt out
    touched: np.ndarray,  # out (words*16,) uint64: per block, the splats that were blended into it
    tile_words: np.ndarray,  # out (tiles,) int64: words of the tile that were written
    rgb: np.ndarray,  # out (H*W*3,)
    depth: np.ndarray,  # out (H*W,): expected depth, 0 where nothing is
    alpha_image: np.ndarray,  # out (H*W,)
) -> None:
    offsets = lane_offsets()
    splats = np.zeros(PORTION * RECORD, np.float32)
    words = np.zeros(BLOCKS * WORDS, np.uint64)
    bits = words.view(np.uint16)
    state = np.empty(BLOCKS * _STATE * 16, np.float32)
    exp2_table, least_power, least_light = load_constants(table)
    limit = simd.broadcast(np.float32(max_alpha))
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
                if x < columns and y < rows:
                    state[base + lane] = 1.0
        begin, end = tile_start[tile], tile_start[tile + 1]
        word_at = first_word(tile, tile_start)
        written = 0
        while begin < end and open_blocks != 0:
            count = min(PORTION, end - begin)
            for i in range(count):
                where = np.int64(pair_splat[np.uint64(begin + i)]) * RECORD
                simd.store(splats, i * RECORD, simd.load(records, where))
            words[:] = 0
            for group in range((count + 15) // 16):
                valid = (1 << min(16, count - 16 * group)) - 1
                _find_blocks(splats, group, tile_x, tile_y, valid, bits)
            used = (count + WORD - 1) // WORD
            for block in range(BLOCKS):
                bit = 1 << block
                if open_blocks & bit == 0:
                    for w in range(used):
                        touched[(word_at + written + w) * BLOCKS + block] = 0
                    continue
                px, py = block_pixels(block, tile_x, tile_y, offsets)
                base = block * _STATE * 16
                light = simd.load(state, base)
                red = simd.load(state, base + 16)
                green = simd.load(state, base + 32)
                blue = simd.load(state, base + 48)
                far = simd.load(state, base + 64)
                covered = simd.load(state, base + 80)
                for w in range(used):
                    left_over = words[block * WORDS + w]
                    blended = left_over
                    while left_over != 0:
                        i = simd.lowest_bit(left_over)
                        rest = left_over & (left_over - np.uint64(1))
                        s = (w * WORD + i) * RECORD
                        _, _, power, _, alpha = alpha_at(splats, s, px, py, exp2_table, limit)
                        alpha, left, ends = step(power, alpha, light, least_power, least_light)
                        weight = alpha * light
                        if simd.any_lane(ends):
                            weight = simd.select(ends, 0.0, weight)
                            left = simd.select(ends, 0.0, left)
                            if not simd.any_lane(left > 0.0):
                                open_blocks &= ~bit
                        light = left
                        red = simd.fma(weight, simd.spread(splats, s + RED), red)
                        green = simd.fma(weight, simd.spread(splats, s + GREEN), green)
                        blue = simd.fma(weight, simd.spread(splats, s + BLUE), blue)
                        far = simd.fma(weight, simd.spread(splats, s + DEPTH), far)
                        covered = covered + weight
                        if not simd.any_lane(weight > 0.0):
                            blended &= ~(left_over ^ rest)
                        left_over = rest
                        if open_blocks & bit == 0:
                            blended &= ~rest
                            left_over = np.uint64(0)
                    touched[(word_at + written + w) * BLOCKS + block] = blended
                    if open_blocks & bit == 0:
                        for later in range(w + 1, used):
                            touched[(word_at + written + later) * BLOCKS + block] = 0
                        break
                simd.store(state, base, light)
                simd.store(state, base + 16, red)
                simd.store(state, base + 32, green)
                simd.store(state, base + 48, blue)
                simd.store(state, base + 64, far)
                simd.store(state, base + 80, covered)
            begin += count
            written += used
        tile_words[tile] = written
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

"""Backward of `blend`: from image gradients to sums per splat, in image space.

The loss sees a pixel as a sum of w_i v_i, v_i = g_rgb (c_i - background) + g_depth z_i + g_alpha,
w_i = light_i alpha_i. Then

    dL/dalpha_i = light_i v_i - rest_i / (1 - alpha_i),   rest_i = sum of w_j v_j behind i

and going front to back again only `rest`, one number a pixel, has to be carried.

Every (tile, splat) pair owns a slot; a splat's slots lie side by side and are added up in the
order of its tiles.
No atomics, so the sums do not depend on the number of threads.
"""

import numpy as np

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.blend import (
    BLOCKS,
    PORTION,
    WORD,
    WORDS,
    alpha_at,
    block_pixels,
    first_word,
    lane_offsets,
    load_constants,
    step,
)
from gs_decoder.raster.cpu.jit import helper, kernel
from gs_decoder.raster.cpu.layout import BLOCK, BLUE, DEPTH, GRADIENT, GREEN, RECORD, RED, TILE

# Vectors of a block: light left, rest, gradients of red, green, blue, depth, and of the weight.
_STATE = 7


@helper
def _load_pixel_gradients(  # type: ignore[no-untyped-def]
    state, lanes, tile_x, tile_y, width, height, background,
    rgb, depth, alpha, d_rgb, d_depth, d_alpha,
):  # fmt: skip
    """Fill the state of a tile's blocks before its first splat."""
    inside = np.float32(1.0)
    for block in range(BLOCKS):
        left = tile_x * TILE + (block % 4) * BLOCK
        top = tile_y * TILE + (block // 4) * BLOCK
        for lane in range(16):
            row, column = top + lane // 4, left + lane % 4
            if row < height and column < width:
                pixel = np.uint64(row * width + column)
                three = np.uint64(3) * pixel
                lanes[lane] = inside
                lanes[16 + lane] = alpha[pixel]
                lanes[32 + lane] = depth[pixel]
                lanes[48 + lane] = d_alpha[pixel]
                lanes[64 + lane] = d_depth[pixel]
                for c in range(3):
                    lanes[80 + 16 * c + lane] = rgb[three + np.uint64(c)]
                    lanes[128 + 16 * c + lane] = d_rgb[three + np.uint64(c)]
            else:
                # Light 0: a pixel outside the image counts as stopped.
                for k in range(11):
                    lanes[16 * k + lane] = 0.0
        covered, d_covered = simd.load(lanes, 16), simd.load(lanes, 48)
        g_depth = simd.select(covered > 0.0, simd.load(lanes, 64) / covered, 0.0)
        g_weight = d_covered - g_depth * simd.load(lanes, 32)
        rest = d_covered * covered
        base = block * _STATE * 16
        for c in range(3):
            g = simd.load(lanes, 128 + 16 * c)
            behind = simd.broadcast(background[c])
            g_weight = simd.fma(-g, behind, g_weight)
            rest = simd.fma(g, simd.load(lanes, 80 + 16 * c) - behind, rest)
            simd.store(state, base + 32 + 16 * c, g)
        simd.store(state, base, simd.load(lanes, 0))
        simd.store(state, base + 16, rest)
        simd.store(state, base + 80, g_depth)
        simd.store(state, base + 96, g_weight)


@kernel
def blend_backward(
    records: np.ndarray,  # (N*RECORD,)
    pair_splat: np.ndarray,  # (pairs,) uint32
    pair_slot: np.ndarray,  # (pairs,) uint32
    tile_start: np.ndarray,  # (tiles+1,) int64
    touched: np.ndarray,  # (words*16,) uint64, from `blend`
    tile_words: np.ndarray,  # (tiles,) int64, from `blend`
    tiles_x: int,
    width: int,
    height: int,
    background: np.ndarray,  # (3,)
    max_alpha: float,
    table: np.ndarray,  # CONSTANTS
    rgb: np.ndarray,  # (H*W*3,) what `blend` returned
    depth: np.ndarray,  # (H*W,)
    alpha_image: np.ndarray,  # (H*W,)
    d_rgb: np.ndarray,  # (H*W*3,) gradients of the loss
    d_depth: np.ndarray,  # (H*W,)
    d_alpha: np.ndarray,  # (H*W,)
    counter: np.ndarray,  # (1,) int64, 0
    slots: np.ndarray,  # out (pairs*GRADIENT,): sums of each pair, where it was blended
    slot_used: np.ndarray,  # in: zeros, out (pairs,) uint8: 1 where the slot was written
) -> None:
    offsets = lane_offsets()
    splats = np.zeros(PORTION * RECORD, np.float32)
    sums = np.zeros(PORTION * GRADIENT, np.float32)
    words = np.zeros(WORDS, np.uint64)
    state = np.empty(BLOCKS * _STATE * 16, np.float32)
    lanes = np.zeros(11 * 16, np.float32)
    exp2_table, least_power, least_light = load_constants(table)
    limit = simd.broadcast(np.float32(max_alpha))
    one, zero = simd.broadcast(1.0), simd.broadcast(0.0)
    tiles = tile_start.shape[0] - 1
    while True:
        tile = simd.fetch_add(counter, 0, 1)
        if tile >= tiles:
            break
        if tile_words[tile] == 0:
            continue
        tile_x, tile_y = tile % tiles_x, tile // tiles_x
        word_at = first_word(tile, tile_start)
        _load_pixel_gradients(
            state, lanes, tile_x, tile_y, width, height, background,
            rgb, depth, alpha_image, d_rgb, d_depth, d_alpha,
        )  # fmt: skip
        for portion in range(0, tile_words[tile], WORDS):
            begin = tile_start[tile] + portion * WORD
            used = min(WORDS, tile_words[tile] - portion)
            for w in range(used):
                some = np.uint64(0)
                for block in range(BLOCKS):
                    some |= touched[(word_at + portion + w) * BLOCKS + block]
                words[w] = some
                while some != 0:
                    i = w * WORD + simd.lowest_bit(some)
                    some &= some - np.uint64(1)
                    where = np.int64(pair_splat[np.uint64(begin + i)]) * RECORD
                    simd.store(splats, i * RECORD, simd.load(records, where))
                    simd.store(sums, i * GRADIENT, zero)
            for block in range(BLOCKS):
                px, py = block_pixels(block, tile_x, tile_y, offsets)
                base = block * _STATE * 16
                light = simd.load(state, base)
                rest = simd.load(state, base + 16)
                g_red = simd.load(state, base + 32)
                g_green = simd.load(state, base + 48)
                g_blue = simd.load(state, base + 64)
                g_depth = simd.load(state, base + 80)
                g_weight = simd.load(state, base + 96)
                for w in range(used):
                    left_over = touched[(word_at + portion + w) * BLOCKS + block]
                    while left_over != 0:
                        s = (w * WORD + simd.lowest_bit(left_over)) * RECORD
                        left_over &= left_over - np.uint64(1)
                        dx, t, power, full, alpha = alpha_at(splats, s, px, py, exp2_table, limit)
                        alpha, left, ends = step(power, alpha, light, least_power, least_light)
                        weight = alpha * light
                        if simd.any_lane(ends):
                            weight = simd.select(ends, 0.0, weight)
                            left = simd.select(ends, 0.0, left)
                        light = left
                        value = simd.fma(g_depth, simd.spread(splats, s + DEPTH), g_weight)
                        value = simd.fma(g_red, simd.spread(splats, s + RED), value)
                        value = simd.fma(g_green, simd.spread(splats, s + GREEN), value)
                        value = simd.fma(g_blue, simd.spread(splats, s + BLUE), value)
                        part = weight * value
                        rest = rest - part
                        blended = weight > 0.0
                        # alpha dL/dalpha; a clamped alpha passes no gradient on.
                        flows = blended & (full <= limit)
                        q = simd.select(flows, part - alpha * rest / (one - alpha), 0.0)
                        qx = q * dx
                        qt = q * t
                        total = simd.lane_sums(
                            (
                                weight * g_red,
                                weight * g_green,
                                weight * g_blue,
                                weight * g_depth,
                                q,
                                qx,
                                qt,
                                qx * dx,
                                qx * t,
                                qt * t,
                                weight,
                                simd.select(blended, one, 0.0),
                            )
                        )
                        simd.store(sums, s, simd.load(sums, s) + total)
                simd.store(state, base, light)
                simd.store(state, base + 16, rest)
            for w in range(used):
                some = words[w]
                while some != 0:
                    i = w * WORD + simd.lowest_bit(some)
                    some &= some - np.uint64(1)
                    slot = pair_slot[np.uint64(begin + i)]
                    slot_used[slot] = 1
                    simd.store(slots, np.int64(slot) * GRADIENT, simd.load(sums, i * GRADIENT))


@helper
def sum_slots(slots, slot_used, first_pair, splat, sums):  # type: ignore[no-untyped-def]
    """Add up one splat's slots, which lie side by side, into its row of `sums`."""
    total = simd.broadcast(0.0)
    for slot in range(first_pair[splat], first_pair[splat + 1]):
        if slot_used[slot] != 0:
            total = total + simd.load(slots, slot * GRADIENT)
    simd.store(sums, splat * GRADIENT, total)

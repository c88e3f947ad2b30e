"""Backward of `blend`: from image gradients to sums per splat, in image space.

The loss sees a pixel as a sum of w_i v_i, v_i = g_rgb (c_i - background) + g_depth z_i + g_alpha,
w_i = light_i alpha_i. Then

    dL/dalpha_i = light_i v_i - rest_i / (1 - alpha_i),   rest_i = sum of w_j v_j behind i

and going front to back again only `rest`, one number a pixel, has to be carried.

Every (tile, splat) pair owns a slot; a splat's slots are added up in the order of its tiles.
No atomics, so the sums do not depend on the number of threads.
"""

import numpy as np

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.blend import (
    BLOCKS,
    PORTION,
    alpha_at,
    block_pixels,
    deal_to_blocks,
    lane_offsets,
    step,
)
from gs_decoder.raster.cpu.jit import helper, kernel
from gs_decoder.raster.cpu.layout import (
    BLOCK,
    BLUE,
    CHUNK,
    DEPTH,
    GRADIENT,
    GREEN,
    RECORD,
    RED,
    TILE,
)

# Vectors of a block: light left, rest, gradients of red, green, blue, depth, and of the weight.
_STATE = 7


@helper
def _load_pixel_gradients(  # type: ignore[no-untyped-def]
    state, tile_x, tile_y, width, height, background, rgb, depth, alpha, d_rgb, d_depth, d_alpha
):
    """Fill the state of a tile's blocks before its first splat."""
    for y in range(TILE):
        for x in range(TILE):
            base = ((y // BLOCK) * 4 + x // BLOCK) * _STATE * 16 + (y % 4) * 4 + x % 4
            row, column = tile_y * TILE + y, tile_x * TILE + x
            if row >= height or column >= width:
                for k in range(_STATE):
                    state[base + 16 * k] = 0.0
                state[base] = -1.0
                continue
            pixel = row * width + column
            covered = alpha[pixel]
            g_depth = d_depth[pixel] / covered if covered > 0.0 else np.float32(0.0)
            g_weight = d_alpha[pixel] - g_depth * depth[pixel]
            rest = d_alpha[pixel] * covered
            for c in range(3):
                g = d_rgb[3 * pixel + c]
                g_weight -= g * background[c]
                rest += g * (rgb[3 * pixel + c] - background[c])
                state[base + 16 * (2 + c)] = g
            state[base] = 1.0
            state[base + 16] = rest
            state[base + 80] = g_depth
            state[base + 96] = g_weight


@kernel
def blend_backward(
    records: np.ndarray,  # (N*RECORD,)
    pair_splat: np.ndarray,  # (pairs,) int32
    tile_start: np.ndarray,  # (tiles+1,) int64
    touched: np.ndarray,  # (pairs,) uint16, from `blend`
    tiles_x: int,
    width: int,
    height: int,
    background: np.ndarray,  # (3,)
    max_alpha: float,
    rgb: np.ndarray,  # (H*W*3,) what `blend` returned
    depth: np.ndarray,  # (H*W,)
    alpha_image: np.ndarray,  # (H*W,)
    d_rgb: np.ndarray,  # (H*W*3,) gradients of the loss
    d_depth: np.ndarray,  # (H*W,)
    d_alpha: np.ndarray,  # (H*W,)
    counter: np.ndarray,  # (1,) int64, 0
    slots: np.ndarray,  # out (pairs*GRADIENT,); pairs with touched == 0 are not written
) -> None:
    limit = np.float32(max_alpha)
    offsets = lane_offsets()
    splats = np.empty(PORTION * RECORD, np.float32)
    sums = np.empty(PORTION * GRADIENT, np.float32)
    lists = np.empty(BLOCKS * PORTION, np.int16)
    lengths = np.empty(BLOCKS, np.int64)
    state = np.empty(BLOCKS * _STATE * 16, np.float32)
    slot_of = np.empty(PORTION, np.int64)
    one, zero = simd.broadcast(1.0), simd.broadcast(0.0)
    tiles = tile_start.shape[0] - 1
    while True:
        tile = simd.fetch_add(counter, 0, 1)
        if tile >= tiles:
            break
        tile_x, tile_y = tile % tiles_x, tile // tiles_x
        begin, end = tile_start[tile], tile_start[tile + 1]
        if begin == end:
            continue
        _load_pixel_gradients(
            state, tile_x, tile_y, width, height, background,
            rgb, depth, alpha_image, d_rgb, d_depth, d_alpha,
        )  # fmt: skip
        while begin < end:
            lengths[:] = 0
            count = 0
            while begin < end and count < PORTION:
                if touched[begin] != 0:
                    base = pair_splat[begin] * RECORD
                    simd.store(splats, count * RECORD, simd.load(records, base))
                    simd.store(sums, count * GRADIENT, zero)
                    deal_to_blocks(np.int64(touched[begin]), count, lists, lengths)
                    slot_of[count] = begin
                    count += 1
                begin += 1
            for block in range(BLOCKS):
                if lengths[block] == 0:
                    continue
                px, py = block_pixels(block, tile_x, tile_y, offsets)
                base = block * _STATE * 16
                light = simd.load(state, base)
                rest = simd.load(state, base + 16)
                g_red = simd.load(state, base + 32)
                g_green = simd.load(state, base + 48)
                g_blue = simd.load(state, base + 64)
                g_depth = simd.load(state, base + 80)
                g_weight = simd.load(state, base + 96)
                for k in range(lengths[block]):
                    s = lists[block * PORTION + k] * RECORD
                    dx, t, power, full, alpha = alpha_at(splats, s, px, py, limit)
                    blended, weight, light = step(power, alpha, light)
                    value = simd.fma(g_depth, splats[s + DEPTH], g_weight)
                    value = simd.fma(g_red, splats[s + RED], value)
                    value = simd.fma(g_green, splats[s + GREEN], value)
                    value = simd.fma(g_blue, splats[s + BLUE], value)
                    part = weight * value
                    rest = rest - part
                    # alpha dL/dalpha; a clamped alpha passes no gradient on.
                    flows = blended & (full <= limit)
                    q = simd.select(flows, part - alpha * rest / (1.0 - alpha), 0.0)
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
                            simd.select(blended, one, zero),
                        )
                    )
                    simd.store(sums, s, simd.load(sums, s) + total)
                simd.store(state, base, light)
                simd.store(state, base + 16, rest)
            for i in range(count):
                simd.store(slots, slot_of[i] * GRADIENT, simd.load(sums, i * GRADIENT))


@kernel
def sum_slots(
    slots: np.ndarray,  # (pairs*GRADIENT,)
    touched: np.ndarray,  # (pairs,) uint16
    first_pair: np.ndarray,  # (N+1,) int64
    splat_pairs: np.ndarray,  # (pairs,) int32
    count: int,
    counter: np.ndarray,  # (1,) int64, 0
    sums: np.ndarray,  # out (N*GRADIENT,)
) -> None:
    """Add up every splat's slots."""
    chunks = (count + CHUNK - 1) // CHUNK
    zero = simd.broadcast(0.0)
    while True:
        chunk = simd.fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        for s in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            total = zero
            for k in range(first_pair[s], first_pair[s + 1]):
                pair = splat_pairs[k]
                if touched[pair] != 0:
                    total = total + simd.load(slots, pair * GRADIENT)
            simd.store(sums, s * GRADIENT, total)

"""Depth order and the lists of splats that each tile of 16x16 pixels has to blend.

One radix sort orders the visible splats by depth; dealing them in that order into the
tiles (a counting sort) leaves every tile's list sorted. Ties keep the order of the input.
"""

import numpy as np

from gs_decoder.raster.cpu.jit import helper, kernel
from gs_decoder.raster.cpu.layout import BOTTOM, DEPTH, LEFT, RECORD, RIGHT, TILE, TOP

_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS
_PASSES = 3


@kernel
def count_visible(
    records: np.ndarray,  # (N*RECORD,)
    count: int,
    tiles_x: int,
    order: np.ndarray,  # out (N,) int32: visible splats in input order
    tile_start: np.ndarray,  # out (tiles+1,) int64: where each tile's pairs begin
    first_pair: np.ndarray,  # out (N+1,) int64: where each splat's list of pairs begins
) -> int:
    """Returns the number of visible splats; `tile_start[-1]` is the number of pairs."""
    tile_start[:] = 0
    visible = 0
    pairs = 0
    for s in range(count):
        first_pair[s] = pairs
        base = s * RECORD
        left, right = int(records[base + LEFT]), int(records[base + RIGHT])
        if left > right:
            continue
        order[visible] = s
        visible += 1
        left, right = left // TILE, right // TILE
        top, bottom = int(records[base + TOP]) // TILE, int(records[base + BOTTOM]) // TILE
        for ty in range(top, bottom + 1):
            for tx in range(left, right + 1):
                tile_start[ty * tiles_x + tx + 1] += 1
        pairs += (bottom - top + 1) * (right - left + 1)
    first_pair[count] = pairs
    for tile in range(tile_start.shape[0] - 1):
        tile_start[tile + 1] += tile_start[tile]
    return visible


@helper
def _radix_pass(keys, order, keys_out, order_out, count, shift, histogram):  # type: ignore[no-untyped-def]
    position = 0
    for digit in range(_DIGITS):
        size = histogram[digit]
        histogram[digit] = position
        position += size
    for i in range(count):
        digit = (keys[i] >> np.uint32(shift)) & np.uint32(_DIGITS - 1)
        where = histogram[digit]
        histogram[digit] = where + 1
        keys_out[where] = keys[i]
        order_out[where] = order[i]


@kernel
def sort_into_tiles(
    records: np.ndarray,  # (N*RECORD,)
    depth_bits: np.ndarray,  # (N*RECORD,) uint32: the same memory as `records`
    visible: int,
    tiles_x: int,
    order: np.ndarray,  # in/out (N,) int32: visible splats -> the same, near ones first
    spare: np.ndarray,  # (N,) int32
    keys: np.ndarray,  # (2, N) uint32
    tile_start: np.ndarray,  # (tiles+1,) int64
    first_pair: np.ndarray,  # (N+1,) int64
    pair_splat: np.ndarray,  # out (pairs,) int32: splat of each pair, tile by tile
    splat_pairs: np.ndarray,  # out (pairs,) int32: a splat's pairs, splat by splat
) -> None:
    histograms = np.zeros((_PASSES, _DIGITS), np.int32)
    for i in range(visible):
        # Positive floats have the order of their bits.
        key = depth_bits[order[i] * RECORD + DEPTH]
        keys[0, i] = key
        for p in range(_PASSES):
            digit = (key >> np.uint32(p * _DIGIT_BITS)) & np.uint32(_DIGITS - 1)
            histograms[p, digit] += 1
    _radix_pass(keys[0], order, keys[1], spare, visible, 0, histograms[0])
    _radix_pass(keys[1], spare, keys[0], order, visible, _DIGIT_BITS, histograms[1])
    _radix_pass(keys[0], order, keys[1], spare, visible, 2 * _DIGIT_BITS, histograms[2])
    order[:visible] = spare[:visible]

    cursor = tile_start[:-1].copy()
    for i in range(visible):
        s = order[i]
        base = s * RECORD
        left, right = int(records[base + LEFT]) // TILE, int(records[base + RIGHT]) // TILE
        top, bottom = int(records[base + TOP]) // TILE, int(records[base + BOTTOM]) // TILE
        mine = first_pair[s]
        for ty in range(top, bottom + 1):
            for tx in range(left, right + 1):
                tile = ty * tiles_x + tx
                where = cursor[tile]
                cursor[tile] = where + 1
                pair_splat[where] = s
                splat_pairs[mine] = where
                mine += 1

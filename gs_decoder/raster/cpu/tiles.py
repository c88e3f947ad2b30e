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
    record_bits: np.ndarray,  # (N*RECORD,) uint32: the same memory
    tiles_x: int,
    order: np.ndarray,  # out (N,) uint32: visible splats in input order
    keys: np.ndarray,  # out (N,) uint32: their depths, in an order of integers
    tile_box: np.ndarray,  # out (N*4,) int16: first and last tile column, first and last row
    tile_start: np.ndarray,  # out (tiles+1,) int64: where each tile's pairs begin
    first_pair: np.ndarray,  # out (N+1,) int64: where each splat's list of pairs begins
) -> int:
    """Returns the number of visible splats; `tile_start[-1]` is the number of pairs."""
    tile_start[:] = 0
    visible = 0
    pairs = 0
    count = records.shape[0] // RECORD
    for s in range(count):
        first_pair[s] = pairs
        base = s * RECORD
        left, right = int(records[base + LEFT]), int(records[base + RIGHT])
        if left > right:
            continue
        order[visible] = s
        # Positive floats have the order of their bits.
        keys[visible] = record_bits[base + DEPTH]
        visible += 1
        left, right = left // TILE, right // TILE
        top, bottom = int(records[base + TOP]) // TILE, int(records[base + BOTTOM]) // TILE
        tile_box[4 * s] = left
        tile_box[4 * s + 1] = right
        tile_box[4 * s + 2] = top
        tile_box[4 * s + 3] = bottom
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
        key = keys[i]
        digit = (key >> np.uint32(shift)) & np.uint32(_DIGITS - 1)
        where = histogram[digit]
        histogram[digit] = where + np.uint32(1)
        keys_out[where] = key
        order_out[where] = order[i]


@kernel
def sort_into_tiles(
    visible: int,
    tiles_x: int,
    order: np.ndarray,  # in (N,) uint32, from `count_visible`; overwritten
    keys: np.ndarray,  # in (N,) uint32, from `count_visible`; overwritten
    spare_order: np.ndarray,  # (N,) uint32
    spare_keys: np.ndarray,  # (N,) uint32
    tile_box: np.ndarray,  # (N*4,) int16
    tile_start: np.ndarray,  # (tiles+1,) int64
    first_pair: np.ndarray,  # (N+1,) int64
    pair_splat: np.ndarray,  # out (pairs,) uint32: splat of each pair, tile by tile, near to far
    pair_slot: np.ndarray,  # out (pairs,) uint32: where the pair stands splat by splat
) -> None:
    histograms = np.zeros((_PASSES, _DIGITS), np.uint32)
    for i in range(visible):
        key = keys[i]
        for p in range(_PASSES):
            digit = (key >> np.uint32(p * _DIGIT_BITS)) & np.uint32(_DIGITS - 1)
            histograms[p, digit] += np.uint32(1)
    _radix_pass(keys, order, spare_keys, spare_order, visible, 0, histograms[0])
    _radix_pass(spare_keys, spare_order, keys, order, visible, _DIGIT_BITS, histograms[1])
    _radix_pass(keys, order, spare_keys, spare_order, visible, 2 * _DIGIT_BITS, histograms[2])

    cursor = tile_start[:-1].astype(np.uint32)
    for i in range(visible):
        s = spare_order[i]
        box = np.uint64(4) * np.uint64(s)
        left, right = tile_box[box], tile_box[box + np.uint64(1)]
        top, bottom = tile_box[box + np.uint64(2)], tile_box[box + np.uint64(3)]
        mine = first_pair[s]
        for ty in range(top, bottom + 1):
            for tx in range(left, right + 1):
                tile = np.uint64(ty * tiles_x + tx)
                where = cursor[tile]
                cursor[tile] = where + np.uint32(1)
                pair_splat[where] = s
                pair_slot[where] = mine
                mine += 1

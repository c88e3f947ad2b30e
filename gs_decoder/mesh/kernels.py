"""Compiled parts of the fusion: which blocks depth touches, depth into voxels, and the surface.

A block is 8 x 8 x 8 voxels, stored flat with z fastest. Blocks are told apart by a key of three
signed 21-bit coordinates, and every list of blocks is sorted by it.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

SIDE = 8
CELLS = SIDE**3
REACH = 1 << 20
"""Block coordinates lie in -REACH … REACH - 1."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]


@numba.njit(nogil=True, cache=True)
def touched_blocks(
    depth: Float32,
    camera: Float64,
    c2w: Float64,
    block: float,
    truncation: float,
    stride: int,
    keys: Int64,
) -> int:
    """Write the keys of the blocks around a depth image's surface, with repetitions; their number.

    Args:
        depth: (H, W) z-depth, 0 = none. camera: fx fy cx cy. c2w: (4, 4).
        block: side of a block. truncation: how far before and behind the surface, along the ray.
        stride: of the pixels that are looked at.
        keys: (M,) room; -1 is returned where it does not suffice, -2 where a block lies beyond
            REACH.
    """
    height, width = depth.shape
    count = 0
    for row in range(0, height, stride):
        for column in range(0, width, stride):
            z = depth[row, column]
            if not z > 0:
                continue
            x = (column + 0.5 - camera[0, 2]) / camera[0, 0]
            y = (row + 0.5 - camera[1, 2]) / camera[1, 1]
            length = math.sqrt(x * x + y * y + 1.0)
            # A voxel a step: larger ones would jump over the corners of blocks.
            steps = math.ceil(2.0 * truncation * SIDE / block)
            last = np.int64(-1)
            for step in range(steps + 1):
                t = z + (2.0 * truncation * step / steps - truncation) / length
                key = np.int64(0)
                for axis in range(3):
                    p = t * (c2w[axis, 0] * x + c2w[axis, 1] * y + c2w[axis, 2]) + c2w[axis, 3]
                    b = math.floor(p / block)
                    if b < -REACH or b >= REACH:
                        return -2
                    key = (key << 21) | (np.int64(b) + REACH)
                if key != last:
                    if count == len(keys):
                        return -1
                    keys[count] = key
                    count += 1
                    last = key
    return count


@numba.njit(nogil=True, cache=True)
def integrate(
    corners: Float64,
    first: int,
    step: int,
    voxel: float,
    truncation: float,
    depth: Float32,
    confidence: Float32,
    colour: NDArray[np.uint8],
    camera: Float64,
    w2c: Float64,
    distance: Float32,
    weight: Float32,
    rgb: Float32,
    rgb_weight: Float32,
) -> None:
    """Average one depth image into blocks `first`, `first + step`, … (Curless and Levoy 1996).

    Args:
        corners: (B, 3) of the blocks, world units. depth: (H, W), 0 = none.
        confidence: (H, W) weight of a pixel. colour: (H, W, 3). camera: (3, 3). w2c: (4, 4).
        distance: (B, 512) signed distance over truncation, -1..1, positive before the surface.
        weight: (B, 512). rgb: (B, 512, 3), 0..255. rgb_weight: (B, 512), of views whose surface is
            near: what looks through a voxel has no colour for it.
    """
    height, width = depth.shape
    fx, fy, cx, cy = camera[0, 0], camera[1, 1], camera[0, 2], camera[1, 2]
    radius = 0.5 * math.sqrt(3.0) * SIDE * voxel
    half = 0.5 * SIDE * voxel
    for b in range(first, len(corners), step):
        # The ball around the block against the picture's four sides.
        mx, my, mz = corners[b, 0] + half, corners[b, 1] + half, corners[b, 2] + half
        qx = w2c[0, 0] * mx + w2c[0, 1] * my + w2c[0, 2] * mz + w2c[0, 3]
        qy = w2c[1, 0] * mx + w2c[1, 1] * my + w2c[1, 2] * mz + w2c[1, 3]
        qz = w2c[2, 0] * mx + w2c[2, 1] * my + w2c[2, 2] * mz + w2c[2, 3]
        if qz < -radius:
            continue
        if qz > radius:
            near = qz - radius
            spread = radius * fx / near * 1.5
            u, v = fx * qx / qz + cx, fy * qy / qz + cy
            if u < -spread or u > width + spread or v < -spread or v > height + spread:
                continue
        for i in range(SIDE):
            for j in range(SIDE):
                for k in range(SIDE):
                    x = corners[b, 0] + (i + 0.5) * voxel
                    y = corners[b, 1] + (j + 0.5) * voxel
                    z = corners[b, 2] + (k + 0.5) * voxel
                    pz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
                    if pz <= 1e-6:
                        continue
                    px = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
                    py = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
                    u, v = fx * px / pz + cx, fy * py / pz + cy
                    if u < 0.0 or v < 0.0 or u >= width or v >= height:
                        continue
                    column, row = int(u), int(v)
                    d = depth[row, column]
                    w = confidence[row, column]
                    if not (d > 0.0 and w > 0.0):
                        continue
                    # Between four pixels of one surface; at its edge the nearest one alone.
                    left, top = math.floor(u - 0.5), math.floor(v - 0.5)
                    if left >= 0 and top >= 0 and left + 1 < width and top + 1 < height:
                        d00, d01 = depth[top, left], depth[top, left + 1]
                        d10, d11 = depth[top + 1, left], depth[top + 1, left + 1]
                        lowest = min(min(d00, d01), min(d10, d11))
                        highest = max(max(d00, d01), max(d10, d11))
                        if lowest > 0.0 and highest - lowest < truncation:
                            s, t = u - 0.5 - left, v - 0.5 - top
                            d = (1 - t) * ((1 - s) * d00 + s * d01) + t * ((1 - s) * d10 + s * d11)
                    # Along the ray, not along the axis: the truncation is a length in the world.
                    ray = math.sqrt(px * px + py * py + pz * pz) / pz
                    signed = (d - pz) * ray
                    if signed < -truncation:
                        continue
                    if signed < 0.0:
                        # What is behind a surface is seen less surely the farther behind it lies.
                        w *= 1.0 + signed / truncation
                        if w <= 0.0:
                            continue
                    at = (i * SIDE + j) * SIDE + k
                    old = weight[b, at]
                    total = old + w
                    share = w / total
                    value = min(1.0, signed / truncation)
                    distance[b, at] += share * (value - distance[b, at])
                    if signed < truncation:
                        rgb_weight[b, at] += w
                        share = w / rgb_weight[b, at]
                        for c in range(3):
                            rgb[b, at, c] += share * (colour[row, column, c] - rgb[b, at, c])
                    weight[b, at] = total


@numba.njit(nogil=True, cache=True)
def place(near: Int32, b: int, i: int, j: int, k: int) -> tuple[int, int]:
    """(block, cell) of a voxel with coordinates -1 … 8 as seen from block b; block -1: none."""
    di, dj, dk = 1, 1, 1
    if i < 0:
        di, i = 0, i + SIDE
    elif i >= SIDE:
        di, i = 2, i - SIDE
    if j < 0:
        dj, j = 0, j + SIDE
    elif j >= SIDE:
        dj, j = 2, j - SIDE
    if k < 0:
        dk, k = 0, k + SIDE
    elif k >= SIDE:
        dk, k = 2, k - SIDE
    return near[b, (di * 3 + dj) * 3 + dk], (i * SIDE + j) * SIDE + k


@numba.njit(nogil=True, cache=True)
def surface_vertices(
    near: Int32,
    corners: Float64,
    voxel: float,
    distance: Float32,
    reached: UInt8,
    rgb: Float32,
    rgb_weight: Float32,
    number: Int32,
    positions: Float64,
    colours: Float32,
    seen: NDArray[np.bool_],
) -> int:
    """Surface nets (Gibson 1998): one vertex in each cell that the surface crosses; their count.

    A cell lies between eight voxels' centres and is named by the lowest of them; the vertex is the
    mean of where the surface cuts its edges. Cells with a voxel that is unknown have none.

    Args:
        near: (B, 27) blocks around each block, -1 = none.
        reached: (B, 512) 0 = unknown, 1 = seen, else reached by `closing.grow`.
        number: (B, 512), filled with the vertex of each cell, -1 = none.
        positions, colours: (M, 3) room; with M = 0 vertices are only counted.
        seen: (M,) room; whether all eight voxels were seen.
    """
    count = 0
    value = np.empty(8)
    shade = np.empty((8, 3))
    shaded = np.empty(8)
    for b in range(len(corners)):
        for i in range(SIDE):
            for j in range(SIDE):
                for k in range(SIDE):
                    cell = (i * SIDE + j) * SIDE + k
                    number[b, cell] = -1
                    below = 0
                    whole, real = True, True
                    for corner in range(8):
                        other, at = place(
                            near, b, i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1)
                        )
                        if other < 0 or reached[other, at] == 0:
                            whole = False
                            break
                        real = real and reached[other, at] == 1
                        value[corner] = distance[other, at]
                        shaded[corner] = 1.0 if rgb_weight[other, at] > 0.0 else 1e-6
                        for c in range(3):
                            shade[corner, c] = rgb[other, at, c]
                        if value[corner] < 0.0:
                            below += 1
                    if not whole or below == 0 or below == 8:
                        continue
                    if len(positions):
                        cuts = 0
                        x = y = z = 0.0
                        red = green = blue = tint = 0.0
                        for one in range(8):
                            for axis in range(3):
                                bit = 4 >> axis
                                if one & bit:
                                    continue
                                two = one | bit
                                if (value[one] < 0.0) == (value[two] < 0.0):
                                    continue
                                t = value[one] / (value[one] - value[two])
                                x += (one >> 2) + (t if axis == 0 else 0.0)
                                y += ((one >> 1) & 1) + (t if axis == 1 else 0.0)
                                z += (one & 1) + (t if axis == 2 else 0.0)
                                p, q = (1 - t) * shaded[one], t * shaded[two]
                                red += p * shade[one, 0] + q * shade[two, 0]
                                green += p * shade[one, 1] + q * shade[two, 1]
                                blue += p * shade[one, 2] + q * shade[two, 2]
                                tint += p + q
                                cuts += 1
                        positions[count, 0] = corners[b, 0] + (i + 0.5 + x / cuts) * voxel
                        positions[count, 1] = corners[b, 1] + (j + 0.5 + y / cuts) * voxel
                        positions[count, 2] = corners[b, 2] + (k + 0.5 + z / cuts) * voxel
                        colours[count, 0] = red / tint
                        colours[count, 1] = green / tint
                        colours[count, 2] = blue / tint
                        seen[count] = real
                    number[b, cell] = count
                    count += 1
    return count


@numba.njit(nogil=True, cache=True)
def surface_faces(near: Int32, distance: Float32, number: Int32, faces: Int32) -> int:
    """Two triangles around every edge between voxels that the surface cuts; their count.

    They are counter-clockwise as seen from before the surface. Edges at which one of the four
    cells has no vertex have none.

    Args:
        number: of `surface_vertices`. faces: (M, 3) room; with M = 0 triangles are only counted.
    """
    count = 0
    quad = np.empty(4, np.int32)
    for b in range(len(number)):
        for i in range(SIDE):
            for j in range(SIDE):
                for k in range(SIDE):
                    here = distance[b, (i * SIDE + j) * SIDE + k]
                    for axis in range(3):
                        di, dj, dk = int(axis == 0), int(axis == 1), int(axis == 2)
                        other, at = place(near, b, i + di, j + dj, k + dk)
                        if other < 0 or (here < 0.0) == (distance[other, at] < 0.0):
                            continue
                        # The cells around the edge, turning about +axis.
                        whole = True
                        for turn in range(4):
                            p = int(turn == 1 or turn == 2)
                            q = int(turn >= 2)
                            ci, cj, ck = i, j, k
                            if axis == 0:
                                cj, ck = j - p, k - q
                            elif axis == 1:
                                ck, ci = k - p, i - q
                            else:
                                ci, cj = i - p, j - q
                            block, cell = place(near, b, ci, cj, ck)
                            if block < 0 or number[block, cell] < 0:
                                whole = False
                                break
                            quad[turn] = number[block, cell]
                        if not whole:
                            continue
                        if len(faces):
                            if here < 0.0:
                                # Before the surface is towards +axis.
                                a, c = quad[1], quad[3]
                            else:
                                a, c = quad[3], quad[1]
                            faces[count, 0], faces[count, 1] = quad[0], a
                            faces[count, 2] = quad[2]
                            faces[count + 1, 0], faces[count + 1, 1] = quad[0], quad[2]
                            faces[count + 1, 2] = c
                        count += 2
    return count

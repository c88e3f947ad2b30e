"""Which chunks refinement has changed, a bounded number at a time, and their splats."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder.refine.adam import COLOR, COLUMNS, LOG_SCALE, LOGIT, MEAN, QUAT
from gs_decoder.refine.harmonics import harmonic_columns
from gs_decoder.refine.parameters import SplatParameters
from gs_decoder.rotations import quaternion_from_matrix
from gs_decoder.sh import C0, sh_rotation
from gs_decoder.splats import Splats

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Taking:
    """Goes round the chunks that changed, so that each of many has its turn."""

    def __init__(self) -> None:
        self._last = -1

    def turn(
        self,
        parameters: SplatParameters,
        touched: NDArray[np.bool_],
        chunks: Collection[int],
        most: int | None,
    ) -> list[int]:
        """The chunks that changed.

        Args:
            touched: (count,) the splats that changed; the ones that do not count are unmarked.
            chunks: the ones that count.
            most: of them at most; the others have their turn later.
        """
        chunk = parameters.chunk[: parameters.count]
        ids = [identity for identity in np.unique(chunk[touched]).tolist() if identity in chunks]
        touched &= np.isin(chunk, ids)
        if most is not None and len(ids) > most:
            start = bisect_right(ids, self._last)
            ids = (ids[start:] + ids[:start])[:most]
            self._last = ids[-1]
        return ids


def take(
    parameters: SplatParameters, touched: NDArray[np.bool_], frames: Mapping[int, Float64]
) -> list[tuple[int, Splats]]:
    """A copy of the splats of these chunks, each in its chunk's own frame, averaged over their last
    steps, in the order in which a map keeps them but for rounding; they are unmarked in `touched`
    (count,). Chunks without splats are left out.

    Args:
        frames: chunk → its (4, 4) similarity, the store's world from the chunk.
    """
    chunk = parameters.chunk[: parameters.count]
    rows = np.flatnonzero(np.isin(chunk, list(frames)))
    if not len(rows):
        return []
    touched[rows] = False
    rows = rows[np.argsort(chunk[rows], kind="stable")]
    groups = np.split(rows, np.flatnonzero(np.diff(chunk[rows])) + 1)
    present = [int(chunk[group[0]]) for group in groups]
    # Of all chunks at once: for a chunk of a hundred splats this is most of the work.
    motions = np.linalg.inv(np.array([frames[identity] for identity in present], np.float64))
    factors = np.cbrt(np.linalg.det(motions[:, :3, :3]))
    rotations = motions[:, :3, :3] / factors[:, None, None]
    quaternions = quaternion_from_matrix(torch.from_numpy(rotations)).numpy()
    harmonics = harmonic_columns(parameters.sh_degree)
    turns = _coefficient_turns(rotations, parameters.sh_degree)
    taken = []
    for place, (identity, group) in enumerate(zip(present, groups)):
        group = group[np.argsort(-_importance(parameters.average, group), kind="stable")]
        count = len(group)
        shapes = ((count, 3), (count, 4), (count, 3), (count,), (count, 3 + harmonics))
        means, quats, scales, opacities, sh = (np.empty(shape, np.float32) for shape in shapes)
        _place(
            parameters.average, group, motions[place], factors[place], quaternions[place],
            means, quats, scales, opacities, sh,
        )  # fmt: skip
        if harmonics:
            np.matmul(parameters.average[group, COLUMNS:], turns[place], out=sh[:, 3:])
        sh = sh.reshape(count, -1, 3)
        fields = map(torch.from_numpy, (means, quats, scales, opacities, sh))
        taken.append((identity, Splats(*fields)))
    return taken


def _coefficient_turns(rotations: Float64, degree: int) -> Float32:
    """(C, H, H) of (C, 3, 3) rotations: what a row's columns from `COLUMNS` on are multiplied by,
    so that its coefficients turn with it."""
    columns = harmonic_columns(degree)
    turns = np.zeros((len(rotations), columns, columns), np.float32)
    for band, blocks in enumerate(sh_rotation(rotations, degree), start=1):
        first, last = harmonic_columns(band - 1), harmonic_columns(band)
        for rgb in range(3):
            own = slice(first + rgb, last, 3)
            turns[:, own, own] = blocks.numpy().swapaxes(1, 2)
    return turns


@numba.njit(nogil=True, cache=True)
def _importance(rows: Float32, which: NDArray[np.int64]) -> Float64:
    """(M,) logarithm of volume × opacity of rows (N, C), which no motion changes the order of."""
    found = np.empty(len(which))
    for m, n in enumerate(which):
        row = rows[n]
        size = row[LOG_SCALE] + row[LOG_SCALE + 1] + row[LOG_SCALE + 2]
        found[m] = size - math.log1p(math.exp(-row[LOGIT]))
    return found


@numba.njit(nogil=True, cache=True)
def _place(
    rows: Float32,  # (N, C) parameters
    which: NDArray[np.int64],  # (M,)
    motion: Float64,  # (4, 4) similarity
    factor: float,  # its scale
    turn: Float64,  # (4,) wxyz, its rotation
    means: Float32,  # (M, 3), written as all that follow
    quats: Float32,  # (M, 4)
    scales: Float32,  # (M, 3)
    opacities: Float32,  # (M,)
    sh: Float32,  # (M, 3 and more), written in its first three columns
) -> None:
    """Parameters → splats, moved, but for what of their colour depends on the direction."""
    w, x, y, z = turn
    for m, n in enumerate(which):
        row = rows[n]
        for k in range(3):
            moved = motion[k, 3]
            for i in range(3):
                moved += motion[k, i] * row[MEAN + i]
            means[m, k] = moved
            scales[m, k] = factor * math.exp(row[LOG_SCALE + k])
        a, b, c, d = row[QUAT], row[QUAT + 1], row[QUAT + 2], row[QUAT + 3]
        norm = 1.0 / math.sqrt(1e-12 + a * a + b * b + c * c + d * d)
        quats[m, 0] = norm * (w * a - x * b - y * c - z * d)
        quats[m, 1] = norm * (w * b + x * a + y * d - z * c)
        quats[m, 2] = norm * (w * c - x * d + y * a + z * b)
        quats[m, 3] = norm * (w * d + x * c - y * b + z * a)
        opacities[m] = 1.0 / (1.0 + math.exp(-row[LOGIT]))
        for rgb in range(3):
            sh[m, rgb] = (row[COLOR + rgb] - 0.5) / C0

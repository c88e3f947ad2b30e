"""Chunks brought into one frame: float32 about an origin in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from gs_decoder.chunk import Chunk
from gs_decoder.rotations import left_multiplication, quaternion_from_matrix, split_similarity
from gs_decoder.sh import rotate_sh
from gs_decoder.splats import Splats

# Up to here float32 resolves a quarter of a millimetre, and an origin would only be in the way.
_NEAR = 4096.0


def world_origin(chunks: Iterable[Chunk]) -> np.ndarray:
    """(3,) float64 whole metres: zeros for a map near its origin, else the middle of its poses.

    Relative to it, a map in UTM coordinates keeps its millimetres in float32.
    """
    positions = np.array([chunk.T_world_chunk[:3, 3] for chunk in chunks]).reshape(-1, 3)
    if len(positions) == 0 or float(np.abs(positions).max()) <= _NEAR:
        return np.zeros(3)
    return np.round(np.median(positions, axis=0))


def prefix_counts(counts: Sequence[int], limit: int | None) -> list[int]:
    """How many of each chunk's splats stay when all together may be `limit`.

    Chunks are ordered by importance, so each keeps the same share of its best.
    """
    total = sum(counts)
    if limit is None or total <= limit:
        return list(counts)
    if limit < 0:
        raise ValueError(f"max_splats is {limit}: give 0 or more, or None for all")
    ends = np.floor(np.cumsum([0, *counts]) * (limit / total)).astype(int)
    return np.diff(ends).tolist()


def to_world(
    chunks: Sequence[Chunk],
    *,
    origin: npt.ArrayLike | None = None,
    max_splats: int | None = None,
) -> Splats:
    """All splats of `chunks`, one chunk after the other, in world axes, relative to `origin`.

    Args:
        origin: (3,) float64 metres, subtracted in float64 before anything becomes float32;
            None: zeros.
        max_splats: cut every chunk to its best, so that at most this many remain.

    Returns:
        float32 Splats of the highest SH degree among the chunks.
    """
    counts = prefix_counts([chunk.count for chunk in chunks], max_splats)
    total = sum(counts)
    degree = max((chunk.splats.sh_degree for chunk in chunks), default=0)
    base = np.zeros(3) if origin is None else np.asarray(origin, dtype=np.float64)
    if base.shape != (3,) or not np.isfinite(base).all():
        raise ValueError(f"origin is {origin!r}: give three finite metres")
    means, quats, scales = torch.empty(total, 3), torch.empty(total, 4), torch.empty(total, 3)
    opacities, sh = torch.empty(total), torch.zeros(total, (degree + 1) ** 2, 3)
    start = 0
    for chunk, count in zip(chunks, counts, strict=True):
        if count == 0:
            continue
        here = slice(start, start + count)
        T = split_similarity(chunk.T_world_chunk)
        linear = torch.from_numpy(T.scale * T.rotation).float()
        offset = torch.from_numpy(T.translation - base).float()
        turn = left_multiplication(quaternion_from_matrix(torch.from_numpy(T.rotation))).float()
        splats = chunk.splats
        torch.addmm(offset, splats.means[:count], linear.mT, out=means[here])
        torch.matmul(splats.quats_wxyz[:count], turn.mT, out=quats[here])
        torch.mul(splats.scales[:count], T.scale, out=scales[here])
        opacities[here] = splats.opacities[:count]
        sh[here, : splats.sh.shape[1]] = rotate_sh(splats.sh[:count], T.rotation)
        start += count
    return Splats(means, quats, scales, opacities, sh)

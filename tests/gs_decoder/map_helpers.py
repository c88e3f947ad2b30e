"""Random but valid splats, poses and chunks for the tests of the map."""

from __future__ import annotations

import numpy as np
import torch

from gs_decoder import ChunkMeta, Splats


def random_splats(count: int, seed: int = 0, sh_degree: int = 0, spread: float = 1.0) -> Splats:
    """`count` float32 splats with unit quaternions."""
    generator = torch.Generator().manual_seed(seed)
    quats = torch.randn(count, 4, generator=generator)
    return Splats(
        means=spread * torch.randn(count, 3, generator=generator),
        quats_wxyz=torch.nn.functional.normalize(quats, dim=-1),
        scales=0.01 + 0.05 * torch.rand(count, 3, generator=generator),
        opacities=0.05 + 0.9 * torch.rand(count, generator=generator),
        sh=0.5 * torch.randn(count, (sh_degree + 1) ** 2, 3, generator=generator),
    )


def random_rotation(seed: int) -> np.ndarray:
    """(3, 3) float64, determinant +1."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def random_similarity(seed: int, scale: float | None = None) -> np.ndarray:
    """(4, 4) float64."""
    generator = np.random.default_rng(seed + 1000)
    T = np.eye(4)
    T[:3, :3] = random_rotation(seed) * (generator.uniform(0.5, 2.0) if scale is None else scale)
    T[:3, 3] = generator.normal(size=3) * 3
    return T


def chunk_meta(frame: int = 0, pose: np.ndarray | None = None) -> ChunkMeta:
    """The key frame `frame` of a camera, at the world's origin unless a pose is given."""
    return ChunkMeta(
        frame_seq=frame,
        stamp_ns=frame * 1_000_000,
        camera="front",
        T_world_chunk=np.eye(4) if pose is None else pose,
    )

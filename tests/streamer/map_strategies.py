"""Random maps and changes of maps, for the tests of everything that carries them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gs_decoder import ChunkMeta, SplatMap, Splats

seeds = st.integers(0, 2**32 - 1)


def random_splats(seed: int, count: int, sh_degree: int = 0) -> Splats:
    """Splats with plausible values, different for every seed."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    return Splats.from_numpy(
        {
            "means": rng.normal(size=(count, 3)).astype(np.float32) * 3,
            "quats_wxyz": quats.astype(np.float32),
            "scales": np.exp(rng.uniform(-6, 0, (count, 3))).astype(np.float32),
            "opacities": rng.uniform(0, 1, count).astype(np.float32),
            "sh": rng.normal(size=(count, (sh_degree + 1) ** 2, 3)).astype(np.float32),
        }
    )


def random_similarity(seed: int) -> np.ndarray:
    """A (4, 4) float64 similarity."""
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    matrix = np.eye(4)
    matrix[:3, :3] = q * np.exp(rng.uniform(-0.5, 0.5))
    matrix[:3, 3] = rng.normal(size=3) * 10
    return matrix


def random_meta(seed: int) -> ChunkMeta:
    """The key frame of a chunk."""
    return ChunkMeta(
        frame_seq=seed % 1000,
        stamp_ns=1_700_000_000_000_000_000 + seed,
        camera=f"camera {seed % 3}",
        T_world_chunk=random_similarity(seed),
    )


operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "replace", "move", "move", "drop", "reset"]),
        seeds,
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=12,
)
"""What may happen to a map: (operation, seed, number of splats)."""


def perform(splat_map: SplatMap, operation: str, seed: int, count: int) -> None:
    """One of :data:`operations` on a map; nothing where there is no chunk to do it to."""
    ids = sorted(splat_map.chunks)
    if operation == "add":
        splat_map.add(random_meta(seed), random_splats(seed, count, seed % 3))
    elif operation == "reset":
        if seed % 4 == 0:
            splat_map.reset()
    elif ids:
        chosen = ids[seed % len(ids)]
        if operation == "replace":
            splat_map.replace(chosen, random_splats(seed, count, seed % 3))
        elif operation == "move":
            splat_map.move({i: random_similarity(seed + i) for i in ids[seed % len(ids) :]})
        else:
            splat_map.drop([chosen])

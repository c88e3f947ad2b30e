"""A view of a map, however far from its origin it lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from gs_decoder import Chunk, Render, rasterize, to_world, world_origin


def render_chunks(
    chunks: Sequence[Chunk],
    c2w: npt.ArrayLike,
    K: npt.ArrayLike,
    width: int,
    height: int,
) -> Render:
    """The chunks seen from a pinhole camera, before black.

    Args:
        c2w: (4, 4) camera-to-world in the sender's world, OpenCV axes.
        K: (3, 3) intrinsics, pixels, the first pixel's centre at (0.5, 0.5).
        width, height: pixels.
    """
    origin = world_origin(chunks)
    splats = to_world(chunks, origin=origin)
    pose = np.array(c2w, np.float64).reshape(4, 4)
    pose[:3, 3] -= origin
    with torch.no_grad():
        return rasterize(
            splats.means,
            splats.quats_wxyz,
            splats.scales,
            splats.opacities,
            splats.sh,
            torch.from_numpy(np.linalg.inv(pose)).float(),
            torch.from_numpy(np.array(K, np.float64).reshape(3, 3)).float(),
            width,
            height,
            sh_degree=splats.sh_degree,
        )

"""One picture of splats, however far from the world's origin they lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from gs_decoder.raster import Render, rasterize
from gs_decoder.splats import Splats


def local_viewmat(c2w: npt.ArrayLike, origin: npt.ArrayLike) -> np.ndarray:
    """(4, 4) float64 world-to-camera for points that are relative to `origin`.

    Args:
        c2w: (4, 4) rigid camera-to-world, OpenCV axes. origin: (3,) in the same world.
    """
    pose = np.array(c2w, np.float64).reshape(4, 4)
    # In float64, before anything becomes float32: UTM coordinates keep their millimetres.
    pose[:3, 3] -= np.asarray(origin, np.float64)
    viewmat = np.eye(4)
    viewmat[:3, :3] = pose[:3, :3].T
    viewmat[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return viewmat


def render_view(
    splats: Splats,
    c2w: npt.ArrayLike,
    K: npt.ArrayLike,
    width: int,
    height: int,
    *,
    origin: npt.ArrayLike = (0.0, 0.0, 0.0),
    background: npt.ArrayLike | None = None,
    backend: str = "auto",
) -> Render:
    """Splats (N, …) in world axes, seen from a pinhole camera; no gradients.

    Args:
        c2w: (4, 4) rigid camera-to-world in the world, OpenCV axes.
        K: (3, 3) intrinsics, pixels, the first pixel's centre at (0.5, 0.5).
        width, height: pixels.
        origin: (3,) float64 that the means are relative to.
        background: (3,) rgb, 0..1, behind everything; None: black.
        backend: of `rasterize`.

    Raises:
        RasterError: an argument that cannot be drawn with.
    """
    device = splats.means.device
    behind = None
    if background is not None:
        behind = torch.from_numpy(np.array(background, np.float32)).to(device)
    with torch.no_grad():
        return rasterize(
            splats.means,
            splats.quats_wxyz,
            splats.scales,
            splats.opacities,
            splats.sh,
            torch.from_numpy(local_viewmat(c2w, origin)).float().to(device),
            torch.from_numpy(np.array(K, np.float64).reshape(3, 3)).float().to(device),
            width,
            height,
            sh_degree=splats.sh_degree,
            background=behind,
            backend=backend,
        )

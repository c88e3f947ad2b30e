"""The surface that a pixel of a map shows, for those who measure what they see."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gs_decoder.raster import NumbaRasterizer
from gs_decoder.splats import Splats
from gs_decoder.view import local_viewmat

Float32 = npt.NDArray[np.float32]

WINDOW = 0.05
"""What lies within this share of the median depth is one surface."""


class SurfaceView(NamedTuple):
    """What a camera sees, float32; all but rgb are 0 where nothing was hit."""

    rgb: Float32
    """(H, W, 3), the background blended in where light is left."""
    depth: Float32
    """(H, W) z-depth of the surface: about the depth at which half of the light is passed."""
    alpha: Float32
    """(H, W) sum of the blending weights, 0..1."""
    share: Float32
    """(H, W) the part of them that belongs to splats of this surface."""
    sigma: Float32
    """(H, W) standard deviation in pixels of those splats: finer than they are nothing is known."""


class SurfaceRenderer:
    """Looks at splats for their surfaces, always with the CPU's kernels.

    The expected depth of `rasterize` is the mean of all that a pixel shows: between two surfaces at
    an edge, before a wall that is seen through mist. This is that of one surface.

    Args:
        splats: (N, …) world axes, means relative to `origin` (3,).
        window: what lies within this share of the median depth is one surface.
    """

    def __init__(
        self, splats: Splats, origin: npt.ArrayLike = (0.0, 0.0, 0.0), *, window: float = WINDOW
    ) -> None:
        self._arrays = splats.to_numpy()
        self._degree = splats.sh_degree
        self._origin = np.asarray(origin, np.float64)
        self._window = window
        self._rasterizer = NumbaRasterizer()

    def render(
        self,
        c2w: npt.ArrayLike,
        K: npt.ArrayLike,
        width: int,
        height: int,
        *,
        background: npt.ArrayLike | None = None,
    ) -> SurfaceView:
        """The splats from a pinhole camera.

        Args:
            c2w: (4, 4) rigid camera-to-world in the world, OpenCV axes.
            K: (3, 3) intrinsics, pixels, the first pixel's centre at (0.5, 0.5).
            width, height: pixels.
            background: (3,) rgb, 0..1; None: black.
        """
        a = self._arrays
        render = self._rasterizer.forward(
            a["means"],
            a["quats_wxyz"],
            a["scales"],
            a["opacities"],
            a["sh"],
            local_viewmat(c2w, self._origin),
            K,
            width,
            height,
            sh_degree=self._degree,
            background=background,
        )
        depth, share, sigma = self._rasterizer.median_depth(render, self._window)
        return SurfaceView(render.rgb, depth, render.alpha, share, sigma)

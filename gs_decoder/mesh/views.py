"""What a map's surfaces look like from its cameras, and from a little beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gs_decoder.mesh.volume import DepthView
from gs_decoder.raster import NumbaRasterizer
from gs_decoder.splats import Splats
from gs_decoder.view import local_viewmat

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MeshCamera:
    """A pinhole camera that a map is looked at from."""

    c2w: Float64
    """(4, 4) rigid, the map's world, OpenCV axes."""
    K: Float64
    """(3, 3), pixels."""
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """Attributes:
    min_alpha: pixels that the map covers less show no surface.
    window: what lies within this share of the median depth is one surface.
    min_share: pixels with a smaller part of their weight there show none.
    side_step: how far a camera beside a given one stands, of the distance to what is near.
    side_turn_deg: and how far it is turned.
    """

    min_alpha: float = 0.5
    window: float = 0.05
    min_share: float = 0.2
    side_step: float = 0.25
    side_turn_deg: float = 12.0


class SurfaceRenderer:
    """Looks at splats (N, …), which are relative to `origin`, for their surfaces. On the CPU."""

    def __init__(self, splats: Splats, origin: Float64, config: ViewConfig) -> None:
        self._arrays = splats.to_numpy()
        self._degree = splats.sh_degree
        self._origin = origin
        self._config = config
        self._rasterizer = NumbaRasterizer()

    def view(self, camera: MeshCamera) -> DepthView:
        """Depth where it is that of one surface, and how sure it is."""
        a, config = self._arrays, self._config
        render = self._rasterizer.forward(
            a["means"],
            a["quats_wxyz"],
            a["scales"],
            a["opacities"],
            a["sh"],
            local_viewmat(camera.c2w, self._origin),
            camera.K,
            camera.width,
            camera.height,
            sh_degree=self._degree,
        )
        depth, share, _ = self._rasterizer.median_depth(render, config.window)
        alpha = render.alpha
        surface = (alpha >= config.min_alpha) & (share >= config.min_share)
        rgb = render.rgb / np.maximum(alpha, 1e-6)[..., None]
        local = camera.c2w.copy()
        local[:3, 3] -= self._origin
        return DepthView(
            depth=np.where(surface, depth, np.float32(0.0)),
            confidence=np.where(surface, (alpha * share) ** 2, np.float32(0.0)),
            colour=np.round(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8),
            K=np.ascontiguousarray(camera.K, np.float64),
            c2w=local,
        )


def cameras_beside(
    camera: MeshCamera, view: DepthView, number: int, config: ViewConfig
) -> Iterator[MeshCamera]:
    """Two cameras beside a given one, which see a little behind its edges.

    They stand within a ball in which the given one saw nothing, and `number` turns the direction
    in which they are moved, so that neighbours are not moved alike.
    """
    near = view.depth[view.depth > 0]
    if not len(near):
        return
    step = config.side_step * float(np.percentile(near, 2.0))
    golden = np.pi * (3.0 - np.sqrt(5.0)) * number
    for angle in (golden, golden + np.pi):
        aside = np.array([np.cos(angle), np.sin(angle), 0.0])
        pose = camera.c2w.copy()
        pose[:3, 3] += pose[:3, :3] @ (step * aside)
        # Turned back towards what is before it: new sides of the same things.
        pose[:3, :3] = pose[:3, :3] @ _turn(aside, -np.radians(config.side_turn_deg))
        yield MeshCamera(pose, camera.K, camera.width, camera.height)


def evenly(cameras: Sequence[MeshCamera], most: int) -> list[MeshCamera]:
    """At most so many of them, evenly through the list."""
    if len(cameras) <= most:
        return list(cameras)
    return [cameras[i] for i in np.linspace(0, len(cameras) - 1, most).round().astype(int)]


def _turn(aside: Float64, angle: float) -> Float64:
    """(3, 3) rotation of the optical axis towards `aside` (a unit vector across it)."""
    x, y = aside[0], aside[1]
    axis = np.array([-y, x, 0.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)

"""What a map's surfaces look like from its cameras, and from a little beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gs_decoder.mesh.complete import CompletionConfig, complete_depth
from gs_decoder.mesh.volume import DepthView
from gs_decoder.splats import Splats
from gs_decoder.surface import SurfaceRenderer

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
    min_share: pixels with a smaller part of their weight on one surface are not sure of it.
    completion: how depth is carried on into what is not sure; None: it is not, and pixels below
        `min_share` show no surface.
    least_confidence: of a pixel whose depth others decided.
    side_step: how far a camera beside a given one stands, of the distance to what is near.
    side_turn_deg: and how far it is turned.
    """

    min_alpha: float = 0.5
    min_share: float = 0.2
    completion: CompletionConfig | None = field(default_factory=CompletionConfig)
    least_confidence: float = 0.05
    side_step: float = 0.25
    side_turn_deg: float = 12.0


class DepthRenderer:
    """Looks at splats (N, …), which are relative to `origin`, for their surfaces."""

    def __init__(self, splats: Splats, origin: Float64, config: ViewConfig) -> None:
        self._surfaces = SurfaceRenderer(splats, origin)
        self._origin = origin
        self._config = config

    def view(self, camera: MeshCamera) -> DepthView:
        """Depth where it is that of one surface, and how sure it is."""
        config = self._config
        seen = self._surfaces.render(camera.c2w, camera.K, camera.width, camera.height)
        plain = seen.rgb / np.maximum(seen.alpha, 1e-6)[..., None]
        rgb = np.asarray(np.clip(plain, 0.0, 1.0), np.float32)
        covered = seen.alpha >= config.min_alpha
        sure = covered & (seen.share >= config.min_share)
        depth = np.where(sure, seen.depth, np.float32(0.0))
        confidence = np.where(sure, (seen.alpha * seen.share) ** 2, np.float32(0.0))
        if config.completion is not None:
            wide = seen.sigma / (config.completion.detail * max(camera.width, camera.height))
            depth, left = complete_depth(
                depth, confidence / (1.0 + wide**4), rgb, config.completion
            )
            depth = np.where(covered, depth, np.float32(0.0))
            least = np.float32(config.least_confidence)
            confidence = np.where(covered, np.maximum(left, least), np.float32(0.0))
        local = camera.c2w.copy()
        local[:3, 3] -= self._origin
        return DepthView(
            depth=depth,
            confidence=confidence,
            colour=np.round(rgb * 255.0).astype(np.uint8),
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

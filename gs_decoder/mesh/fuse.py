"""From a map of splats to a mesh: rendered depth, fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gs_decoder.mesh.triangles import Mesh
from gs_decoder.mesh.views import (
    DepthRenderer,
    Float64,
    MeshCamera,
    ViewConfig,
    cameras_beside,
    evenly,
)
from gs_decoder.mesh.volume import (
    BLOCK_BYTES,
    DepthView,
    MeshError,
    TsdfVolume,
    surface_blocks,
)
from gs_decoder.splats import Splats

_PIXELS = 3.0
_ROUGHER = 1.15
"""A voxel grows at least by so much when the blocks do not fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """Attributes:
    voxel: side in world units; None: what three pixels cover at the median depth that is seen.
        Splats are seldom more exact, and finer voxels only show how they are not.
    memory_bytes: bound of the volume; the voxel grows until it is met.
    truncation_voxels: distance before and behind a surface that is averaged.
    max_cameras: more are thinned out evenly.
    beside: also look from two places beside every camera.
    least_weight: weight from which a voxel counts as seen; a clear view of it gives nearly 1, a
        misty one a tenth, one that looks at something right before it less.
    close_holes: voxels by which surfaces are carried on from all sides into what was not seen;
        what closes a hole wholly stays. So holes up to twice as wide are closed; 0 for none.
    floater_share: connected parts with less of the whole area are removed.
    """

    voxel: float | None = None
    memory_bytes: int = 1 << 30
    truncation_voxels: float = 6.0
    max_cameras: int = 200
    beside: bool = True
    least_weight: float = 0.02
    close_holes: int = 8
    floater_share: float = 0.002
    views: ViewConfig = field(default_factory=ViewConfig)


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """A mesh and how it was made."""

    mesh: Mesh
    voxel: float
    views: int
    blocks: int


def mesh_splats(
    splats: Splats,
    cameras: Sequence[MeshCamera],
    *,
    origin: Float64 | None = None,
    config: MeshConfig | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fusion:
    """The surfaces of a map as a coloured mesh.

    Args:
        splats: (N, …) world axes, relative to `origin` (3,).
        cameras: from where the map can be looked at, at least one.
        progress: called with steps done and steps in all.

    Raises:
        MeshError: no camera sees a surface, or a voxel that does not fit the map.
    """
    config = config or MeshConfig()
    base = np.zeros(3) if origin is None else np.asarray(origin, np.float64)
    if not cameras:
        raise MeshError("--cameras: there are none: give poses from which the map can be seen")
    if config.voxel is not None and not config.voxel > 0:
        raise MeshError(f"--voxel is {config.voxel:g}; a length above 0 in the map's units")
    chosen = evenly(cameras, config.max_cameras)
    total = len(chosen) * (2 if not config.beside else 4)
    renderer = DepthRenderer(splats, base, config.views)
    views: list[DepthView] = []
    for number, camera in enumerate(chosen):
        view = renderer.view(camera)
        views.append(view)
        if config.beside:
            beside = cameras_beside(camera, view, number, config.views)
            views += [renderer.view(other) for other in beside]
        progress(total * (number + 1) // (2 * len(chosen)), total)
    voxel, keys = _choose_voxel(views, config)
    volume = TsdfVolume(keys, voxel, config.truncation_voxels * voxel)
    for number, view in enumerate(views):
        volume.integrate(view)
        progress(total // 2 + (total - total // 2) * (number + 1) // len(views), total)
    mesh = volume.surface(config.least_weight, config.close_holes)
    mesh = mesh.without_floaters(config.floater_share)
    if not len(mesh.faces):
        raise MeshError("the map has no surface that its cameras see clearly: refine it longer")
    return Fusion(replace(mesh, origin=base), voxel, len(views), volume.blocks)


def _choose_voxel(views: Sequence[DepthView], config: MeshConfig) -> tuple[float, np.ndarray]:
    """A voxel and its blocks' keys, within the memory allowed."""
    footprints = [view.depth[view.depth > 0] / view.K[0, 0] for view in views]
    seen = np.concatenate([f[:: max(1, len(f) // 1000)] for f in footprints])
    if not len(seen):
        raise MeshError("no camera sees a surface of the map: are its poses in the map's world?")
    voxel = config.voxel or _PIXELS * float(np.median(seen))
    most = max(1, config.memory_bytes // BLOCK_BYTES)
    while True:
        keys = surface_blocks(views, voxel, config.truncation_voxels * voxel)
        if len(keys) <= most:
            return voxel, keys
        if config.voxel is not None:
            raise MeshError(
                f"--voxel: {voxel:g} needs {len(keys) * BLOCK_BYTES / 1e6:.0f} MB, --memory allows "
                f"{config.memory_bytes / 1e6:.0f}: give more of either"
            )
        # The blocks of a surface grow with the square of their number on a side.
        voxel *= max(_ROUGHER, float(np.sqrt(len(keys) / most)))

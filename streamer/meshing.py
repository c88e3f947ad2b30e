"""A map and its cameras to a mesh, and the mesh to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gs_decoder.mesh import (
    Fusion,
    Mesh,
    MeshCamera,
    MeshConfig,
    decode_glb,
    encode_glb,
    encode_mesh_ply,
    mesh_splats,
)
from gs_decoder.ply import write_aside
from streamer.camera import CameraModel
from streamer.camera_paths import mean_up
from streamer.map_source import OpenMap
from streamer.trajectory import UNKNOWN_LENS

_LONG_SIDE = 320
"""Pixels of the pictures that are fused: finer than this no map of today is."""


def mesh_map(
    world: OpenMap,
    *,
    config: MeshConfig | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fusion:
    """The map's surfaces as its cameras see them (`gs_decoder.mesh.mesh_splats`).

    Raises:
        MapError: a map without cameras.
        MeshError: as `mesh_splats`.
    """
    known = world.known_cameras()
    models = known.cameras or (UNKNOWN_LENS,) * len(known.c2w)
    cameras = [
        MeshCamera(pose, model.K, model.width, model.height)
        for pose, model in zip(known.c2w, map(_reduced, models), strict=True)
    ]
    return mesh_splats(world.splats, cameras, origin=world.origin, config=config, progress=progress)


def up_of(name: str, world: OpenMap) -> np.ndarray:
    """(3,) of `x` … `-z`, or of `auto`: as the cameras were held."""
    if name == "auto":
        return mean_up(world.known_cameras().c2w)
    up = np.zeros(3)
    up["xyz".index(name[-1])] = -1.0 if name.startswith("-") else 1.0
    return up


def write_mesh(path: Path, mesh: Mesh, *, up: np.ndarray) -> int:
    """A .ply or .glb, written aside and renamed; its size in bytes."""
    if path.suffix.lower() == ".glb":
        data = encode_glb(mesh, up=up)
        # Read before it is written: a file that does not open helps nobody.
        assert len(decode_glb(data).faces) == len(mesh.faces)
    else:
        data = encode_mesh_ply(mesh)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, data)
    return len(data)


def _reduced(model: CameraModel) -> CameraModel:
    """The camera at the size that is fused; lenses are taken as pinholes."""
    scale = _LONG_SIDE / max(model.width, model.height)
    return model.scaled(max(1, round(model.width * scale)), max(1, round(model.height * scale)))

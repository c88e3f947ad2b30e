"""The mesh of a room of splats, whose walls are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from splat_room import CAMERA, HALF, room_poses, room_splats

from gs_decoder import Splats
from gs_decoder.mesh import (
    CompletionConfig,
    MeshCamera,
    MeshConfig,
    MeshError,
    ViewConfig,
    draw_mesh,
    mesh_splats,
)


def cameras(origin: np.ndarray | None = None) -> list[MeshCamera]:
    poses = room_poses(12)
    poses[:, :3, 3] += 0.0 if origin is None else origin
    return [MeshCamera(pose, CAMERA.K, CAMERA.width, CAMERA.height) for pose in poses]


@pytest.mark.parametrize("origin", [np.zeros(3), np.array([4e5, 5.4e6, 120.0])])
def test_walls_are_where_they_are_and_whole(origin: np.ndarray) -> None:
    steps: list[tuple[int, int]] = []
    fusion = mesh_splats(
        room_splats(),
        cameras(origin),
        origin=origin,
        progress=lambda done, total: steps.append((done, total)),
    )
    mesh = fusion.mesh
    assert np.array_equal(mesh.origin, origin)
    assert fusion.views == 36
    assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]
    # Every vertex is on a wall: the distance to the box's surface.
    outside = np.abs(mesh.vertices) - HALF
    off = np.abs(outside.max(axis=1))
    assert off.max() < fusion.voxel
    assert off.mean() < 0.4 * fusion.voxel
    assert (mesh.vertices[mesh.faces].mean(1) * mesh.normals()[mesh.faces].mean(1)).sum(1).max() < 0
    # No hole: from cameras between the given ones every pixel meets a wall (but at the rim, where
    # they see farther up and down than those did).
    for pose in room_poses(7)[1:]:
        pose = pose.copy()
        pose[:3, 3] += origin
        depth, rgb = draw_mesh(mesh, pose, CAMERA.K, CAMERA.width, CAMERA.height)
        assert (depth[20:-20, 8:-8] > 0).all()
        # The wall's colour: that of the axis it stands across stands out.
        x, y = (pose @ [0.0, 0.0, depth[36, 48], 1.0])[:2] - origin[:2]
        axis = 0 if abs(x) / HALF[0] > abs(y) / HALF[1] else 1
        assert rgb[36, 48].argmax() == axis


def test_a_plain_wall_is_closed_before_the_wide_splats_that_stand_for_it() -> None:
    # Where prediction was not sure a map has a few wide splats far behind, of the right colour.
    splats = room_splats(grain=0.0)
    x, y, z = splats.means.numpy().T
    patch = (x > HALF[0] - 1e-3) & (np.abs(y) < 0.5) & (np.abs(z) < 0.4)
    y, z = (a.ravel() for a in np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-0.8, 0.8, 5)))
    count = len(y)
    wide = Splats(
        means=torch.from_numpy(np.stack([np.full(count, 2 * HALF[0]), y, z], 1)).float(),
        quats_wxyz=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        scales=torch.tensor([0.05, 0.3, 0.3]).repeat(count, 1),
        opacities=torch.full((count,), 0.9),
        sh=splats.sh[np.flatnonzero(patch)[:1]].repeat(count, 1, 1),
    )
    world = Splats.cat([splats.select(np.flatnonzero(~patch)), wide])
    look = room_poses(12)[0]
    wall = HALF[0] - look[0, 3]
    right = {}
    for completion in (None, CompletionConfig()):
        config = MeshConfig(views=ViewConfig(completion=completion))
        mesh = mesh_splats(world, cameras(), config=config).mesh
        depth, _ = draw_mesh(mesh, look, CAMERA.K, CAMERA.width, CAMERA.height)
        right[completion is not None] = np.abs(depth[24:48, 32:64] / wall - 1.0) < 0.05
    assert right[False].mean() < 0.3
    assert right[True].mean() > 0.95


def test_memory_bounds_the_voxel() -> None:
    free = mesh_splats(room_splats(), cameras())
    tight = mesh_splats(room_splats(), cameras(), config=MeshConfig(memory_bytes=4 << 20))
    assert tight.voxel > 1.2 * free.voxel
    assert tight.blocks < 4 * (1 << 20) / 512 / 28 + 1
    assert np.abs((np.abs(tight.mesh.vertices) - HALF).max(axis=1)).max() < tight.voxel
    with pytest.raises(MeshError, match="--memory"):
        mesh_splats(room_splats(), cameras(), config=MeshConfig(voxel=0.01, memory_bytes=1 << 20))


def test_what_cannot_be_meshed_is_named() -> None:
    with pytest.raises(MeshError, match="--cameras"):
        mesh_splats(room_splats(), [])
    with pytest.raises(MeshError, match="--voxel"):
        mesh_splats(room_splats(), cameras(), config=MeshConfig(voxel=-1.0))
    away = cameras(np.array([100.0, 0.0, 0.0]))
    with pytest.raises(MeshError, match="sees a surface"):
        mesh_splats(room_splats(), away[:1])

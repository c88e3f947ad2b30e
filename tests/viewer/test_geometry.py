"""What the page guesses of the world and its cameras."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import viser.transforms

from gs_decoder import Chunk, Splats
from viewer.geometry import estimate_view, page_origin, up_direction


def looking(direction: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(4, 4) OpenCV pose at the origin."""
    z = direction / np.linalg.norm(direction)
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    return pose


@pytest.mark.parametrize("axis", [(0, 0, 1), (0, 1, 0), (0, -1, 0), (1, 0, 0)])
def test_up_is_the_world_axis_that_tilted_cameras_share(axis: tuple[int, int, int]) -> None:
    up = np.array(axis, float)
    sideways = np.roll(up, 1)
    poses = [
        looking(viser.transforms.SO3.exp(angle * up).as_matrix() @ sideways - 0.3 * up, up)
        for angle in np.linspace(0.0, 1.5, 5)
    ]
    np.testing.assert_array_equal(up_direction(poses), up)


def test_up_of_a_tilted_world_is_the_cameras_own() -> None:
    up = np.array([1.0, 1.0, 1.0]) / np.sqrt(3)
    poses = [looking(np.array([1.0, -1.0, 0.0]), up), looking(np.array([0.0, 1.0, -1.0]), up)]
    np.testing.assert_allclose(up_direction(poses), up, atol=1e-12)


def test_cameras_that_disagree_leave_z_up() -> None:
    poses = [looking(np.eye(3)[0], np.eye(3)[1]), looking(np.eye(3)[0], -np.eye(3)[1])]
    np.testing.assert_array_equal(up_direction(poses), [0, 0, 1])


def test_only_a_far_map_gets_an_origin() -> None:
    np.testing.assert_array_equal(page_origin(np.array([99.0, -99.0, 3.0])), np.zeros(3))
    far = np.array([4_500_000.4, -3.2, 7.9])
    np.testing.assert_array_equal(page_origin(far), np.round(far))


def chunk_of(means: torch.Tensor) -> Chunk:
    count = len(means)
    splats = Splats(
        means, torch.ones(count, 4), torch.ones(count, 3), torch.ones(count),
        torch.zeros(count, 1, 3),
    )  # fmt: skip
    return Chunk(
        id=0, revision=1, content=1, frame_seq=0, stamp_ns=0, camera="c",
        T_world_chunk=np.eye(4), aabb=np.zeros(6), splats=splats,
    )  # fmt: skip


def test_the_angle_of_view_is_that_of_the_splats() -> None:
    y, x = torch.meshgrid(
        torch.linspace(-0.4, 0.4, 80), torch.linspace(-0.6, 0.6, 120), indexing="ij"
    )
    z = 2.0 + torch.sin(7 * x)
    view = estimate_view(chunk_of(torch.stack([x * z, y * z, z], -1).reshape(-1, 3)))
    assert view is not None
    assert view.aspect == pytest.approx(1.5, rel=0.02)
    assert view.fov_y == pytest.approx(2 * np.arctan(0.4), rel=0.02)
    assert view.depth == pytest.approx(2.0, rel=0.15)


def test_a_few_splats_tell_nothing() -> None:
    assert estimate_view(chunk_of(torch.ones(10, 3))) is None

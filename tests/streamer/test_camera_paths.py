"""Camera ways: rigid, smooth, through the points they promise, at an even pace."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_room import room_poses

from streamer.camera_paths import as_recorded, common_target, mean_up, orbit, spline
from streamer.conventions import pose_from_wxyz


def walk(seed: int, count: int) -> np.ndarray:
    """(count, 4, 4) poses of a random walk that turns by less than half a turn a step."""
    generator = np.random.default_rng(seed)
    quats = np.cumsum(generator.normal(size=(count, 4)) * 0.2, 0)
    quats[:, 0] += 2.0
    places = np.cumsum(generator.normal(size=(count, 3)), 0)
    return np.stack([pose_from_wxyz(q, p) for q, p in zip(quats, places, strict=True)])


def assert_rigid(poses: np.ndarray) -> None:
    turns = poses[:, :3, :3]
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert (np.linalg.det(turns) > 0.99).all()
    assert (poses[:, 3] == [0.0, 0.0, 0.0, 1.0]).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 12), wanted=st.integers(2, 200))
def test_a_spline_is_rigid_and_keeps_its_ends(seed: int, count: int, wanted: int) -> None:
    poses = walk(seed, count)
    way = spline(poses, wanted)
    assert way.shape == (wanted, 4, 4)
    assert_rigid(way)
    assert np.allclose(way[0], poses[0], atol=1e-9)
    assert np.allclose(way[-1], poses[-1], atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(3, 10))
def test_a_spline_goes_through_its_points_at_an_even_pace(seed: int, count: int) -> None:
    poses = walk(seed, count)
    way = spline(poses, 4000)
    steps = np.linalg.norm(np.diff(way[:, :3, 3], axis=0), axis=1)
    for pose in poses:
        off = np.abs(way - pose).max(axis=(1, 2)).min()
        assert off < 5 * steps.max() + 1e-3
    # A step is a share of the way and of the turning, so none is longer than all of it at once.
    assert steps.max() < 3.0 * steps.mean()


def test_a_spline_smooths_the_tremble_of_many_poses() -> None:
    straight = np.tile(np.eye(4), (500, 1, 1))
    straight[:, 0, 3] = np.linspace(0.0, 10.0, 500)
    straight[:, 1, 3] = 0.01 * np.random.default_rng(3).normal(size=500)
    way = spline(straight, 100)
    assert np.abs(way[:, 1, 3]).max() < 0.05
    assert np.linalg.norm(np.diff(way[:, :3, 3], axis=0), axis=1).sum() < 10.2


def test_one_pose_is_a_standing_camera() -> None:
    pose = walk(1, 1)
    assert np.array_equal(spline(pose, 5), np.repeat(pose, 5, 0))
    assert np.array_equal(as_recorded(pose, np.array([7]), 30.0), pose)


def test_a_recorded_way_keeps_its_own_time() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0.0, 1.0, 5.0]
    stamps = np.array([10**9, 2 * 10**9, 4 * 10**9])
    way = as_recorded(poses, stamps, 4.0)
    assert np.allclose(way[:, 0, 3], [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(3, 50),
    radius=st.floats(0.1, 100.0),
    elevation=st.floats(-60.0, 60.0),
)
def test_an_orbit_looks_at_its_middle_upright(
    seed: int, count: int, radius: float, elevation: float
) -> None:
    generator = np.random.default_rng(seed)
    centre, up = generator.normal(size=3), generator.normal(size=3)
    way = orbit(centre, radius, up, count, elevation_deg=elevation)
    assert_rigid(way)
    ways = centre - way[:, :3, 3]
    assert np.allclose(np.linalg.norm(ways, axis=1), radius)
    assert np.allclose(way[:, :3, 2], ways / radius, atol=1e-9)
    unit = up / np.linalg.norm(up)
    assert np.allclose(-ways @ unit, radius * np.sin(np.radians(elevation)), atol=1e-6 * radius)
    # Upright: right is level, and the picture's down points down.
    assert np.allclose(way[:, :3, 0] @ unit, 0.0, atol=1e-9)
    assert (way[:, :3, 1] @ unit < 0).all()
    target = common_target(way)
    assert target is not None
    assert np.allclose(target, centre, atol=1e-6 * radius)


def test_cameras_that_look_outward_have_no_common_target() -> None:
    assert common_target(room_poses()) is None
    parallel = np.tile(np.eye(4), (5, 1, 1))
    parallel[:, 0, 3] = np.arange(5)
    assert common_target(parallel) is None


def test_up_is_the_worlds_axis_where_cameras_are_nearly_level() -> None:
    assert np.array_equal(mean_up(room_poses()), [0.0, 0.0, 1.0])
    # OpenCV's own axes: y is down.
    assert np.array_equal(mean_up(np.eye(4)[None]), [0.0, -1.0, 0.0])
    tilted = pose_from_wxyz([np.cos(0.3), np.sin(0.3), 0.0, 0.0], [0.0, 0.0, 0.0])[None]
    assert np.allclose(mean_up(tilted), -tilted[0, :3, 1])

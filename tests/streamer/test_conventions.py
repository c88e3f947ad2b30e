"""Every convention against cases worked out by hand, and properties of poses and quaternions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamer.conventions import (
    CONVENTIONS,
    ConventionError,
    PoseError,
    check_pose,
    interpolate_pose,
    inverse_pose,
    matrix_from_wxyz,
    pose_from_wxyz,
    to_opencv,
    wxyz_from_matrix,
    wxyz_from_xyzw,
    xyzw_from_wxyz,
)

quaternions = arrays(np.float64, 4, elements=st.floats(-1.0, 1.0)).filter(
    lambda quat: np.linalg.norm(quat) > 0.05
)
positions = arrays(np.float64, 3, elements=st.floats(-1e4, 1e4))

# A camera on a robot that looks along the body's forward axis, 0.2 m ahead, 0.5 m up: its
# optical axes written in the body's (x forward, y left, z up).
LOOKING_FORWARD = np.array(
    [
        [0.0, 0.0, 1.0, 0.2],
        [-1.0, 0.0, 0.0, 0.0],
        [0.0, -1.0, 0.0, 0.5],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def _axes(c2w: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    right, down, forward = (np.round(c2w[:3, i], 12).tolist() for i in range(3))
    return right, down, forward


@pytest.mark.parametrize("convention", ["opencv", "ros_optical"])
def test_opencv_axes_pass_unchanged(convention: str) -> None:
    pose = pose_from_wxyz([0.5, 0.5, -0.5, 0.5], [1.0, 2.0, 3.0])
    converted = to_opencv(pose, convention)
    np.testing.assert_array_equal(converted, pose)
    converted[0, 3] = 9.0
    assert pose[0, 3] == 1.0


@pytest.mark.parametrize("convention", ["opengl", "arkit"])
def test_upright_opengl_camera_looks_along_minus_z(convention: str) -> None:
    pose = np.eye(4)
    pose[:3, 3] = [1.0, 2.0, 3.0]
    c2w = to_opencv(pose, convention)
    assert _axes(c2w) == ([1, 0, 0], [0, -1, 0], [0, 0, -1])
    np.testing.assert_array_equal(c2w[:3, 3], [1.0, 2.0, 3.0])


def test_opengl_camera_turned_left_looks_along_minus_x() -> None:
    # 90° about +y (up): what looked along -z now looks along -x.
    pose = pose_from_wxyz([np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0], [0.0, 0.0, 0.0])
    right, down, forward = _axes(to_opencv(pose, "opengl"))
    assert forward == [-1, 0, 0]
    assert down == [0, -1, 0]
    assert right == [0, 0, -1]


def test_ros_body_at_the_origin_looks_forward_with_z_up() -> None:
    right, down, forward = _axes(to_opencv(np.eye(4), "ros_body", LOOKING_FORWARD))
    assert forward == [1, 0, 0]
    assert down == [0, 0, -1]
    assert right == [0, -1, 0]


def test_ros_body_that_turned_left_carries_its_camera_along() -> None:
    # Body at (10, 0, 0), turned 90° to the left: its forward is the world's +y.
    body = pose_from_wxyz([np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)], [10.0, 0.0, 0.0])
    c2w = to_opencv(body, "ros_body", LOOKING_FORWARD.reshape(16))
    right, down, forward = _axes(c2w)
    assert forward == [0, 1, 0]
    assert down == [0, 0, -1]
    assert right == [1, 0, 0]
    np.testing.assert_allclose(c2w[:3, 3], [10.0, 0.2, 0.5], atol=1e-12)


def test_ros_body_without_the_cameras_place_names_the_field() -> None:
    with pytest.raises(ConventionError, match="T_body_camera"):
        to_opencv(np.eye(4), "ros_body")


def test_unknown_convention_suggests_the_nearest() -> None:
    with pytest.raises(ConventionError, match=r"'openGL2'.*did you mean 'opengl'"):
        to_opencv(np.eye(4), "openGL2")
    with pytest.raises(ConventionError, match="known are opencv, opengl"):
        to_opencv(np.eye(4), "z-up")


@given(quaternions, positions, st.sampled_from(CONVENTIONS))
def test_every_convention_keeps_a_pose_rigid_and_its_place(
    quat_wxyz: np.ndarray, position: np.ndarray, convention: str
) -> None:
    pose = pose_from_wxyz(quat_wxyz, position)
    c2w = check_pose(to_opencv(pose, convention, LOOKING_FORWARD))
    if convention != "ros_body":
        np.testing.assert_array_equal(c2w[:3, 3], position)
    if convention in ("opengl", "arkit"):
        np.testing.assert_array_equal(to_opencv(c2w, convention), pose)


@given(quaternions)
def test_quaternion_round_trips(quat_wxyz: np.ndarray) -> None:
    unit = quat_wxyz / np.linalg.norm(quat_wxyz)
    np.testing.assert_array_equal(wxyz_from_xyzw(xyzw_from_wxyz(unit)), unit)
    back = wxyz_from_matrix(matrix_from_wxyz(unit))
    assert back[0] >= 0.0
    assert abs(abs(float(back @ unit)) - 1.0) < 1e-12


def test_quaternion_orders_by_hand() -> None:
    # 90° about z takes x to y; w = z = sqrt(1/2).
    half = np.sqrt(0.5)
    np.testing.assert_array_equal(wxyz_from_xyzw([0.0, 0.0, half, half]), [half, 0.0, 0.0, half])
    turned = matrix_from_wxyz([half, 0.0, 0.0, half]) @ [1.0, 0.0, 0.0]
    np.testing.assert_allclose(turned, [0.0, 1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(wxyz_from_matrix(np.eye(3)), [1.0, 0.0, 0.0, 0.0], atol=1e-15)


def test_zero_quaternion_is_refused() -> None:
    with pytest.raises(PoseError, match="0 0 0 0"):
        matrix_from_wxyz([0.0, 0.0, 0.0, 0.0])


@given(quaternions, positions)
def test_inverse_pose_inverts(quat_wxyz: np.ndarray, position: np.ndarray) -> None:
    pose = pose_from_wxyz(quat_wxyz, position)
    np.testing.assert_allclose(inverse_pose(pose) @ pose, np.eye(4), atol=1e-8)


@given(quaternions, st.floats(0.0, 1.0), st.floats(0.01, 3.1))
def test_interpolation_turns_at_constant_speed(
    axis: np.ndarray, weight: float, angle: float
) -> None:
    unit_axis = axis[1:] / max(np.linalg.norm(axis[1:]), 1e-3)
    if np.linalg.norm(unit_axis) < 0.5:
        unit_axis = np.array([0.0, 0.0, 1.0])

    def turned(by: float) -> np.ndarray:
        return pose_from_wxyz([np.cos(by / 2), *(np.sin(by / 2) * unit_axis)], unit_axis * by)

    between = interpolate_pose(turned(0.0), turned(angle), weight)
    np.testing.assert_allclose(between, turned(weight * angle), atol=1e-9)


def test_interpolation_takes_the_short_way() -> None:
    # +170° and -170° about z lie 20° apart, over 180°.
    def about_z(degrees: float) -> np.ndarray:
        half = np.radians(degrees) / 2
        return pose_from_wxyz([np.cos(half), 0.0, 0.0, np.sin(half)], [0.0, 0.0, 0.0])

    between = interpolate_pose(about_z(170.0), about_z(-170.0), 0.5)
    np.testing.assert_allclose(between, about_z(180.0), atol=1e-12)


@given(quaternions, positions)
def test_good_poses_pass_as_nested_list_or_flat(
    quat_wxyz: np.ndarray, position: np.ndarray
) -> None:
    pose = pose_from_wxyz(quat_wxyz, position)
    np.testing.assert_array_equal(check_pose(pose.tolist()), pose)
    np.testing.assert_array_equal(check_pose(pose.reshape(16).tolist()), pose)


def test_rotation_off_by_less_than_the_tolerance_passes() -> None:
    pose = np.eye(4)
    pose[0, 1] = 5e-4
    check_pose(pose)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pose: pose.__setitem__((0, 3), np.nan), r"pose: entry \[0\]\[3\] is nan"),
        (lambda pose: pose.__setitem__((1, 1), np.inf), r"pose: entry \[1\]\[1\] is inf"),
        (lambda pose: pose.__setitem__((1, 3), -2e9), r"pose: 2e\+09 m from the origin"),
        (lambda pose: pose.__setitem__((slice(3), slice(3)), np.eye(3) * 2.0), "scaled by 2"),
        (lambda pose: pose.__setitem__((slice(3), slice(3)), np.diag([1, 1, -1])), "left-handed"),
        (lambda pose: pose.__setitem__((slice(3), slice(3)), np.zeros((3, 3))), "singular"),
        (lambda pose: pose.__setitem__((0, 1), 2e-3), "not orthonormal"),
        (lambda pose: pose.__setitem__((3, 3), 2.0), "last row is 0 0 0 2"),
    ],
)
def test_spoiled_pose_is_refused_by_name(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    pose = np.eye(4)
    spoil(pose)
    with pytest.raises(PoseError, match=message):
        check_pose(pose)


def test_transposed_pose_is_recognised() -> None:
    pose = pose_from_wxyz([1.0, 0.2, 0.0, 0.0], [1.0, 2.0, 3.0])
    with pytest.raises(PoseError, match="looks transposed"):
        check_pose(pose.T)


@pytest.mark.parametrize("value", ["north", [1.0] * 12, np.zeros((3, 3)), None, [[1, 2], [3]]])
def test_what_is_no_matrix_is_refused_by_field(value: object) -> None:
    with pytest.raises(PoseError, match=r"frames\[3\]"):
        check_pose(value, "frames[3]")  # type: ignore[arg-type]


def test_similarity_passes_where_it_is_allowed_and_a_mirror_never() -> None:
    pose = pose_from_wxyz([1.0, 0.2, 0.3, 0.0], [1.0, 2.0, 3.0])
    pose[:3, :3] *= 2.5
    check_pose(pose, allow_scale=True)
    with pytest.raises(PoseError, match=r"scaled by 2\.5"):
        check_pose(pose)
    pose[:3, 0] *= -1.0
    with pytest.raises(PoseError, match="left-handed"):
        check_pose(pose, allow_scale=True)

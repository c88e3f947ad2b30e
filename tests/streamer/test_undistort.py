"""Undistortion and scaling against pictures rendered through each lens by OpenCV's inverse model.

The scene is a smooth pattern on the plane z = 1, known at every point, so that the picture a
pinhole would have taken is known too. Displacement is measured block by block.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from test_camera import CAMERAS, cv2_intrinsics

from streamer.camera import CameraError, CameraModel
from streamer.undistort import ImageError, prepare_frame, working_size

STATED = {"seq": 7, "stamp_ns": 12, "camera_id": "front", "c2w": np.eye(4)}


def pattern(x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """A soft checker on the plane z = 1, 0 … 255."""
    wave = 2.0 * np.pi / period
    return 127.5 + 70.0 * np.sin(wave * x) * np.sin(wave * y) + 50.0 * np.sin(wave * (x - 0.7 * y))


def picture_by_lens(camera: CameraModel, period: float) -> np.ndarray:
    """The pattern as the lens shows it, by OpenCV's iterative inverse of the model."""
    centres = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1)
    K, distortion = cv2_intrinsics(camera)
    pixels = centres.reshape(-1, 1, 2).astype(np.float64)
    precise = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    if camera.model == "OPENCV_FISHEYE":
        rays = cv2.fisheye.undistortPoints(pixels, K, distortion, criteria=precise)
    else:
        rays = cv2.undistortPoints(pixels, K, distortion, criteria=precise)
    x, y = np.moveaxis(rays.reshape(camera.height, camera.width, 2), -1, 0)
    grey = np.clip(np.round(pattern(x, y, period)), 0, 255).astype(np.uint8)
    return np.stack([grey, grey, 255 - grey], axis=-1)


def picture_by_pinhole(K: np.ndarray, width: int, height: int, period: float) -> np.ndarray:
    """The pattern averaged over each pixel's area, 4x4 samples a pixel."""
    inside = (np.arange(4) + 0.5) / 4
    x = ((np.arange(width)[:, None] + inside).reshape(-1) - K[0, 2]) / K[0, 0]
    y = ((np.arange(height)[:, None] + inside).reshape(-1) - K[1, 2]) / K[1, 1]
    fine = pattern(x[None], y[:, None], period)
    return fine.reshape(height, 4, width, 4).mean(axis=(1, 3))


def displacements(got: np.ndarray, truth: np.ndarray, used: np.ndarray, block: int) -> np.ndarray:
    """[n, 2] shift in pixels of each block, by least squares on the truth's gradient."""
    gradient_y, gradient_x = np.gradient(truth)
    shifts = []
    for top in range(0, truth.shape[0] - block, block):
        for left in range(0, truth.shape[1] - block, block):
            window = (slice(top, top + block), slice(left, left + block))
            if not used[window].all():
                continue
            # Sampling may soften the picture: brightness and contrast are fitted along, so that
            # they do not pass for displacement.
            ones = np.ones((block, block))
            parts = (gradient_x[window], gradient_y[window], ones, truth[window])
            columns = np.stack([part.ravel() for part in parts], axis=-1)
            difference = (truth[window] - got[window]).ravel()
            shifts.append(np.linalg.lstsq(columns, difference, rcond=None)[0][:2])
    return np.array(shifts)


@pytest.mark.parametrize("model", CAMERAS)
@pytest.mark.parametrize("long_side", [None, 240, 100])
def test_picture_comes_out_where_a_pinhole_sees_it(model: str, long_side: int | None) -> None:
    camera = CAMERAS[model]
    # Some 12 working pixels a period: long enough for a gradient, short enough to localise.
    period = 12.0 * 640 / (long_side or 640) / camera.fxfycxcy[0]
    frame = prepare_frame(picture_by_lens(camera, period), camera, long_side=long_side, **STATED)
    height, width = frame.image.shape[:2]
    assert (width, height) == working_size(640, 480, long_side)
    truth = picture_by_pinhole(frame.K, width, height, period)
    used = np.ones((height, width), bool) if frame.valid is None else frame.valid
    assert used.mean() > 0.8
    shifts = displacements(frame.image[..., 0].astype(float), truth, used, block=18)
    assert len(shifts) >= 6
    assert np.abs(shifts.mean(axis=0)).max() < 0.02
    assert np.abs(shifts).max() < 0.05
    # The channels kept their places.
    opposite = 255 - frame.image[..., 0].astype(int) - frame.image[..., 2]
    assert np.abs(opposite[used]).max() <= 2


def test_displacement_measure_sees_half_a_pixel() -> None:
    K = np.array([[500.0, 0, 120.0], [0, 500.0, 80.0], [0, 0, 1.0]])
    moved = K.copy()
    moved[0, 2] += 0.5
    truth = picture_by_pinhole(K, 240, 160, 12.0 / 500.0)
    got = picture_by_pinhole(moved, 240, 160, 12.0 / 500.0)
    shifts = displacements(got, truth, np.ones_like(truth, bool), block=14)
    assert abs(shifts[:, 0].mean() - 0.5) < 0.1


def test_pinhole_of_working_size_passes_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    camera = CameraModel.pinhole(64, 48, 60.0, 61.0, 31.0, 25.0)
    frame = prepare_frame(image, camera, **STATED)
    np.testing.assert_array_equal(frame.image, image)
    np.testing.assert_array_equal(frame.K, camera.K)
    assert (frame.seq, frame.stamp_ns, frame.camera) == (7, 12, "front")
    assert frame.depth is None
    assert frame.valid is None


def test_colour_is_averaged_over_area() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    frame = prepare_frame(
        image, CameraModel.pinhole(64, 48, 60, 60, 32, 24), long_side=16, **STATED
    )
    means = image.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(frame.image - means).max() <= 0.51
    np.testing.assert_allclose(frame.K, [[15, 0, 8], [0, 15, 6], [0, 0, 1]])


def test_frame_smaller_than_its_camera_scales_the_intrinsics() -> None:
    camera = CameraModel.pinhole(640, 480, 500.0, 510.0, 322.5, 236.0)
    frame = prepare_frame(np.zeros((120, 160, 3), np.uint8), camera, **STATED)
    np.testing.assert_array_equal(frame.K, [[125.0, 0, 80.625], [0, 127.5, 59.0], [0, 0, 1]])


def test_grey_becomes_three_channels() -> None:
    grey = np.arange(64 * 48, dtype=np.uint8).reshape(48, 64)
    frame = prepare_frame(grey, CameraModel.pinhole(64, 48, 60, 60, 32, 24), **STATED)
    np.testing.assert_array_equal(frame.image, np.stack([grey] * 3, axis=-1))


def test_border_that_the_lens_never_saw_is_not_valid() -> None:
    # k > 0 pushes rays outwards: the pinhole picture asks for pixels beyond the lens's picture.
    camera = CameraModel("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, 0.3))
    frame = prepare_frame(np.full((480, 640, 3), 90, np.uint8), camera, long_side=160, **STATED)
    assert frame.valid is not None
    assert not frame.valid[0].any()
    assert not frame.valid[:, -1].any()
    assert frame.valid[60, 80]
    rays = np.stack(np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5), -1)
    K, distortion = cv2_intrinsics(camera)
    points = np.dstack([(rays - frame.K[:2, 2]) / frame.K[[0, 1], [0, 1]], np.ones((120, 160))])
    pixels, _ = cv2.projectPoints(points.reshape(-1, 3), np.zeros(3), np.zeros(3), K, distortion)
    u, v = np.moveaxis(pixels.reshape(120, 160, 2) + 0.5, -1, 0)
    well_inside = (u > 8) & (u < 632) & (v > 8) & (v < 472)
    outside = (u < 0) | (u > 640) | (v < 0) | (v > 480)
    assert frame.valid[well_inside].all()
    assert not frame.valid[outside].any()


@pytest.mark.parametrize("model", CAMERAS)
@pytest.mark.parametrize("fraction", [1, 2])
def test_depth_follows_the_picture_and_only_holds_measured_values(
    model: str, fraction: int
) -> None:
    # Depth that tells its own place: the pattern's plane, coded as column and row of the ray.
    camera = CAMERAS[model]
    small = camera.scaled(640 // fraction, 480 // fraction)
    K, distortion = cv2_intrinsics(small)
    centres = np.stack(np.meshgrid(np.arange(small.width), np.arange(small.height)), -1)
    pixels = centres.reshape(-1, 1, 2).astype(np.float64)
    if model == "OPENCV_FISHEYE":
        rays = cv2.fisheye.undistortPoints(pixels, K, distortion)
    else:
        rays = cv2.undistortPoints(pixels, K, distortion)
    x = rays.reshape(small.height, small.width, 2)[..., 0]
    depth = np.round(10000.0 + 5000.0 * x).astype(np.uint16)
    frame = prepare_frame(
        np.zeros((480, 640, 3), np.uint8),
        camera,
        long_side=240,
        depth=depth,
        depth_unit_m=0.001,
        **STATED,
    )
    assert frame.depth is not None
    assert frame.depth.dtype == np.float32
    seen = frame.depth > 0
    assert seen.mean() > 0.8
    expected = 10.0 + 5.0 * (np.arange(240) + 0.5 - frame.K[0, 2]) / frame.K[0, 0]
    # One depth sample beside the right one is the most that picking may be off.
    step = 5.0 * fraction / min(camera.fxfycxcy[:2]) * 1.5
    assert np.abs(frame.depth - expected[None])[seen].max() < step
    assert np.abs((frame.depth - expected[None])[seen].mean()) < 0.2 * step
    assert set(np.unique(np.round(frame.depth[seen] * 1000))) <= set(np.unique(depth))


def test_depth_edges_and_holes_are_never_mixed() -> None:
    depth = np.where(np.arange(64)[None] < 33, 1000, 3000).astype(np.uint16).repeat(48, axis=0)
    depth[10:30, 20:40] = 0
    depth[20, 30] = 2000
    camera = CameraModel.pinhole(64, 48, 60, 60, 32, 24)
    frame = prepare_frame(
        np.zeros((48, 64, 3), np.uint8),
        camera,
        long_side=16,
        depth=depth,
        depth_unit_m=0.001,
        **STATED,
    )
    assert frame.depth is not None
    assert set(np.unique(frame.depth)) <= {np.float32(v) for v in (0.0, 1.0, 2.0, 3.0)}
    assert (frame.depth[4:6, 6:9] == 0).any()


def test_a_lone_hole_is_filled_from_its_own_pixel() -> None:
    depth = np.full((48, 64), 1500, np.uint16)
    depth[2::4, 2::4] = 0
    camera = CameraModel.pinhole(64, 48, 60, 60, 32, 24)
    frame = prepare_frame(
        np.zeros((48, 64), np.uint8),
        camera,
        long_side=16,
        depth=depth,
        depth_unit_m=0.001,
        **STATED,
    )
    assert frame.depth is not None
    np.testing.assert_array_equal(frame.depth, np.float32(1.5))


def test_float_depth_with_nan_infinity_and_negative_means_none() -> None:
    depth = np.full((48, 64), 2.0, np.float32)
    depth[0, :3] = [np.nan, np.inf, -1.0]
    camera = CameraModel.pinhole(64, 48, 60, 60, 32, 24)
    frame = prepare_frame(np.zeros((48, 64), np.uint8), camera, depth=depth, **STATED)
    assert frame.depth is not None
    np.testing.assert_array_equal(frame.depth[0, :4], [0.0, 0.0, 0.0, 2.0])


def test_mask_is_grown_to_every_pixel_it_touches() -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[9, 13] = 1
    camera = CameraModel.pinhole(64, 48, 60, 60, 32, 24)
    frame = prepare_frame(np.zeros((48, 64), np.uint8), camera, long_side=16, mask=mask, **STATED)
    assert frame.valid is not None
    expected = np.ones((12, 16), bool)
    expected[2, 3] = False
    np.testing.assert_array_equal(frame.valid, expected)


def test_wrong_pictures_are_told_why() -> None:
    camera = CameraModel.pinhole(64, 48, 60, 60, 32, 24)
    image = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(CameraError, match="50x48 does not fit the camera's 64x48"):
        prepare_frame(image[:, :50], camera, **STATED)
    with pytest.raises(ImageError, match="float64"):
        prepare_frame(image.astype(np.float64), camera, **STATED)
    with pytest.raises(ImageError, match="mask is of shape"):
        prepare_frame(image, camera, mask=np.zeros((10, 10), np.uint8), **STATED)
    with pytest.raises(ImageError, match="depth of 20x20 does not fit an image of 64x48"):
        prepare_frame(image, camera, depth=np.ones((20, 20)), **STATED)
    with pytest.raises(ImageError, match="unit_m is 0"):
        prepare_frame(image, camera, depth=np.ones((48, 64)), depth_unit_m=0.0, **STATED)

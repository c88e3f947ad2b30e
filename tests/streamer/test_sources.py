"""Captures of every layout: tiny ones written here, and the real ones where they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_writers import (
    C2W,
    COLMAP_CAMERAS,
    HEIGHT,
    WIDTH,
    transforms,
    write_colmap_binary,
    write_colmap_text,
    write_nerfstudio,
    write_picture,
    write_tum,
)

from streamer.camera import CameraModel
from streamer.conventions import check_pose
from streamer.sources import (
    CaptureError,
    load_frame,
    open_capture,
    parse_range,
    read_mask,
    session_name,
)
from streamer.sources.capture import MAX_CAMERAS

# --- nerfstudio ---------------------------------------------------------------------------------


def test_nerfstudio_in_file_order_with_opencv_axes(tmp_path: Path) -> None:
    document = transforms()
    document["frames"].reverse()
    capture = open_capture(write_nerfstudio(tmp_path / "kitchen", document))
    assert (capture.name, capture.layout, capture.convention) == ("kitchen", "nerfstudio", "opencv")
    assert capture.cameras == {
        "camera0": CameraModel("OPENCV", WIDTH, HEIGHT, (30, 31, 16.5, 11.5, 0, 0, 0, 0))
    }
    assert [frame.image_path.name for frame in capture.frames] == ["002.png", "001.png", "000.png"]
    assert [frame.index for frame in capture.frames] == [0, 1, 2]
    assert [frame.stamp_ns for frame in capture.frames] == [0, 10**8, 2 * 10**8]
    # The file's cameras look along −z with +y up: forward is −z, down is −y.
    np.testing.assert_array_equal(
        capture.frames[0].c2w, [[1, 0, 0, 2], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
    )


def test_nerfstudio_opens_by_its_file_too(tmp_path: Path) -> None:
    root = write_nerfstudio(tmp_path / "kitchen")
    assert len(open_capture(root / "transforms.json").frames) == 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"camera_model": "PINHOLE"}, ("PINHOLE", (30, 31, 16.5, 11.5))),
        ({"k1": 0.1, "p2": 0.2}, ("OPENCV", (30, 31, 16.5, 11.5, 0.1, 0, 0, 0.2))),
        (
            {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.4},
            ("OPENCV_FISHEYE", (30, 31, 16.5, 11.5, 0.1, 0, 0, 0.4)),
        ),
        (
            {"camera_model": "SIMPLE_RADIAL", "k1": 0.1, "fl_y": 30.0},
            ("SIMPLE_RADIAL", (30, 16.5, 11.5, 0.1)),
        ),
        (
            {"camera_model": "SIMPLE_RADIAL", "k1": 0.1},
            ("OPENCV", (30, 31, 16.5, 11.5, 0.1, 0, 0, 0)),
        ),
        ({"k3": 0.3}, ("FULL_OPENCV", (30, 31, 16.5, 11.5, 0, 0, 0, 0, 0.3, 0, 0, 0))),
    ],
)
def test_nerfstudio_camera_models(tmp_path: Path, fields: dict, expected: tuple) -> None:
    capture = open_capture(write_nerfstudio(tmp_path, transforms(**fields)))
    camera = capture.cameras["camera0"]
    assert (camera.model, camera.params) == expected


def test_nerfstudio_intrinsics_of_single_frames_overrule_the_files(tmp_path: Path) -> None:
    document = transforms()
    document["frames"][1].update(fl_x=40.0, cx=17.0)
    capture = open_capture(write_nerfstudio(tmp_path, document))
    focal = [capture.camera_of(frame).fxfycxcy for frame in capture.frames]
    assert focal == [(30, 31, 16.5, 11.5), (40, 31, 17, 11.5), (30, 31, 16.5, 11.5)]
    assert [frame.camera for frame in capture.frames] == ["camera0", "camera1", "camera0"]


def test_an_intrinsic_for_every_frame_travels_with_the_frames(tmp_path: Path) -> None:
    document = transforms(MAX_CAMERAS + 3)
    for i, frame in enumerate(document["frames"]):
        frame["fl_x"] = 30.0 + i
    capture = open_capture(write_nerfstudio(tmp_path, document))
    assert list(capture.cameras) == ["camera0"]
    assert [capture.camera_of(frame).params[0] for frame in capture.frames] == [
        30.0 + i for i in range(MAX_CAMERAS + 3)
    ]


def test_blender_scene_without_suffixes_sizes_and_pixels(tmp_path: Path) -> None:
    document = transforms(2)
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model"):
        del document[key]
    document["camera_angle_x"] = 2 * np.arctan(0.5)
    for i in range(2):
        document["frames"][i]["file_path"] = f"./train/r_{i}"
        write_picture(tmp_path / f"train/r_{i}.png")
    capture = open_capture(write_nerfstudio(tmp_path, document))
    assert capture.frames[1].image_path.name == "r_1.png"
    camera = capture.cameras["camera0"]
    np.testing.assert_allclose(camera.fxfycxcy, (WIDTH, WIDTH, WIDTH / 2, HEIGHT / 2))


def test_nerfstudio_times(tmp_path: Path) -> None:
    document = transforms(2)
    document["frames"][0]["timestamp"] = 1700000000.25
    document["frames"][1]["stamp_ns"] = 1700000000300000001
    capture = open_capture(write_nerfstudio(tmp_path, document))
    assert [frame.stamp_ns for frame in capture.frames] == [
        1700000000250000000,
        1700000000300000001,
    ]


def test_nerfstudio_depth_and_mask_reach_the_frame(tmp_path: Path) -> None:
    document = transforms(1, depth_unit_scale_factor=0.01)
    document["frames"][0].update(depth_file_path="depth/0.png", mask_path="masks/0.png")
    (tmp_path / "depth").mkdir()
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "depth/0.png"), np.full((HEIGHT, WIDTH), 250, np.uint16))
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, :4] = 0  # nerfstudio: black is to be ignored
    cv2.imwrite(str(tmp_path / "masks/0.png"), mask)
    capture = open_capture(write_nerfstudio(tmp_path, document))
    ignored = read_mask(capture.frames[0])
    assert ignored is not None
    assert (ignored[:, :4] == 255).all()
    assert (ignored[:, 4:] == 0).all()
    frame = load_frame(capture, capture.frames[0], seq=3, with_depth=True)
    assert frame.seq == 3
    assert frame.depth is not None
    assert frame.valid is not None
    np.testing.assert_array_equal(frame.depth, np.float32(2.5))
    assert not frame.valid[:, :4].any()
    assert frame.valid[:, 4:].all()
    # RGB, not OpenCV's BGR: the ramp was written into the third of BGR, red.
    np.testing.assert_array_equal(frame.image[0, :, 0], np.arange(WIDTH) * 7)
    assert load_frame(capture, capture.frames[0], seq=0).depth is None


def _drop(key: str) -> Callable[[dict], object]:
    return lambda document: document.pop(key)


def _set(**fields: object) -> Callable[[dict], object]:
    return lambda document: document["frames"][1].update(fields)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda document: document["frames"].clear(), "the capture is empty"),
        (_drop("frames"), "`frames` is not a list"),
        (_set(file_path="images/gone.jpg"), r"frames\[1\]\.file_path names .*gone\.jpg.*not there"),
        (_set(depth_file_path="depth/gone.png"), r"frames\[1\]\.depth_file_path"),
        (_set(mask_path=3), r"frames\[1\]\.mask_path is 3"),
        (_set(file_path=None), r"frames\[1\] has no file_path"),
        (_set(transform_matrix=None), r"frames\[1\]\.transform_matrix is missing"),
        (_set(transform_matrix=[[1, 0], [0, 1]]), r"frames\[1\]\.transform_matrix: 4 numbers"),
        (_set(transform_matrix=np.diag([2, 2, 2, 1]).tolist()), "scaled by 2"),
        (_set(transform_matrix=np.diag([1, 1, -1, 1]).tolist()), "left-handed"),
        (_set(fl_x="wide"), r"frames\[1\]: fl_x is 'wide', a number"),
        (_set(timestamp=1.7e18), "nanoseconds go into stamp_ns"),
        (_set(stamp_ns=1.5), "stamp_ns is 1.5"),
        (lambda document: (document.pop("fl_x"), document.pop("fl_y")), "no intrinsics: fl_x"),
        (lambda document: document.update(camera_model="OPENCV_FISH"), "did you mean 'OPENCV_FISH"),
        (lambda document: document.update(fl_x=-3), "fx is -3"),
        (
            lambda document: [frame.pop("transform_matrix") for frame in document["frames"]],
            "no frame has a transform_matrix.*COLMAP",
        ),
    ],
)
def test_nerfstudio_errors_name_file_field_and_remedy(
    tmp_path: Path, spoil: Callable[[dict], object], message: str
) -> None:
    root = write_nerfstudio(tmp_path / "kitchen")
    document = transforms()
    spoil(document)
    (root / "transforms.json").write_text(json.dumps(document))
    with pytest.raises(CaptureError, match=message) as caught:
        open_capture(root)
    assert "transforms.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"frames": [', "not JSON.*line 1"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"[]", "no map"),
    ],
)
def test_broken_json_is_told_where(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(CaptureError, match=message):
        open_capture(tmp_path)


# --- TUM RGB-D ----------------------------------------------------------------------------------


def test_tum_interpolates_poses_and_pairs_depth(tmp_path: Path) -> None:
    root = write_tum(tmp_path / "walk")
    (root / "calib.txt").write_text("30 31 16 11")
    capture = open_capture(root)
    assert capture.layout == "tum"
    assert len(capture.frames) == 10
    for i, frame in enumerate(capture.frames):
        assert frame.stamp_ns == 100 * 10**9 + i * 10**8
        np.testing.assert_allclose(frame.c2w[:3, 3], [0.1 * i, 2.0, 3.0], atol=1e-6)
        angle = 0.05 * i
        expected = [np.sin(angle), 0.0, np.cos(angle)]
        np.testing.assert_allclose(frame.c2w[:3, 2], expected, atol=1e-6)
        check_pose(frame.c2w)
        assert frame.depth_path is not None
        assert frame.depth_path.name == f"{100 + 0.1 * i + 0.005:.6f}.png"
    assert capture.frames[0].depth_unit_m == pytest.approx(1 / 5000)


def test_tum_intrinsics_from_a_calibration_file(tmp_path: Path) -> None:
    root = write_tum(tmp_path / "walk")
    with pytest.raises(CaptureError, match=r"no intrinsics.*calibration\.txt"):
        open_capture(root)
    (root / "calibration.txt").write_text("# fx fy cx cy\n30 31 16 11\n")
    capture = open_capture(root)
    # OpenCV's centre (16, 11) counts from the first pixel's centre, ours from the corner.
    assert capture.cameras["rgb"] == CameraModel.pinhole(WIDTH, HEIGHT, 30, 31, 16.5, 11.5)
    frame = load_frame(capture, capture.frames[2], seq=0, with_depth=True)
    assert frame.depth is not None
    np.testing.assert_allclose(frame.depth, 5002 / 5000, rtol=1e-6)
    (root / "calibration.txt").write_text("30 31 16 11 0.1 0.2 0.3 0.4 0.5\n")
    camera = open_capture(root).cameras["rgb"]
    assert camera.model == "FULL_OPENCV"
    assert camera.distortion == (0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0)
    (root / "calibration.txt").write_text("30 31 16\n")
    with pytest.raises(CaptureError, match="3 numbers"):
        open_capture(root)


def test_tum_documented_intrinsics_need_their_size(tmp_path: Path) -> None:
    root = tmp_path / "rgbd_dataset_freiburg3_x"
    write_tum(root)
    with pytest.raises(CaptureError, match=r"32x24.*hold for 640x480"):
        open_capture(root)
    for picture in (root / "rgb").iterdir():
        cv2.imwrite(str(picture), np.zeros((480, 640, 3), np.uint8))
    capture = open_capture(root)
    assert capture.cameras["rgb"] == CameraModel.pinhole(640, 480, 535.4, 539.2, 320.6, 248.1)
    assert "freiburg3" in capture.notes[0]


def test_tum_leaves_pictures_without_a_pose_out_and_says_so(tmp_path: Path) -> None:
    root = write_tum(tmp_path / "walk")
    (root / "calib.txt").write_text("30 31 16 11")
    lines = (root / "groundtruth.txt").read_text().splitlines()
    # Poses stop at 100.47 s and start again at 100.83 s: 0.36 s cannot be bridged.
    kept = [line for line in lines if line[0] == "#" or not 100.48 < float(line.split()[0]) < 100.8]
    (root / "groundtruth.txt").write_text("\n".join(kept))
    capture = open_capture(root)
    stamps = [frame.stamp_ns // 10**8 - 1000 for frame in capture.frames]
    assert stamps == [0, 1, 2, 3, 4, 9]
    assert [frame.index for frame in capture.frames] == list(range(6))
    assert capture.notes[1] == "4 of 10 pictures left out: no pose close in time"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rgb.txt", "# nothing\n", "rgb.txt: the capture is empty"),
        ("rgb.txt", "100.0\n", "line 1 is not `timestamp filename`"),
        ("rgb.txt", "100.0 rgb/gone.png\n", "line 1 names .*gone.png"),
        ("rgb.txt", "1e12 rgb/gone.png\n", "line 1: .* is no time in seconds"),
        ("rgb.txt", "soon rgb/gone.png\n", "line 1: 'soon' are not numbers"),
        ("depth.txt", "100.0 depth/gone.png\n", "depth.txt: line 1"),
        ("groundtruth.txt", "100.0 0 0 0 0 0 0\n", "line 1 has 7 fields.*qx qy qz qw"),
        ("groundtruth.txt", "100.0 0 0 0 0 0 0 0\n", "line 1: quaternion 0 0 0 0"),
        ("groundtruth.txt", "100.0 0 nan 0 0 0 0 1\n", "line 1.*not finite"),
        ("groundtruth.txt", "5.0 0 0 0 0 0 0 1\n", "same clock"),
        ("groundtruth.txt", "", "no line holds a pose"),
        ("groundtruth.txt", None, "groundtruth.txt: is missing. Poses are needed"),
    ],
)
def test_tum_errors_name_file_line_and_remedy(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    root = write_tum(tmp_path / "walk", seconds=0.3)
    (root / "calib.txt").write_text("30 31 16 11")
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    with pytest.raises(CaptureError, match=message):
        open_capture(root)


# --- COLMAP -------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [write_colmap_text, write_colmap_binary])
@pytest.mark.parametrize("folder", ["sparse/0", "sparse", ""])
def test_colmap_text_and_binary_read_alike(
    tmp_path: Path, writer: Callable[..., Path], folder: str
) -> None:
    capture = open_capture(writer(tmp_path / "desk", folder=folder))
    assert (capture.name, capture.layout) == ("desk", "colmap")
    assert [frame.image_path.name for frame in capture.frames] == ["a.png", "0002.png", "c.png"]
    assert [frame.camera for frame in capture.frames] == ["camera1", "camera7", "camera1"]
    assert capture.cameras == {
        "camera1": CameraModel("OPENCV", WIDTH, HEIGHT, COLMAP_CAMERAS[1][2]),
        "camera7": CameraModel("SIMPLE_RADIAL", WIDTH, HEIGHT, COLMAP_CAMERAS[7][2]),
    }
    for frame, c2w in zip(capture.frames, C2W):
        np.testing.assert_allclose(frame.c2w, c2w, atol=1e-12)
    load_frame(capture, capture.frames[1], seq=0)


def test_colmap_model_given_itself_finds_its_pictures(tmp_path: Path) -> None:
    root = write_colmap_binary(tmp_path / "desk")
    assert len(open_capture(root / "sparse/0").frames) == 3


def test_colmap_other_models_become_ours_exactly(tmp_path: Path) -> None:
    cameras = {
        1: ("SIMPLE_PINHOLE", 0, (30.0, 16.0, 12.0)),
        7: ("RADIAL_FISHEYE", 9, (28.0, 16.0, 12.0, 0.05, 0.01)),
    }
    capture = open_capture(write_colmap_text(tmp_path, cameras=cameras))
    assert capture.cameras["camera1"] == CameraModel.pinhole(WIDTH, HEIGHT, 30, 30, 16, 12)
    assert capture.cameras["camera7"].params == (28, 28, 16, 12, 0.05, 0.01, 0, 0)


def test_colmap_errors_name_file_and_remedy(tmp_path: Path) -> None:
    root = write_colmap_text(
        tmp_path / "fov", cameras={1: ("FOV", 7, (30.0, 31.0, 16.0, 12.0, 0.5))}
    )
    with pytest.raises(CaptureError, match=r"cameras\.txt: line 2: camera model FOV.*undistorter"):
        open_capture(root)
    root = write_colmap_text(tmp_path / "one", cameras={1: COLMAP_CAMERAS[1]})
    with pytest.raises(CaptureError, match=r"b/0002\.png names camera 7"):
        open_capture(root)
    root = write_colmap_text(tmp_path / "few", cameras={1: ("PINHOLE", 1, (30.0, 31.0))})
    with pytest.raises(CaptureError, match=r"line 2: .*fx fy cx cy\), got 2"):
        open_capture(root)
    root = write_colmap_text(tmp_path / "gone")
    (root / "images/c.png").unlink()
    with pytest.raises(CaptureError, match=r"images\.txt: c\.png names .*not there"):
        open_capture(root)
    shutil.rmtree(root / "images")
    with pytest.raises(CaptureError, match="put the pictures into images/"):
        open_capture(root)
    (root / "sparse/0/images.txt").write_text("# none\n")
    with pytest.raises(CaptureError, match="the capture is empty"):
        open_capture(root)
    (root / "sparse/0/images.txt").write_text("1 1 0 0 0 0 0\n\n")
    with pytest.raises(CaptureError, match="line 1 is not `IMAGE_ID QW"):
        open_capture(root)


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin"])
def test_truncated_colmap_model_is_refused_at_every_length(tmp_path: Path, file: str) -> None:
    root = write_colmap_binary(tmp_path)
    whole = (root / "sparse/0" / file).read_bytes()
    for length in range(len(whole)):
        (root / "sparse/0" / file).write_bytes(whole[:length])
        with pytest.raises(CaptureError, match="truncated"):
            open_capture(root)


# --- any layout ---------------------------------------------------------------------------------


def test_what_is_no_capture_is_told_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no such file or folder"):
        open_capture(tmp_path / "gone")
    with pytest.raises(CaptureError, match=r"not a capture.*transforms\.json.*rgb\.txt.*COLMAP"):
        open_capture(tmp_path)
    picture = tmp_path / "picture.png"
    write_picture(picture)
    with pytest.raises(CaptureError, match="not a capture"):
        open_capture(picture)
    with pytest.raises(CaptureError, match=r"1 images but no poses.*Poses are needed"):
        open_capture(tmp_path)


def test_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    root = write_nerfstudio(tmp_path)
    capture = open_capture(root)
    (root / "images/001.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(CaptureError, match=r"001\.png: does not decode"):
        load_frame(capture, capture.frames[1], seq=0)


def test_picture_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_nerfstudio(tmp_path)
    capture = open_capture(root)
    cv2.imwrite(str(root / "images/001.png"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=r"001\.png: a frame of 20x20 does not fit"):
        load_frame(capture, capture.frames[1], seq=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (None, None)), ("0:150", (0, 150)), ("7:", (7, None)), (":-2", (None, -2))],
)
def test_ranges_as_typed(text: str | None, expected: tuple) -> None:
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["", "5", "a:b", "1:2:3", "1-2"])
def test_what_is_no_range_is_told_so(text: str) -> None:
    with pytest.raises(CaptureError, match=r"--frames is .* range A:B"):
        parse_range(text)


def test_ranges_and_hold_out_count_within_the_selection(tmp_path: Path) -> None:
    capture = open_capture(write_nerfstudio(tmp_path, transforms(20)))
    selection = capture.select(5, 15)
    given, kept = selection.hold_out(4)
    assert [frame.index for frame in kept] == [5, 9, 13]
    assert [frame.index for frame in given] == [6, 7, 8, 10, 11, 12, 14]
    assert selection.hold_out(0) == (selection.frames, ())
    assert [frame.index for frame in capture.select(-2).frames] == [18, 19]
    with pytest.raises(CaptureError, match=r"frames 30:40 hold nothing.*0 to 19"):
        capture.select(30, 40)
    with pytest.raises(CaptureError, match="hold-out is 1"):
        capture.hold_out(1)


@pytest.mark.parametrize(
    ("name", "session"),
    [
        ("hololens_office", "hololens_office"),
        ("Küche 2", "K-che-2"),
        ("..x", "x"),
        ("…", "capture"),
    ],
)
def test_session_names_fit_the_protocol(name: str, session: str) -> None:
    assert session_name(name) == session


@pytest.mark.parametrize(
    ("name", "count", "model"),
    [("hololens_office", 300, "OPENCV"), ("skull", 66, "OPENCV"), ("brighton_drone", 18, "OPENCV")],
)
def test_real_captures_open(
    capture_dir: Callable[[str], Path], name: str, count: int, model: str
) -> None:
    capture = open_capture(capture_dir(name))
    assert len(capture.frames) == count
    assert {camera.model for camera in capture.cameras.values()} == {model}
    frame = load_frame(capture, capture.frames[count // 2], seq=0, long_side=240, with_depth=True)
    assert max(frame.image.shape) == 240
    assert frame.image.std() > 10.0
    for posed in capture.frames:
        check_pose(posed.c2w)


def test_real_office_has_metric_depth_that_agrees_between_views(
    capture_dir: Callable[[str], Path],
) -> None:
    """Axes, intrinsics, depth unit at once: depth of one view lands on that of another."""
    capture = open_capture(capture_dir("hololens_office"))
    first, second = (
        load_frame(capture, capture.frames[i], seq=i, long_side=240, with_depth=True)
        for i in (40, 44)
    )
    assert first.depth is not None
    assert second.depth is not None
    assert first.c2w is not None
    assert second.c2w is not None
    v, u = np.nonzero(first.depth)
    depth = first.depth[v, u].astype(np.float64)
    rays = np.stack([u + 0.5, v + 0.5, np.ones(len(u))]).T @ np.linalg.inv(first.K).T
    world = np.column_stack([rays * depth[:, None], np.ones(len(u))]) @ first.c2w.T
    local = (world @ np.linalg.inv(second.c2w).T)[:, :3]
    pixels = (local @ second.K.T)[:, :2] / local[:, 2:]
    inside = (local[:, 2] > 0.1) & (pixels > 0).all(axis=1) & (pixels < (240, 160)).all(axis=1)
    column, row = np.floor(pixels[inside]).astype(int).T
    measured = second.depth[row, column]
    both = measured > 0
    assert both.mean() > 0.5
    error = np.abs(measured - local[inside, 2])[both] / measured[both]
    assert np.median(error) < 0.03


def test_real_capture_without_poses_says_what_is_missing(
    capture_dir: Callable[[str], Path],
) -> None:
    with pytest.raises(CaptureError, match=r"16 images but no poses.*does not track"):
        open_capture(capture_dir("banana_unposed"))

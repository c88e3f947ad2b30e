"""Captures of nerfstudio and of Blender's layout, read as they are written here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_writers import (
    HEIGHT,
    WIDTH,
    transforms,
    write_nerfstudio,
    write_picture,
)

from streamer.camera import CameraModel
from streamer.sources import (
    CaptureError,
    load_frame,
    open_capture,
    read_mask,
)
from streamer.sources.capture import MAX_CAMERAS


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

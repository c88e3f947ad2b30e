"""Camera poses read from every kind of file that holds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from splat_room import CAMERA, room_poses

from streamer.conventions import wxyz_from_matrix, xyzw_from_wxyz
from streamer.sources import CaptureError, open_capture
from streamer.trajectory import TrajectoryError, cameras_beside, read_trajectory, write_cameras

ROOT = Path(__file__).resolve().parents[2]


def test_cameras_json_keeps_poses_and_lens(tmp_path: Path) -> None:
    poses = room_poses(5)
    path = tmp_path / "cameras.json"
    write_cameras(path, list(poses), [CAMERA] * 5, [f"{i}.jpg" for i in range(5)])
    read = read_trajectory(path)
    assert np.array_equal(read.c2w, poses)
    assert read.cameras == (CAMERA,) * 5
    assert (np.diff(read.stamps_ns) == 10**8).all()
    # As Inria's training writes it, and its viewers read it.
    assert json.loads(path.read_text())[3].keys() == {
        *("id", "img_name", "width", "height", "position", "rotation", "fx", "fy")
    }


def test_cameras_are_found_where_either_program_leaves_them(tmp_path: Path) -> None:
    deep = tmp_path / "point_cloud" / "iteration_7000"
    deep.mkdir(parents=True)
    assert cameras_beside(deep / "point_cloud.ply") is None
    (tmp_path / "cameras.json").write_text("[]")
    assert cameras_beside(deep / "point_cloud.ply") == tmp_path / "cameras.json"
    (deep / "cameras.json").write_text("[]")
    assert cameras_beside(deep / "point_cloud.ply") == deep / "cameras.json"


def test_a_tum_trajectory(tmp_path: Path) -> None:
    poses = room_poses(4)
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for second, pose in enumerate(poses):
        numbers = [*pose[:3, 3], *xyzw_from_wxyz(wxyz_from_matrix(pose[:3, :3]))]
        lines.append(f"{100 + 0.5 * second} " + " ".join(repr(float(n)) for n in numbers))
    path = tmp_path / "way.txt"
    path.write_text("\n".join(lines) + "\n")
    read = read_trajectory(path)
    assert np.allclose(read.c2w, poses, atol=1e-12)
    assert (read.stamps_ns == [100 * 10**9 + i * 5 * 10**8 for i in range(4)]).all()
    assert read.cameras is None


def test_a_capture_and_its_transforms_say_the_same(tmp_path: Path) -> None:
    capture = open_capture(ROOT / "examples" / "office")
    expected = np.stack([frame.c2w for frame in capture.frames])
    for path in (ROOT / "examples" / "office", ROOT / "examples" / "office" / "transforms.json"):
        read = read_trajectory(path)
        assert np.array_equal(read.c2w, expected)
        assert read.cameras == tuple(capture.camera_of(frame) for frame in capture.frames)
    # The poses alone, images gone, lens unknown, frames out of order.
    document = json.loads((ROOT / "examples" / "office" / "transforms.json").read_text())
    frames = [
        {"transform_matrix": frame["transform_matrix"], "timestamp": 10 - i}
        for i, frame in enumerate(document["frames"][:4])
    ]
    (tmp_path / "path.json").write_text(json.dumps({"frames": [*frames, {"file_path": "x"}]}))
    read = read_trajectory(tmp_path / "path.json")
    assert np.array_equal(read.c2w, expected[:4][::-1])
    assert read.cameras is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "cameras.json"),
        ("a.json", "{}", "frames"),
        ("a.json", '{"frames": []}', "no poses"),
        ("a.json", '{"frames": 5}', "frames"),
        ("a.json", '[{"id": 0}]', "entry 0: 'rotation' is missing"),
        (
            "a.json",
            json.dumps(
                [
                    {
                        "rotation": [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
                        "position": [0, 0, 0],
                        "width": 4,
                        "height": 4,
                        "fx": 3,
                        "fy": 3,
                    }
                ]
            ),
            "entry 0",
        ),
        ("a.txt", "1 2 3\n", "line 1"),
        ("a.txt", "", "pose"),
    ],
)
def test_what_holds_no_poses_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises((TrajectoryError, CaptureError), match=words) as error:
        read_trajectory(path)
    assert str(path) in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryError, match="no such file"):
        read_trajectory(tmp_path / "nowhere")

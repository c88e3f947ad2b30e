"""`splatstream run`: a map from a capture, in one go; with its page as a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from daemon_children import alive, children
from live_daemon import OFFICE, subscriber_of_run, wait_until

from gs_decoder import read_ply
from gs_decoder.mesh import decode_glb
from streamer import Requests
from streamer.cli import dispatch
from streamer.demo import CAPTURE
from streamer.requests import RequestRefused
from streamer.trajectory import read_trajectory

# The first run on a machine compiles its kernels.
pytestmark = pytest.mark.timeout(600)

COMMAND = [sys.executable, "-m", "streamer.cli", "run"]
SMALL = ["--frames", "0:16", "--long-side", "96"]


def test_run_leaves_map_report_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "here"
    assert dispatch(["run", str(CAPTURE), "--out", str(out), "--time-limit", "5", *SMALL]) == 0
    assert "14 frames, 2 held out" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert 0 < report["frames_done"] <= report["frames_in"] <= 14
    assert report["long_side"] == 96
    assert len(report["held_out_views"]) == 2
    assert report["held_out_psnr"] > 8.0
    content = read_ply(out / "map.ply")
    # How fine a map three seconds bring is the machine's affair.
    assert content.splats.count == report["splats"] > 100
    content.splats.check_values()
    # In the capture's own world: the map lies before the cameras.
    centres = np.stack([frame.c2w[:3, 3] for frame in OFFICE.frames[:16]])
    means = content.splats.means.numpy() + content.offset
    assert np.linalg.norm(np.median(means, axis=0) - centres.mean(axis=0)) < 10.0
    cameras = read_trajectory(out / "cameras.json")
    assert len(cameras.c2w) == report["keyframes"]
    assert cameras.cameras is not None and cameras.cameras[0].width == 96
    assert all(np.abs(centres - c2w[:3, 3]).sum(1).min() < 1e-9 for c2w in cameras.c2w)
    sheet = cv2.imread(str(out / "renders.png"))
    assert sheet is not None
    # Truth above, rendered below: neither of them empty, and much the same.
    half = sheet.shape[0] // 2
    top, bottom = sheet[: half - 4].astype(float), sheet[-(half - 4) :].astype(float)
    assert top.std() > 20
    assert bottom.std() > 10
    assert np.corrcoef(top.ravel(), bottom.ravel())[0, 1] > 0.5
    # What was left is a map to work on: a video through it, and its surfaces.
    video, mesh = tmp_path / "video.mp4", tmp_path / "mesh.glb"
    small = ["--size", "96x64", "--seconds", "0.5"]
    assert dispatch(["render", str(out), "--out", str(video), *small]) == 0
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 15
    assert dispatch(["mesh", str(out), "--out", str(mesh), "--up", "y", "--voxel", "0.05"]) == 0
    surface = decode_glb(mesh.read_bytes())
    assert len(surface.faces) > 1000
    assert np.linalg.norm(np.median(surface.vertices, axis=0) - centres.mean(axis=0)) < 10.0


def test_run_shows_its_page_and_takes_it_down(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(CAPTURE), "--out", str(tmp_path), "--time-limit", "300", "--viewer", *SMALL],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        url = None
        for line in process.stdout:
            if match := re.match(r"live page: (http://\S+)", line):
                url = match[1]
                break
        assert url is not None
        with urlopen(url, timeout=20) as answer:
            assert answer.status == 200
        (viewer,) = children(process.pid)["viewer"]
        with subscriber_of_run(viewer) as reader:
            wait_until(lambda: (reader.poll(0.1), reader.mirror.count > 1000)[1], "the map")
            wait_until(lambda: (reader.poll(0.1), reader.status)[1], "the figures")
            assert reader.status is not None
            assert reader.status.frames_in > 0
            with (
                Requests(reader.requests) as asking,
                pytest.raises(RequestRefused, match="takes no orders"),
            ):
                asking.pause(reader.status.session)
        process.send_signal(signal.SIGINT)
        # What was built until now is left all the same.
        assert process.wait(60) == 130
        wait_until(lambda: not alive(viewer), "the page's process to end", 20)
        report = json.loads((tmp_path / "report.json").read_text())
        assert 0 < report["frames_done"] <= 14
        assert read_ply(tmp_path / "map.ply").splats.count == report["splats"] > 1000
    finally:
        process.kill()
        process.wait()


def test_a_run_into_a_file_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert dispatch(["run", str(CAPTURE), "--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("splatstream run: ")
    assert "file" in error
    assert error.count("\n") == 1


def spoiled_capture(root: Path, spoiled: set[int], count: int = 10) -> list[str]:
    """The first frames of the demo capture, some of them no pictures; the names of those."""
    document = json.loads((CAPTURE / "transforms.json").read_text())
    document["frames"] = document["frames"][:count]
    (root / "images").mkdir(parents=True)
    for number, frame in enumerate(document["frames"]):
        if number in spoiled:
            (root / frame["file_path"]).write_bytes(b"no picture at all")
        else:
            shutil.copy(CAPTURE / frame["file_path"], root / frame["file_path"])
    (root / "transforms.json").write_text(json.dumps(document))
    return [document["frames"][number]["file_path"] for number in sorted(spoiled)]


def test_frames_that_cannot_be_read_are_named_and_the_rest_makes_the_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of the frames kept back (0 and 8) one is spoiled as well, and a neighbour of the other.
    names = spoiled_capture(tmp_path / "spoiled", {3, 8, 9})
    out = tmp_path / "out"
    small = ["--time-limit", "5", "--long-side", "64"]
    assert dispatch(["run", str(tmp_path / "spoiled"), "--out", str(out), *small]) == 1
    said = capsys.readouterr().out
    named = [line for line in said.splitlines() if line.startswith("unreadable: ")]
    assert len(named) == 3
    assert all(any(name in line for line in named) for name in names)
    report = json.loads((out / "report.json").read_text())
    assert report["frames_in"] == report["frames_done"] == 6
    assert report["frames_unreadable"] == 3
    assert len(report["held_out_views"]) == 1
    assert read_ply(out / "map.ply").splats.count == report["splats"] > 0


def test_a_capture_without_a_readable_frame_leaves_no_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled_capture(tmp_path / "spoiled", set(range(4)), count=4)
    command = ["run", str(tmp_path / "spoiled"), "--out", str(tmp_path / "out")]
    assert dispatch([*command, "--long-side", "64"]) == 1
    assert "no frame was taken" in capsys.readouterr().out
    assert not (tmp_path / "out" / "map.ply").exists()

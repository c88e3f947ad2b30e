"""The C++ clients: built as their CMakeLists says, run against a real daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Served

from streamer.demo import CAPTURE
from streamer.requests import Requests

SOURCES = Path(__file__).resolve().parents[2] / "examples" / "cpp"
WaitFor = Callable[[Callable[[], object], str], None]


def missing() -> str | None:
    """What the build lacks on this machine."""
    for tool in ("cmake", "pkg-config", os.environ.get("CXX", "c++")):
        if shutil.which(tool) is None:
            return f"no {tool}"
    probe = "#include <zmq_addon.hpp>\n#include <msgpack.hpp>\n"
    command = [os.environ.get("CXX", "c++"), "-std=c++17", "-DMSGPACK_NO_BOOST", "-E", "-xc++", "-"]
    found = subprocess.run(command, input=probe, capture_output=True, text=True)
    return None if found.returncode == 0 else "no cppzmq and msgpack-c (CMakeLists.txt names them)"


MISSING = missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def run(command: list[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built clients."""
    folder = tmp_path_factory.mktemp("build")
    # Unoptimised: the templates of msgpack take a compiler ten seconds otherwise.
    configure = ["cmake", "-S", str(SOURCES), "-B", str(folder), "-DCMAKE_CXX_FLAGS=-O0 -Werror"]
    for command in (configure, ["cmake", "--build", str(folder)]):
        done = run(command)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def frames_txt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo capture as the clients read it, its first 40 frames."""
    path = tmp_path_factory.mktemp("recording") / "frames.txt"
    done = run([sys.executable, str(SOURCES / "frames_txt.py"), str(CAPTURE)])
    assert done.returncode == 0, done.stderr
    path.write_text("".join(done.stdout.splitlines(keepends=True)[:41]))
    return path


def test_a_client_is_a_page_of_code() -> None:
    pages = [(SOURCES / name).read_text().splitlines() for name in ("wire.hpp", "send_frames.cpp")]
    assert sum(map(len, pages)) <= 150


def test_frames_are_sent_and_a_correction_moves_the_map(
    served: Served, built: Path, frames_txt: Path, wait_for: WaitFor
) -> None:
    send = [str(built / "send_frames"), served.ingest, "cpp", str(frames_txt)]
    done = run(send)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 frames settled, 0 rejected" in done.stdout
    assert done.stdout.startswith("WELCOME credit ")
    assert "ACK 39 credit " in done.stdout
    with Requests(served.requests) as requests:
        wait_for(lambda: requests.status("cpp").frames_done == 40, "40 frames to be done")
        before = requests.keyframes("cpp")
        assert len(before) >= 2

        poses = {frame.seq: frame.c2w.copy() for frame in before}
        for pose in poses.values():
            pose[2, 3] += 0.5
        lines = [
            " ".join(map(repr, [seq, *pose.reshape(-1).tolist()])) for seq, pose in poses.items()
        ]
        correct = [str(built / "correct_poses"), served.ingest, "cpp", "7"]
        done = run(correct, "\n".join([*lines, lines[0].replace(str(before[0].seq), "777777", 1)]))
        assert done.returncode == 0, done.stdout + done.stderr
        chunks = sum(frame.chunk is not None for frame in before)
        assert done.stdout == f"{chunks} chunks moved, 1 seqs unknown\n"

        def moved() -> bool:
            return all(
                np.allclose(frame.c2w, poses[frame.seq], atol=1e-9)
                for frame in requests.keyframes("cpp")
            )

        wait_for(moved, "the corrected key frames")

    for given in (f"# seq, then a pose\n{lines[0]}", f"{lines[0]}\n{lines[1][:20]}"):
        torn = run([*correct[:-1], "8"], given)
        assert torn.returncode == 2 and "a line is: seq and 16 numbers" in torn.stderr
    again = run(correct, lines[0])
    assert again.returncode == 2
    assert "bad_revision" in again.stderr
    second = run(send)
    assert second.returncode == 2
    assert "bad_session" in second.stderr and "40 frames" in second.stderr


def test_rejected_frames_are_named_and_the_rest_arrives(
    served: Served, built: Path, frames_txt: Path
) -> None:
    camera, *frames = frames_txt.read_text().splitlines()
    broken = frames_txt.parent / "torn image.jpg"
    whole = Path(frames[2].split('"')[1])
    broken.write_bytes(whole.read_bytes()[:300])
    frames[2] = frames[2].replace(str(whole), broken.name)
    fields = frames[4].rsplit(" ", 16)
    frames[4] = " ".join([fields[0], "2.0", *fields[2:]])
    recording = frames_txt.parent / "broken.txt"
    recording.write_text("\n".join([camera, *frames[:8]]))
    done = run([str(built / "send_frames"), served.ingest, "cpp-broken", str(recording)])
    assert done.returncode == 1
    assert "REJECT 2 bad_image" in done.stdout
    assert "REJECT 4 bad_pose" in done.stdout
    assert "8 frames settled, 2 rejected" in done.stdout


def test_a_recording_that_is_none_is_named(built: Path, frames_txt: Path) -> None:
    command = [str(built / "send_frames"), "tcp://127.0.0.1:5555", "s"]
    for text, words in (
        ("", "the first line is no camera"),
        ("PINHOLE 4 4 1 1 2 2\nimage.jpg 17 1 0 0", "this line is no frame: image.jpg 17"),
    ):
        recording = frames_txt.parent / "wrong.txt"
        recording.write_text(text)
        done = run([*command, str(recording)])
        assert done.returncode == 2 and words in done.stderr
    done = run([*command, "/nowhere/frames.txt"])
    assert done.returncode == 2 and "/nowhere/frames.txt cannot be read" in done.stderr

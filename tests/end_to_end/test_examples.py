"""The senders' examples as a user runs them, against a real daemon, on the first frames of their
capture."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Served

from streamer.requests import Requests

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRAMES = 32
MAX_SESSIONS = 2


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the examples beside a capture of fewer frames."""
    folder = tmp_path_factory.mktemp("examples")
    for script in EXAMPLES.glob("*.py"):
        shutil.copy(script, folder)
    record = json.loads((EXAMPLES / "office" / "transforms.json").read_text())
    record["frames"] = record["frames"][:FRAMES]
    for frame in record["frames"]:
        copy = folder / "office" / frame["file_path"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLES / "office" / frame["file_path"], copy)
    (folder / "office" / "transforms.json").write_text(json.dumps(record))
    return folder


def run_example(script: Path, *arguments: str) -> str:
    """What it prints; it must end well."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sent(served: Served, examples: Path) -> str:
    """The robot's loop, once for all tests here."""
    arguments = ["--to", served.ingest, "--session", "robot", "--rate", "1000"]
    return run_example(examples / "01_send_frames.py", *arguments)


def test_a_robot_loop_sends_everything(
    served: Served, sent: str, wait_for: Callable[[Callable[[], object], str], None]
) -> None:
    assert f"{FRAMES} frames settled, 0 rejected" in sent
    with Requests(served.requests) as requests:
        wait_for(lambda: requests.status("robot").frames_done == FRAMES, "the frames to be done")
        assert requests.status("robot").splats > 1000


@pytest.mark.usefixtures("sent")
def test_a_back_end_moves_the_map_without_sending_splats(served: Served, examples: Path) -> None:
    printed = run_example(
        examples / "03_correct_poses.py",
        *("--to", served.ingest, "--updates", served.updates, "--requests", served.requests),
        *("--session", "robot", "--drift", "0.25"),
    )
    moved = re.search(r"(\d+) chunks move, 0 stamps were unknown", printed)
    assert moved is not None and int(moved[1]) > 0, printed
    # Nothing is refined here, so whatever came anew would have come for the correction.
    shift = re.search(
        r"moved by ([\d.]+) to ([\d.]+) m; (\d+) chunks by their poses alone, 0 came anew", printed
    )
    assert shift is not None, printed
    assert int(shift[3]) == int(moved[1])
    assert float(shift[2]) == pytest.approx(0.25, abs=0.01)


def test_pyzmq_and_msgpack_are_enough(served: Served, examples: Path) -> None:
    script = examples / "02_send_frames_plain_zmq.py"
    source = script.read_text()
    assert len(source.splitlines()) <= 60
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"zmq", "msgpack"}
    printed = run_example(script, served.ingest)
    assert f"{FRAMES} frames settled" in printed

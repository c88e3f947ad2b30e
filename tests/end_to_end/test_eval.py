"""`splatstream eval`: runs in their own processes, maps from elsewhere, reports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from daemon_children import alive, children
from live_daemon import wait_until

from gs_decoder import read_ply
from streamer.cli import dispatch
from streamer.demo import CAPTURE

# The first run on a machine compiles its kernels.
pytestmark = pytest.mark.timeout(600)


COMMAND = [sys.executable, "-m", "streamer.cli", "eval", str(CAPTURE), "--long-side", "64"]


def evaluate(*arguments: str) -> int:
    """The command in this process; its runs have processes of their own all the same."""
    return dispatch(["eval", *arguments])


def in_file(path: Path) -> list[dict[str, Any]]:
    """The runs on the first capture of a report.json."""
    runs: list[dict[str, Any]] = json.loads(path.read_text())["captures"][0]["runs"]
    return runs


class Page(HTMLParser):
    """What a page would fetch, and how many of each element it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What an evaluation said of two runs, the first of which fails, and its folder."""
    folder = tmp_path_factory.mktemp("evaluated")
    weights = folder / "weights.safetensors"
    weights.write_bytes(b"no weights")
    arguments = ["--frames", "0:17", "--long-side", "64", "--at", "0.5,5", "--weights"]
    only = [str(weights), "--only", "learned", "sweep-only"]
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        assert evaluate(str(CAPTURE), *arguments, *only, "--out", str(folder / "out")) == 1
    return said.getvalue(), folder / "out"


def test_an_evaluation_leaves_figures_page_and_maps(evaluated: tuple[str, Path]) -> None:
    said, out = evaluated
    assert "14 frames given, 3 held out" in said
    report = json.loads((out / "report.json").read_text())
    (capture,) = report["captures"]
    _, run = capture["runs"]
    assert (run["label"], run["depth_given"], run["failed"]) == ("sweep only", False, None)
    assert [result["record"]["at"] for result in run["maps"]] == [0.5, 5.0]
    last = run["maps"][-1]
    assert [view["seq"] for view in last["views"]] == [0, 8, 16]
    assert 8.0 < last["psnr"] < 60.0
    assert 0.0 < last["ssim"] < 1.0
    assert last["record"]["cpu_seconds"] > 0.0
    ply = out / "maps" / capture["capture"] / "sweep-only" / last["record"]["file"]
    assert read_ply(ply).splats.count == last["record"]["splats"] > 100
    # The terminal has the same figures.
    row = next(line for line in said.splitlines() if re.match(r"sweep only\s+5 s", line))
    assert f"{last['psnr']:.2f}" in row.split()

    page = Page((out / "report.html").read_text())
    assert page.fetched
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.fetched)
    assert page.count["img"] == 9
    assert page.count["svg"] == 2
    assert "script" not in page.count


def test_a_map_from_elsewhere_is_judged_as_our_own(
    evaluated: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = evaluated
    _, run = in_file(out / "report.json")
    (ply,) = out.glob(f"maps/*/*/{run['maps'][-1]['record']['file']}")
    small = [str(CAPTURE), "--frames", "0:17", "--long-side", "64", "--map", str(ply)]
    assert evaluate(*small, "--out", str(tmp_path / "second")) == 0
    (judged,) = in_file(tmp_path / "second" / "report.json")
    assert judged["maps"][0]["views"] == run["maps"][-1]["views"]
    assert not (tmp_path / "second" / "maps").exists()
    # Where a run would write over it, nothing is done.
    capsys.readouterr()
    before = ply.read_bytes()
    assert evaluate(*small, "--only", "sweep-only", "--out", str(out)) == 2
    assert "name another --out" in capsys.readouterr().err
    assert ply.read_bytes() == before


def test_a_run_that_fails_is_reported_and_the_others_go_on(evaluated: tuple[str, Path]) -> None:
    said, out = evaluated
    learned, other = in_file(out / "report.json")
    assert "weights.safetensors" in learned["failed"]
    assert learned["maps"] == []
    assert other["failed"] is None
    assert other["maps"]
    assert "failed: " in said
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_killed_run_is_named_and_ctrl_c_leaves_a_report_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    only = ["--only", "sweep-only", "random-points"]
    process = subprocess.Popen(
        [*COMMAND, "--frames", "0:9", "--at", "600", *only, "--out", str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:

        def workers() -> list[int]:
            return children(process.pid).get("evaluation.worker", [])

        wait_until(workers, "the first run", 120)
        (first,) = workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: workers() not in ([], [first]), "the second run", 120)
        (worker,) = workers()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert not alive(worker)
        assert process.stdout is not None
        said = process.stdout.read()
    finally:
        process.kill()
        process.wait()
    assert "the report has the runs that had ended" in said
    (run,) = in_file(out / "report.json")
    assert run["method"] == "sweep-only"
    assert "killed" in run["failed"] and "log.txt" in run["failed"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([str(CAPTURE), "--at", "ten"], "--at"),
        ([str(CAPTURE), "--frames", "900:"], "frames 900"),
        ([str(CAPTURE), "--map", str(CAPTURE / "transforms.json")], "transforms.json"),
        # Before anything runs, though it would be judged last.
        (
            [str(CAPTURE), "--map", str(CAPTURE / "transforms.json"), "--only", "sweep-only"],
            "transforms.json",
        ),
        (["/nowhere/at/all"], "there is no such file"),
    ],
)
def test_what_the_user_has_to_change_is_one_line(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(*arguments, "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert error.startswith("splatstream eval: ")
    assert named in error
    assert len(error.splitlines()) == 1
    assert not (out / "maps").exists()

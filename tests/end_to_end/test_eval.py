"""`splatstream eval` as a process: runs in their own processes, maps from elsewhere, reports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gs_decoder import read_ply
from streamer.demo import CAPTURE

# The first run on a machine compiles its kernels.
pytestmark = pytest.mark.timeout(600)


def evaluate(*arguments: str, timeout: float = 500.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamer.cli", "eval", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


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


def test_an_evaluation_leaves_figures_page_and_maps_and_judges_a_map_from_elsewhere(
    tmp_path: Path,
) -> None:
    small = ["--frames", "0:24", "--long-side", "64"]
    first = tmp_path / "first"
    answer = evaluate(
        str(CAPTURE), *small, "--only", "sweep-only", "--at", "1,3", "--out", str(first)
    )
    assert answer.returncode == 0, answer.stderr
    assert "21 frames given, 3 held out" in answer.stdout
    report = json.loads((first / "report.json").read_text())
    (capture,) = report["captures"]
    (run,) = capture["runs"]
    assert (run["label"], run["depth_given"], run["failed"]) == ("sweep only", False, None)
    assert [result["record"]["at"] for result in run["maps"]] == [1.0, 3.0]
    last = run["maps"][-1]
    assert [view["seq"] for view in last["views"]] == [0, 8, 16]
    assert 8.0 < last["psnr"] < 60.0
    assert 0.0 < last["ssim"] < 1.0
    assert last["record"]["cpu_seconds"] > 0.0
    ply = first / "maps" / capture["capture"] / "sweep-only" / last["record"]["file"]
    assert read_ply(ply).splats.count == last["record"]["splats"] > 100
    # The terminal has the same figures.
    row = next(line for line in answer.stdout.splitlines() if re.match(r"sweep only\s+3 s", line))
    assert f"{last['psnr']:.2f}" in row.split()

    page = Page((first / "report.html").read_text())
    assert page.fetched
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.fetched)
    assert page.count["img"] == 9
    assert page.count["svg"] == 2
    assert "script" not in page.count

    # The same file, as if it came from elsewhere, is worth the same.
    second = tmp_path / "second"
    answer = evaluate(str(CAPTURE), *small, "--map", str(ply), "--out", str(second))
    assert answer.returncode == 0, answer.stderr
    (run,) = json.loads((second / "report.json").read_text())["captures"][0]["runs"]
    assert run["maps"][0]["views"] == last["views"]
    assert not (second / "maps").exists()


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    answer = evaluate(
        str(CAPTURE), *("--frames", "0:6"), *("--long-side", "64"), *("--steps", "1"),
        *("--only", "learned", "random-points"),
        *("--weights", str(tmp_path / "weights.safetensors")), *("--out", str(tmp_path / "out")),
    )  # fmt: skip
    assert answer.returncode == 1, answer.stderr
    learned, random = json.loads((tmp_path / "out/report.json").read_text())["captures"][0]["runs"]
    assert "weights.safetensors" in learned["failed"]
    assert learned["maps"] == []
    assert random["failed"] is None
    assert random["maps"][0]["psnr"] > 5.0
    assert "failed: " in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([str(CAPTURE), "--at", "ten"], "--at"),
        ([str(CAPTURE), "--frames", "900:"], "frames 900"),
        ([str(CAPTURE), "--map", str(CAPTURE / "transforms.json")], "transforms.json"),
        (["/nowhere/at/all"], "there is no such file"),
    ],
)
def test_what_the_user_has_to_change_is_one_line(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    answer = evaluate(*arguments, "--out", str(tmp_path / "out"))
    assert answer.returncode == 2
    assert answer.stderr.startswith("splatstream eval: ")
    assert named in answer.stderr
    assert len(answer.stderr.splitlines()) == 1

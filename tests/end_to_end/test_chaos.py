"""A small part of what the chaos commands of `benchmarks/` show: each ends with 1 where a promise
is broken, and says which."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamer.demo import CAPTURE

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc"),
    # The first daemon on a machine compiles its kernels.
    pytest.mark.timeout(600),
]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Shown = Callable[..., dict[str, Any]]


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What a command reports; it must have found every promise kept."""

    def run(script: str, *arguments: str) -> dict[str, Any]:
        out = tmp_path / "report.json"
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--json", str(out)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return kept(out, ended.value.code)

    return run


def kept(out: Path, code: object, said: str = "") -> dict[str, Any]:
    assert out.exists(), said
    report: dict[str, Any] = json.loads(out.read_text())
    assert (report["broken"], code) == ([], 0), said
    return report


def test_killed_processes_change_nothing(shown: Shown) -> None:
    # The page is killed in test_recovery.
    arguments = ["--frames", "12", "--rate", "8", "--kills", "3", "--save-every", "2", "--replay"]
    report = shown("chaos_kill.py", str(CAPTURE), *arguments)
    assert report["kills"] == dict.fromkeys(("ingest", "session", "publisher"), 1)
    assert report["frames_in_journal"] == 12


def test_a_bad_network_loses_and_doubles_nothing(shown: Shown) -> None:
    arguments = ["--frames", "20", "--rate", "10", "--seeds", "1", "--cut-after", "1"]
    report = shown("chaos_net.py", str(CAPTURE), *arguments, "--with-keys")
    (stream,) = report["streams"]
    assert stream["curve"] and stream["network"]["cut"] > 0


def test_mutated_messages_harm_nobody(shown: Shown) -> None:
    report = shown("fuzz.py", "--messages", "5000", "--structured", "100", "--rate", "1")
    assert sum(report["messages"].values()) >= 5000
    # They get beyond the door: most kinds of answers come.
    assert {"ACK", "REJECT", "ERROR", "PONG", "SNAPSHOT", "MANIFEST"} <= report["answers"].keys()


def test_power_cuts_cost_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    # A process of its own: it forks, which it can do without a parent's threads alone.
    command = [sys.executable, str(BENCHMARKS / "durability.py"), "--json", str(out)]
    command += ["--every", "6", "--ingest-every", "7"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=500)
    report = kept(out, answer.returncode, answer.stderr[-3000:])
    assert report["state, power cut"]["killed_at_steps"] > 10
    assert report["ingest, power cut"]["killed_at_steps"] >= 2

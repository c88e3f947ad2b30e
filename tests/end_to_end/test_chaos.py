"""A small part of what the chaos commands of `benchmarks/` show, each as a command: it ends with 1
where a promise is broken, and says which."""

from __future__ import annotations

import json
import subprocess
import sys
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


def shown(out: Path, script: str, *arguments: str) -> dict[str, Any]:
    """What a command reports; it must have found every promise kept."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(out)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert out.exists(), answer.stderr[-3000:]
    report = json.loads(out.read_text())
    assert (report["broken"], answer.returncode) == ([], 0), answer.stderr[-3000:]
    return report


def test_killed_processes_change_nothing(tmp_path: Path) -> None:
    arguments = ["--frames", "16", "--rate", "8", "--kills", "4", "--save-every", "2", "--replay"]
    report = shown(tmp_path / "report.json", "chaos_kill.py", str(CAPTURE), *arguments)
    assert report["kills"] == dict.fromkeys(("ingest", "session", "publisher", "viewer"), 1)
    assert report["frames_in_journal"] == 16


def test_a_bad_network_loses_and_doubles_nothing(tmp_path: Path) -> None:
    arguments = [
        "--frames",
        "20",
        "--rate",
        "10",
        "--seeds",
        "1",
        "--cut-after",
        "1",
        "--with-keys",
    ]
    report = shown(tmp_path / "report.json", "chaos_net.py", str(CAPTURE), *arguments)
    (stream,) = report["streams"]
    assert stream["curve"] and stream["network"]["cut"] > 0


def test_mutated_messages_harm_nobody(tmp_path: Path) -> None:
    arguments = ["--messages", "5000", "--structured", "100", "--rate", "1"]
    report = shown(tmp_path / "report.json", "fuzz.py", *arguments)
    assert sum(report["messages"].values()) >= 5000
    # They get beyond the door: most kinds of answers come.
    assert {"ACK", "REJECT", "ERROR", "PONG", "SNAPSHOT", "MANIFEST"} <= report["answers"].keys()


def test_power_cuts_cost_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    report = shown(tmp_path / "report.json", "durability.py", "--every", "6", "--ingest-every", "7")
    assert report["state, power cut"]["killed_at_steps"] > 10
    assert report["ingest, power cut"]["killed_at_steps"] >= 2

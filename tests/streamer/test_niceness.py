"""A process that makes way does so for those of other sessions too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.niceness import make_way


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "input()"]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    yield started
    started.kill()
    started.wait()


def test_process_and_its_session_make_way(process: subprocess.Popen[bytes]) -> None:
    make_way(process.pid, 7)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 7
    group = Path(f"/proc/{process.pid}/autogroup")
    if not group.exists():
        pytest.skip("this system does not group processes by session")
    assert group.read_text().endswith("nice 7\n")
    assert not Path("/proc/self/autogroup").read_text().endswith("nice 7\n")


def test_who_is_gone_is_no_trouble(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    make_way(process.pid, 7)

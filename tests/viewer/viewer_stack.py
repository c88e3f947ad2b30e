"""One viewer process, one publisher process and one browser for all tests of the page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser
from publisher_process import PublisherProcess
from viewer_browser import chromium
from viewer_daemon import SessionVoice

MAX_SPLATS = 6_000


@dataclass(frozen=True)
class Stack:
    """What a person has running when the page is open."""

    publisher: PublisherProcess
    voice: SessionVoice
    browser: Browser
    address: str


@contextmanager
def running(run_dir: Path) -> Iterator[Stack]:
    """Everything up, until the end; skips where there is no browser."""
    with chromium() as browser:
        publisher = PublisherProcess(run_dir)
        publisher.start()
        command = [
            sys.executable, "-m", "viewer", "--port", "0", "--max-splats", str(MAX_SPLATS),
            "--updates", publisher.updates, "--requests", publisher.requests,
            "--session", "office",
        ]  # fmt: skip
        viewer = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        voice = SessionVoice(run_dir, "office")
        try:
            assert viewer.stdout is not None
            address = viewer.stdout.readline().split()[1]
            yield Stack(publisher, voice, browser, address)
            viewer.terminate()
            assert viewer.wait(timeout=10) == 0, "the viewer did not end cleanly"
        finally:
            viewer.kill()
            viewer.communicate(timeout=10)
            voice.close()
            publisher.kill()

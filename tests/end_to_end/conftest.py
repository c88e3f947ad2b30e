"""A real daemon on free ports, as `splatstream serve` starts it, and its own words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamer.config import LogConfig, ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess

LIMIT_S = 120.0


@dataclass(frozen=True)
class Served:
    """A running daemon."""

    process: DaemonProcess
    log_file: Path

    @property
    def ingest(self) -> str:
        """Where frames come in."""
        return self.process.addresses["ingest"]

    @property
    def updates(self) -> str:
        """Where changes of the maps go out."""
        return self.process.addresses["updates"]

    @property
    def requests(self) -> str:
        """Where snapshots and the like are asked for."""
        return self.process.addresses["requests"]

    @property
    def log(self) -> str:
        """What the daemon and its processes said."""
        return self.log_file.read_text() if self.log_file.exists() else ""


@contextmanager
def serving(folder: Path, max_sessions: int = 4) -> Iterator[Served]:
    """`splatstream serve` without a page and without refinement; ready when entered."""
    log_file = folder / "daemon.log"
    config = ServeConfig(
        ingest="tcp://127.0.0.1:*",
        updates="tcp://127.0.0.1:*",
        requests="tcp://127.0.0.1:*",
        session_dir=folder / "sessions",
        max_sessions=max_sessions,
        session=SessionConfig(long_side=64, refine=False),
        viewer=ViewerConfig(enabled=False),
        log=LogConfig(file=log_file),
    )
    with DaemonProcess(config) as process:
        yield Served(process, log_file)


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One daemon for the tests of a module, which says with `MAX_SESSIONS` how many it needs: no
    process is kept ready for another one then."""
    most = getattr(request.module, "MAX_SESSIONS", 4)
    with serving(tmp_path_factory.mktemp("served"), most) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], object], str], None]:
    """`wait_for(condition, what)`: until it holds, or fail."""

    def wait(condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < until, f"waited {LIMIT_S} s for {what}"
            time.sleep(0.1)

    return wait

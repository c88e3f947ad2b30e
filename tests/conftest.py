"""What several test packages share: where captures and fixtures lie, honest skips, and an order in
which no worker is left with a long file at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
SHARED = ROOT.parent / "shared"

LONG_FIRST = ("end_to_end", "viewer", "streamer", "ttt_core/training")
"""Packages of tests, those with the longest files first; the others follow."""

# How long an example takes is the machine's affair, which has other work.
settings.register_profile(
    "suite", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C reaches what a test starts: a shell's background job ignores it, and so would all
    processes under it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """In a fresh clone the kernels are compiled once, before anybody waits for a daemon: every
    worker and every daemon would compile them beside the others, and take minutes to be ready."""
    is_worker = hasattr(session.config, "workerinput")
    if not is_worker and not any((ROOT / "gs_decoder").rglob("*.nbc")):
        warm_up = "from streamer.session.engine import Engine; Engine().warm_up(48, 64)"
        subprocess.run([sys.executable, "-c", warm_up], cwd=ROOT, check=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Whoever stops a run of minutes before its end knows all the same what failed."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid} failed ({report.when})", file=sys.stderr, flush=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files in another order; each keeps its own."""
    order = {ROOT / "tests" / name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: order.get(item.path.parent, len(order)))


@pytest.fixture(scope="session")
def fixture_file():
    """`fixture_file("tttlrm/x.safetensors")`: a numeric fixture, in the repository or beside it."""

    def find(relative: str) -> Path:
        for base in (FIXTURES, SHARED / "fixtures"):
            if (base / relative).is_file():
                return base / relative
        pytest.skip(f"the numeric fixture {relative} is not on this machine")

    return find


@pytest.fixture(scope="session")
def capture_dir():
    """`capture_dir("skull")`: a real capture beside the repository, or a skip that says so."""

    def find(name: str) -> Path:
        path = SHARED / "captures" / name
        if not path.is_dir():
            pytest.skip(f"the capture {name} is not on this machine")
        return path

    return find

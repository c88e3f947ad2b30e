"""What several test packages share: where captures and fixtures lie, and honest skips."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
SHARED = ROOT.parent / "shared"


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

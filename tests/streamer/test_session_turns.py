"""Who refines makes way for who works on frames, and is not starved by it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.session.turns import SHARE, Turns


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Turns, Turns]]:
    """Two sessions of one daemon."""
    first, second = Turns(tmp_path), Turns(tmp_path)
    yield first, second
    first.close()
    second.close()


def test_nobody_waits_where_nobody_works(pair: tuple[Turns, Turns]) -> None:
    for session in pair:
        session.refined(0.0, 1.0)
        assert session.may_refine(1.0)


def test_while_another_works_a_step_takes_its_share_and_no_more(pair: tuple[Turns, Turns]) -> None:
    refining, streaming = pair
    with streaming.working():
        assert refining.may_refine(100.0)
        refining.refined(100.0, 100.5)
        pause = 0.5 / SHARE - 0.5
        assert not refining.may_refine(100.6)
        assert not refining.may_refine(100.5 + pause - 0.01)
        assert refining.may_refine(100.5 + pause)
    assert refining.may_refine(100.6)


def test_any_number_work_at_once(tmp_path: Path, pair: tuple[Turns, Turns]) -> None:
    first, second = pair
    third = Turns(tmp_path)
    third.refined(0.0, 1.0)
    with first.working():
        with second.working():
            assert not third.may_refine(1.0)
        assert not third.may_refine(1.0)
    assert third.may_refine(1.0)
    third.close()


def test_who_is_killed_at_work_is_in_nobodys_way(tmp_path: Path, pair: tuple[Turns, Turns]) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from streamer.session.turns import Turns\n"
        "with Turns(Path(sys.argv[1])).working():\n"
        "    print('works', flush=True)\n"
        "    time.sleep(600)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "works\n"
    pair[0].refined(0.0, 1.0)
    assert not pair[0].may_refine(1.0)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert pair[0].may_refine(1.0)

"""`splatstream sessions`: what lies on the disk, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_helpers import feed, make_engine, office
from journal_helpers import mixed

from gs_decoder import read_ply
from streamer.cli import dispatch
from streamer.journal import Journal
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.folder import begin_life, end_life
from streamer.session.state_files import Cursor
from streamer.session.storage import save_state

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine, _ = make_engine()
    feed(engine, office(0, 4))
    engine.publish()
    yield engine
    engine.close()


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """A session that was told to end, with a journal of 14 frames."""
    folder = tmp_path / "kitchen"
    begin_life(folder, anew=False)
    journal = Journal.open(folder, "kitchen", 1, segment_bytes=2000)
    for item in mixed(14):
        journal.write([item])
    journal.close()
    end_life(folder)
    return folder


def sessions(folder: Path, *arguments: str) -> int:
    return dispatch(["sessions", *arguments, "--session-dir", str(folder)])


def test_what_there_is_is_listed(
    tmp_path: Path, kitchen: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_life(tmp_path / "attic", anew=False)
    save_state(engine_state(engine), kitchen, Cursor(epoch=1, next_seq=14, settings={}))
    assert sessions(tmp_path) == 0
    heading, attic, listed = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["session", "state", "frames"]
    assert re.match(r"attic +was killed +- +- +0\.0 MB +0 ", attic)
    # Of 14 frames two were rejected and two dropped.
    assert re.match(r"kitchen +ended +12 +2 +\d\.\d MB +1 ", listed)
    journal = Journal.open(kitchen, "kitchen", 1)
    assert sessions(tmp_path, "show", "kitchen") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^state +runs$", shown, re.M)
    assert re.search(r"^frames +12 accepted, 2 dropped, 2 rejected$", shown, re.M)
    assert re.search(r"^states +0$", shown, re.M)
    journal.close()


def test_a_map_is_taken_out_of_the_newest_whole_state(
    tmp_path: Path, kitchen: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps" / "map.ply"
    assert sessions(tmp_path, "export", "kitchen", "--out", str(out)) == 2
    assert "no saved state" in capsys.readouterr().err
    for next_seq in (4, 8):
        cursor = Cursor(epoch=1, next_seq=next_seq, settings={})
        newest = save_state(engine_state(engine), kitchen, cursor)
    assert sessions(tmp_path, "export", "kitchen", "--out", str(out)) == 0
    assert "the map after frame 7" in capsys.readouterr().out
    origin = engine.map.origin()
    read = read_ply(out)
    assert read.splats.count > 100
    assert torch.equal(read.splats.means, engine.map.splats_world(origin=origin).means)
    (newest / "chunks.safetensors").write_bytes(b"")
    assert sessions(tmp_path, "export", "kitchen", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "the map after frame 3" in said
    assert f"{newest}: damaged" in said
    assert sessions(tmp_path, "export", "kitchen", "--out", "map") == 2
    assert "--out map.ply" in capsys.readouterr().err


def test_only_what_no_daemon_holds_is_deleted(
    tmp_path: Path, kitchen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sessions(tmp_path, "delete", "kitchen") == 2
    assert "add --yes" in capsys.readouterr().err
    journal = Journal.open(kitchen, "kitchen", 1)
    assert sessions(tmp_path, "delete", "kitchen", "--yes") == 2
    assert "kitchen runs in a daemon" in capsys.readouterr().err
    assert (kitchen / "session.json").is_file()
    journal.close()
    assert sessions(tmp_path, "delete", "kitchen", "--yes") == 0
    assert "deleted" in capsys.readouterr().out
    assert not kitchen.exists()
    begin_life(tmp_path / "attic", anew=False)
    assert sessions(tmp_path, "delete", "attic", "--yes") == 2
    assert "has no journal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show",), "which session?"),
        (("list", "kitchen"), "say show kitchen"),
        (("show", "kitchn"), "did you mean 'kitchen'?"),
        (("delete", "../kitchen", "--yes"), "is no name"),
    ],
)
def test_what_is_not_meant_is_said(
    tmp_path: Path,
    kitchen: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert sessions(tmp_path, *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_session_is_named_and_can_be_deleted(
    tmp_path: Path, kitchen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = sorted((kitchen / "journal").iterdir())[-1]
    last.write_bytes(b"not a journal")
    (tmp_path / "shed").mkdir()
    (tmp_path / "shed" / "session.json").write_text("{}")
    assert sessions(tmp_path, "list") == 1
    said = capsys.readouterr().out
    assert re.search(r"^shed +damaged", said, re.M)
    assert "wrong: shed: " in said
    assert sessions(tmp_path, "delete", "shed", "--yes") == 0
    assert sessions(tmp_path, "delete", "kitchen", "--yes") == 0
    assert list(tmp_path.iterdir()) == []

"""Journals that are to stay small: what goes, and that nobody who goes on misses it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_helpers import feed, make_engine, office
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_helpers import POSE, frame, mixed

from streamer.cli import dispatch
from streamer.config import ConfigError, JournalConfig
from streamer.ingest.catchup import Plan, Section, plan
from streamer.journal import Corrected, Item, Journal, first_seq, read_journal, segments
from streamer.keep import Keep, parse_keep
from streamer.replay import Recording
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.folder import STATES, begin_life, end_life, write_aside
from streamer.session.state_files import CURSOR, FORMAT, Cursor
from streamer.session.state_writer import StateWriter
from streamer.session.storage import save_state, shorten_journal

SETTINGS = {"long_side": 64, "weights": "none"}
NOTHING = Keep(max_bytes=1)


def cursor(next_seq: int, epoch: int = 1, long_side: int = 64) -> Cursor:
    return Cursor(epoch=epoch, next_seq=next_seq, settings={**SETTINGS, "long_side": long_side})


def put_state(folder: Path, number: int, where: Cursor) -> None:
    """What tells a reader where a state stands; the rest of it is not looked at here."""
    state = folder / STATES / str(number)
    state.mkdir(parents=True)
    header = {"format": FORMAT, "epoch": where.epoch, "next_seq": where.next_seq}
    write_aside(state / CURSOR, {**header, "settings": dict(where.settings)})


def write(folder: Path, items: list[Item], segment_bytes: int) -> None:
    """A session's journal, closed."""
    begin_life(folder, anew=False)
    journal = Journal.open(folder, folder.name, 1, segment_bytes=segment_bytes)
    for start in range(0, len(items), 2):
        journal.write(items[start : start + 2])
    journal.close()
    end_life(folder)


def told(folder: Path, next_seq: int) -> Plan:
    """What a process that stands there is told."""
    section = Section(
        folder=folder,
        epoch=1,
        next_seq=next_seq,
        upto=2**53,
        pose_revision=-1,
        dropped=frozenset(),
        durable_end=None,
        batch=4,
    )
    return plan(read_journal(folder, 1, from_seq=next_seq), section)


def frames_told(folder: Path, next_seq: int) -> tuple[list[object], int]:
    made = told(folder, next_seq)
    # Corrections before the state are part of it, so those alone may go that came before it.
    return [step for step in made.steps if not isinstance(step, Corrected)], len(made.wanted)


def corrections_after(folder: Path, next_seq: int, items: list[Item]) -> set[int]:
    """Revisions that came after the last frame that the state has, of those that are there."""
    seen, after = -1, set()
    for item in items:
        entry = item.entry
        if hasattr(entry, "header"):
            seen = entry.header.seq
        elif hasattr(entry, "seq"):
            seen = entry.seq
        elif isinstance(entry, Corrected) and seen >= next_seq - 1:
            after.add(entry.revision)
    kept = {s.revision for s in told(folder, next_seq).steps if isinstance(s, Corrected)}
    return after - kept


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    frames=st.integers(1, 60),
    segment_bytes=st.integers(300, 6000),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    corrections=st.sets(st.integers(0, 59), max_size=6),
    limit=st.integers(1, 30_000),
)
def test_nobody_who_goes_on_misses_anything(
    tmp_path_factory: pytest.TempPathFactory,
    frames: int,
    segment_bytes: int,
    ends: tuple[float, float],
    corrections: set[int],
    limit: int,
) -> None:
    folder = tmp_path_factory.mktemp("keep") / "hall"
    items: list[Item] = []
    for item in mixed(frames):
        items.append(item)
        seq = getattr(getattr(item.entry, "header", None), "seq", None)
        if seq in corrections:
            poses = [(seq, POSE.reshape(-1).tolist())]
            items.append(Item(Corrected(revision=seq, client="slam", entries=poses)))
    write(folder, items, segment_bytes)
    older, newer = sorted(round(end * frames) for end in ends)
    put_state(folder, 0, cursor(older))
    put_state(folder, 1, cursor(newer))
    before = {c: frames_told(folder, c) for c in (older, newer)}
    files = segments(folder, 1)

    gone = shorten_journal(folder, cursor(newer), Keep(max_bytes=limit))

    left = segments(folder, 1)
    assert [file.path for file in files] == gone + [file.path for file in left]
    assert {c: frames_told(folder, c) for c in (older, newer)} == before
    assert not corrections_after(folder, older, items)
    assert not corrections_after(folder, newer, items)
    # As much goes as may: the limit holds, or the oldest file that is left is needed.
    total = sum(file.path.stat().st_size for file in left)
    assert total <= limit or len(left) == 1 or first_seq(left[1].path) >= older
    assert shorten_journal(folder, cursor(newer), Keep(max_bytes=limit)) == []
    # Whoever opens it goes on where it ended.
    journal = Journal.open(folder, "hall", 1)
    assert journal.history.next_seq == frames
    journal.write([frame(frames)])
    journal.close()
    assert frames_told(folder, newer)[1] == before[newer][1] + 1


def test_age_counts_from_what_a_file_was_written_last(tmp_path: Path) -> None:
    write(tmp_path / "hall", mixed(30), 1500)
    for number in (0, 1):
        put_state(tmp_path / "hall", number, cursor(30))
    files = [segment.path for segment in segments(tmp_path / "hall", 1)]
    assert len(files) > 4
    for path in files[:2]:
        os.utime(path, (0, 0))
    week = Keep(max_age_s=7 * 86400.0)
    assert shorten_journal(tmp_path / "hall", cursor(30), week) == files[:2]


@pytest.mark.parametrize(
    "kept",
    [
        [],
        [cursor(30)],
        [cursor(30), cursor(30, long_side=96)],
        [cursor(30), cursor(30, epoch=2)],
        [cursor(0), cursor(30)],
    ],
    ids=["no state", "one state", "other settings", "another epoch", "one at the beginning"],
)
def test_nothing_goes_where_the_journal_may_be_all_there_is(
    tmp_path: Path, kept: list[Cursor]
) -> None:
    write(tmp_path / "hall", mixed(30), 1500)
    for number, where in enumerate(kept):
        put_state(tmp_path / "hall", number, where)
    assert shorten_journal(tmp_path / "hall", cursor(30), NOTHING) == []
    (tmp_path / "hall" / STATES / "7").mkdir(parents=True)
    assert shorten_journal(tmp_path / "hall", cursor(30), NOTHING) == []


def test_by_default_everything_stays(tmp_path: Path) -> None:
    write(tmp_path / "hall", mixed(30), 1500)
    for number in (0, 1):
        put_state(tmp_path / "hall", number, cursor(30))
    files = segments(tmp_path / "hall", 1)
    keep = parse_keep(JournalConfig().keep)
    assert shorten_journal(tmp_path / "hall", cursor(30), keep) == []
    assert segments(tmp_path / "hall", 1) == files


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("all", Keep()),
        ("20GB", Keep(max_bytes=20 * 10**9)),
        ("1.5 GiB", Keep(max_bytes=3 << 29)),
        ("90min", Keep(max_age_s=5400)),
        ("7d", Keep(max_age_s=7 * 86400)),
    ],
)
def test_amounts_are_read(text: str, keep: Keep) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["", "20", "GB", "0GB", "-1d", "7 days", "1e9MB"])
def test_what_is_no_amount_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ConfigError, match=r"journal\.keep: .*20GB, 7d"):
        JournalConfig(keep=text)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine, _ = make_engine()
    feed(engine, office(0, 4))
    engine.publish()
    yield engine
    engine.close()


@pytest.mark.timeout(300)
def test_a_session_shortens_its_journal_when_it_saves_and_says_what_is_missing(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hall"
    write(folder, mixed(30), 1500)
    save_state(engine_state(engine), folder, cursor(16))
    files = segments(folder, 1)
    writer = StateWriter(folder, NOTHING)
    writer.put(engine_state(engine), cursor(30))
    writer.close()
    left = segments(folder, 1)
    begins = first_seq(left[0].path)
    assert 0 < begins < 16
    assert len(left) < len(files)
    assert dispatch(["sessions", "show", "hall", "--session-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"^journal .*frames 0 to {begins - 1} are gone", shown, re.M)
    assert Recording(folder, 4).begins == begins
    assert told(folder, 0).begins == begins

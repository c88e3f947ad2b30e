"""A session's name never leads out of the sessions' folder: at the door and behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ingest_harness import IngestHarness, running_ingest
from raw_client import hello

from streamer.session.folder import SessionFolderError, begin_epoch, session_folder

BASE = Path("/var/lib/splatstream/sessions")
pieces = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "\\",
        "~",
        "a",
        "B9",
        "-",
        "_",
        "\0",
        "\n",
        " ",
        "%2e",
        "$HOME",
        "ä",
        "kitchen",
    ]
)
names = st.one_of(st.text(max_size=80), st.lists(pieces, max_size=12).map("".join))
nasty = ("", "..", "../x", "/etc", "a/../../b", "a\n", "a\0b", "-rf", ".hidden", "a" * 65, "con/")


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IngestHarness]:
    run_dir = tmp_path_factory.mktemp("r")
    with running_ingest(run_dir) as harness:
        yield harness


@given(name=names)
@settings(max_examples=150)
def test_a_folder_is_right_inside_or_there_is_none(name: str) -> None:
    try:
        folder = session_folder(BASE, name)
    except SessionFolderError as error:
        assert "is no name" in str(error)
        return
    assert folder.parent == BASE and folder.name == name
    assert folder.resolve().parent == BASE.resolve()
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)


@pytest.mark.parametrize("name", nasty)
def test_these_are_no_names(name: str) -> None:
    with pytest.raises(SessionFolderError):
        session_folder(BASE, name)


@given(name=names)
@example(name="../../escaped")
@example(name="/tmp/escaped")
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_door_takes_names_only_and_writes_inside(ingest: IngestHarness, name: str) -> None:
    outside = set(ingest.run_dir.parent.iterdir())
    with ingest.client() as client:
        client.send("HELLO", {**hello(), "session": name})
        kind, header = client.receive("WELCOME", "ERROR")
    try:
        session_folder(BASE, name)
    except SessionFolderError:
        assert kind == "ERROR" and header["code"] in ("bad_session", "bad_header")
    else:
        assert kind == "WELCOME"
    assert set(ingest.run_dir.parent.iterdir()) == outside
    notes = ingest.run_dir / "ingest"
    for path in notes.rglob("*") if notes.exists() else ():
        assert path.parent == notes and path.is_file()


def test_files_of_a_session_are_for_its_user_only(tmp_path: Path) -> None:
    folder = session_folder(tmp_path / "sessions", "kitchen")
    begin_epoch(folder)
    for place in (tmp_path / "sessions", folder):
        assert place.stat().st_mode & 0o777 == 0o700
    assert (folder / "session.json").stat().st_mode & 0o777 == 0o600

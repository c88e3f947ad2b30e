"""The allow-list: what lies in its folders is what is granted, at every moment."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamer.access.allowlist import AllowList, Grant, make_allow_folder
from streamer.access.keys import new_keypair, write_public
from streamer.access.rights import NONE, RIGHTS, Rights

KEYS = [new_keypair().public for _ in range(3)]
names = st.sampled_from(["robot", "phone"])
places = st.sampled_from([*RIGHTS, "ingest/kitchen", "ingest/lab-*", "control/kitchen"])
keys = st.sampled_from(KEYS)


class Changes(RuleBasedStateMachine):
    """Files come, change, break and go; after every look the list is what a model says."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        make_allow_folder(self.folder)
        self.files: dict[tuple[str, str], bytes | None] = {}
        self.ours = new_keypair().public
        grant = Grant("ours", Rights.everywhere("watch"))
        self.listed = AllowList(self.folder, {self.ours: grant})

    def path(self, place: str, name: str) -> Path:
        folder = self.folder / place
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.key"

    @rule(name=names, place=places, key=keys)
    def put(self, name: str, place: str, key: bytes) -> None:
        write_public(self.path(place, name), key)
        self.files[place, name] = key

    @rule(name=names, place=places)
    def spoil(self, name: str, place: str) -> None:
        self.path(place, name).write_text("no key at all")
        self.files[place, name] = None

    @rule(name=names, place=places)
    def remove(self, name: str, place: str) -> None:
        self.path(place, name).unlink(missing_ok=True)
        self.files.pop((place, name), None)

    @rule(place=places)
    def drop_folder(self, place: str) -> None:
        shutil.rmtree(self.folder / place, ignore_errors=True)
        for file in list(self.files):
            if f"{file[0]}/".startswith(f"{place}/"):
                del self.files[file]
        self.listed.refresh()
        make_allow_folder(self.folder)

    @invariant()
    def granted_is_what_lies_there(self) -> None:
        self.listed.refresh()
        for key in KEYS:
            held = [place for (place, _), held in self.files.items() if held == key]
            places = [place.partition("/") for place in held]
            wanted = {(right, sessions or "*") for right, _, sessions in places}
            assert self.listed.rights(key).permissions == wanted
        assert self.listed.rights(self.ours) == Rights.everywhere("watch")
        assert self.listed.rights(new_keypair().public) == NONE
        assert not self.listed.refresh()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    make_allow_folder(tmp_path)
    key = new_keypair().public
    write_public(tmp_path / "watch" / ".robot.key-x.key", key)
    write_public(tmp_path / "watch" / "robot.key.bak", key)
    listed = AllowList(tmp_path)
    listed.refresh()
    assert listed.rights(key) == NONE


def test_a_file_that_is_no_key_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_allow_folder(tmp_path)
    (tmp_path / "watch" / "robot.key").write_text("public-key = hello")
    listed = AllowList(tmp_path)
    for _ in range(3):
        listed.refresh()
    assert caplog.text.count("robot.key") == 1


def test_a_file_that_others_can_write_allows_nobody_until_they_cannot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_allow_folder(tmp_path)
    file, key = tmp_path / "watch" / "robot.key", new_keypair().public
    write_public(file, key)
    listed = AllowList(tmp_path)
    watch = Rights.everywhere("watch")
    for mode, granted in ((0o666, NONE), (0o644, watch), (0o664, NONE), (0o600, watch)):
        file.chmod(mode)
        listed.refresh()
        assert listed.rights(key) == granted
    assert caplog.text.count(f"chmod go-w {file}") == 2


@pytest.mark.parametrize(
    ("place", "mode", "complaint"),
    [
        ("watch/kitchen", 0o755, "who may watch sees all sessions"),
        ("ingest/kit chen", 0o755, "its name is none of a session"),
        ("ingest/[a-z]", 0o755, "its name is none of a session"),
        ("control/kitchen", 0o775, "chmod go-w"),
    ],
)
def test_a_folder_that_cannot_name_sessions_allows_nobody_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, mode: int, complaint: str
) -> None:
    make_allow_folder(tmp_path)
    folder, key = tmp_path / place, new_keypair().public
    folder.mkdir()
    folder.chmod(mode)
    write_public(folder / "robot.key", key)
    listed = AllowList(tmp_path)
    for _ in range(3):
        listed.refresh()
        assert listed.rights(key) == NONE
    assert caplog.text.count(complaint) == 1 and str(folder) in caplog.text


@pytest.mark.parametrize(
    ("pattern", "covered", "others"),
    [
        ("kitchen", ["kitchen"], ["kitchen2", "Kitchen", "a.kitchen"]),
        ("lab-*", ["lab-", "lab-1", "lab-a.b"], ["lab", "alab-1"]),
        ("*.day", ["mon.day"], ["monday", ".days"]),
        ("*", ["kitchen", "lab-1"], []),
    ],
)
def test_a_pattern_covers_the_sessions_that_it_names(
    pattern: str, covered: list[str], others: list[str]
) -> None:
    rights = Rights(frozenset({("ingest", pattern)}))
    assert all(rights.covers("ingest", session) for session in covered)
    assert not any(rights.covers("ingest", session) for session in others)
    assert not any(rights.covers("control", session) for session in covered)

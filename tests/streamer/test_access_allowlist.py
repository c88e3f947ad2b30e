"""The allow-list: what lies in its folders is what is granted, at every moment."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamer.access.allowlist import NONE, RIGHTS, AllowList, Grant, make_allow_folder
from streamer.access.keys import new_keypair, write_public

KEYS = [new_keypair().public for _ in range(3)]
names = st.sampled_from(["robot", "phone"])
rights = st.sampled_from(RIGHTS)
keys = st.sampled_from(KEYS)


class Changes(RuleBasedStateMachine):
    """Files come, change, break and go; after every look the list is what a model says."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        make_allow_folder(self.folder)
        self.files: dict[tuple[str, str], bytes | None] = {}
        self.ours = new_keypair().public
        grant = Grant("ours", frozenset({"watch"}))
        self.listed = AllowList(self.folder, {self.ours: grant})

    @rule(name=names, right=rights, key=keys)
    def put(self, name: str, right: str, key: bytes) -> None:
        write_public(self.folder / right / f"{name}.key", key)
        self.files[right, name] = key

    @rule(name=names, right=rights)
    def spoil(self, name: str, right: str) -> None:
        (self.folder / right / f"{name}.key").write_text("no key at all")
        self.files[right, name] = None

    @rule(name=names, right=rights)
    def remove(self, name: str, right: str) -> None:
        (self.folder / right / f"{name}.key").unlink(missing_ok=True)
        self.files.pop((right, name), None)

    @rule(right=rights)
    def drop_folder(self, right: str) -> None:
        shutil.rmtree(self.folder / right)
        self.files = {place: key for place, key in self.files.items() if place[0] != right}
        self.listed.refresh()
        make_allow_folder(self.folder)

    @invariant()
    def granted_is_what_lies_there(self) -> None:
        self.listed.refresh()
        for key in KEYS:
            wanted = {right for (right, _), held in self.files.items() if held == key}
            assert self.listed.rights(key) == wanted
        assert self.listed.rights(self.ours) == {"watch"}
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
    for mode, granted in ((0o666, NONE), (0o644, {"watch"}), (0o664, NONE), (0o600, {"watch"})):
        file.chmod(mode)
        listed.refresh()
        assert listed.rights(key) == granted
    assert caplog.text.count(f"chmod go-w {file}") == 2

"""Key files: their permissions, what is refused, and what `splatstream keygen` leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmq.auth import load_certificate

from streamer.access.allowlist import AllowList
from streamer.access.daemon import check_keys_folder, make_keys_folder
from streamer.access.keys import (
    ClientKeys,
    KeyFileError,
    load_keys,
    new_keypair,
    read_public,
    read_secret,
    write_keypair,
    write_public,
)
from streamer.access.token import page_token
from streamer.cli import dispatch


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_key_is_read_back_and_its_secret_is_for_its_owner_only(tmp_path: Path) -> None:
    pair = new_keypair()
    folder = tmp_path / "keys"
    write_keypair(folder, "robot", pair)
    assert read_secret(folder / "robot.key_secret") == pair
    assert read_public(folder / "robot.key") == pair.public
    assert mode(folder) == 0o700
    assert mode(folder / "robot.key_secret") == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["robot.key", "robot.key_secret"]
    assert pair.secret not in (folder / "robot.key").read_bytes()
    # czmq and pyzmq read the same files.
    assert load_certificate(folder / "robot.key_secret") == (pair.public, pair.secret)


def test_a_secret_is_not_shown_where_keys_are_printed() -> None:
    pair = new_keypair()
    assert pair.secret.decode() not in repr(ClientKeys(pair, pair.public))


def test_a_key_is_replaced_only_by_force(tmp_path: Path) -> None:
    first, second = new_keypair(), new_keypair()
    write_keypair(tmp_path, "robot", first)
    with pytest.raises(KeyFileError, match=r"robot\.key_secret is there already"):
        write_keypair(tmp_path, "robot", second)
    assert read_secret(tmp_path / "robot.key_secret") == first
    write_keypair(tmp_path, "robot", second, force=True)
    assert read_secret(tmp_path / "robot.key_secret") == second


@pytest.mark.parametrize("name", ["", "../robot", "a/b", ".hidden", "a" * 65, "robot\n", "rob ot"])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="name:"):
        write_keypair(tmp_path, name, new_keypair())
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write_keypair(tmp_path, "robot", new_keypair())
    path = tmp_path / "robot.key_secret"
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_secret(path)


def test_halves_of_two_keys_are_refused(tmp_path: Path) -> None:
    one, other = new_keypair(), new_keypair()
    path = tmp_path / "robot.key_secret"
    write_keypair(tmp_path, "robot", one)
    path.write_bytes(path.read_bytes().replace(one.public, other.public))
    with pytest.raises(KeyFileError, match="do not belong together"):
        read_secret(path)


def test_a_public_file_is_no_secret_one(tmp_path: Path) -> None:
    write_keypair(tmp_path, "robot", new_keypair())
    with pytest.raises(KeyFileError, match="holds no secret key"):
        ClientKeys.load(tmp_path / "robot.key", tmp_path / "robot.key")
    with pytest.raises(KeyFileError, match="no such key file"):
        ClientKeys.load(tmp_path / "robot.key_secret", tmp_path / "daemon.key")


def test_both_options_or_none(tmp_path: Path) -> None:
    assert load_keys(None, None) is None
    with pytest.raises(KeyFileError, match="--server-key: missing"):
        load_keys(tmp_path / "robot.key_secret", None)
    with pytest.raises(KeyFileError, match="--key: missing"):
        load_keys(None, tmp_path / "daemon.key")


@given(content=st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(
    lambda junk: b'public-key = "' + junk + b'"\n'
)))  # fmt: skip
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_anything_is_a_key_or_a_named_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.key"
    path.write_bytes(content)
    try:
        assert len(read_public(path)) == 40
    except KeyFileError as error:
        assert str(path) in str(error)


def test_keygen_says_what_to_copy_where(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "keys"
    assert dispatch(["keygen", "daemon", "--dir", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"splatstream serve --keys {folder}" in said and "daemon.key" in said
    assert check_keys_folder(folder) == [
        f"keys: {folder / 'allowed'} allows nobody yet; keys put there are taken without a restart"
    ]
    assert dispatch(["keygen", "robot", "--dir", str(folder), "--allow", "ingest", "watch"]) == 0
    said = capsys.readouterr().out
    assert f"--key {folder}/robot.key_secret --server-key daemon.key" in said
    assert "allowed here to: ingest, watch" in said
    assert check_keys_folder(folder) == []
    for right in ("ingest", "watch"):
        allowed = read_public(folder / "allowed" / right / "robot.key")
        assert allowed == read_public(folder / "robot.key")
        assert mode(folder / "allowed" / right) == 0o700
    assert not (folder / "allowed" / "control" / "robot.key").exists()
    # Of that name, copied here from another machine.
    scout, other = folder / "allowed" / "watch" / "scout.key", new_keypair().public
    write_public(scout, other)
    scouts = ["keygen", "scout", "--dir", str(folder), "--allow", "watch"]
    assert dispatch(scouts) == 2
    assert "scout.key is there already, another client's" in capsys.readouterr().err
    assert read_public(scout) == other and not (folder / "scout.key").exists()
    assert dispatch([*scouts, "--force"]) == 0
    assert read_public(scout) == read_public(folder / "scout.key")
    capsys.readouterr()
    assert dispatch(["keygen", "phone", "--dir", str(tmp_path / "phone")]) == 0
    assert "copy it into the daemon's allowed/ingest/" in capsys.readouterr().out


def test_keygen_allows_a_key_in_some_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "keys"
    make_keys_folder(folder)
    robot = ["keygen", "robot", "--dir", str(folder), "--allow", "ingest", "control"]
    assert dispatch([*robot, "--sessions", "kitchen", "lab-*"]) == 0
    assert "ingest, control, in kitchen, lab-* alone" in capsys.readouterr().out
    listed = AllowList(folder / "allowed")
    listed.refresh()
    assert listed.rights(read_public(folder / "robot.key")).permissions == {
        (right, session) for right in ("ingest", "control") for session in ("kitchen", "lab-*")
    }
    assert mode(folder / "allowed" / "ingest" / "lab-*") == 0o700
    assert check_keys_folder(folder) == []


def test_keygen_writes_secrets_narrowly_under_a_wide_umask(tmp_path: Path) -> None:
    code = (
        "import os; os.umask(0)\n"
        "from streamer.cli import dispatch\n"
        f"assert dispatch(['keygen', 'daemon', '--dir', {str(tmp_path / 'keys')!r}]) == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    folder = tmp_path / "keys"
    assert mode(folder / "daemon.key_secret") == 0o600
    for place in (folder, folder / "allowed", folder / "allowed" / "control"):
        assert mode(place) == 0o700


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["robot", "--allow", "watch"], "make the daemon's key first"),
        (["daemon", "--allow", "watch"], "needs no rights"),
        (["../robot"], "name: '../robot' is none"),
        (["robot", "--sessions", "lab"], "say which right"),
        (["robot", "--allow", "watch", "--sessions", "lab"], "who may watch sees all sessions"),
        (["robot", "--allow", "ingest", "--sessions", "../lab"], "'../lab' is no name"),
    ],
)
def test_keygen_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], complaint: str
) -> None:
    assert dispatch(["keygen", *arguments, "--dir", str(tmp_path)]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "page" / "token"
    token = page_token(path)
    assert len(token) >= 32 and mode(path) == 0o600
    assert page_token(path) == token
    assert page_token(tmp_path / "other") != token
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        page_token(path)


@pytest.mark.parametrize("content", ["", "short", "a word with spaces in it", "ä" * 20])
def test_what_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="holds no token"):
        page_token(path)


def test_a_daemon_does_not_start_with_a_folder_that_others_can_write(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with pytest.raises(KeyFileError, match="splatstream keygen daemon"):
        check_keys_folder(folder)
    make_keys_folder(folder)
    (folder / "allowed" / "watch").chmod(0o777)
    with pytest.raises(KeyFileError, match="could allow themselves"):
        check_keys_folder(folder)

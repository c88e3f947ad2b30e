"""What is checked before anything starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.access.daemon import make_keys_folder
from streamer.access.keys import KeyFileError
from streamer.config import ConfigError, ServeConfig, ViewerConfig
from streamer.preflight import check_config, claim_viewer_port, is_loopback, reachable
from streamer.run_dir import make_run_dir, remove_run_dir


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "lo", "[::1]", "::1"])
def test_these_reach_this_machine_only(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "10.0.0.1", "eth0", "example.org", "::", ""])
def test_these_do_not(host: str) -> None:
    assert not is_loopback(host)


def test_insecure_is_allowed_with_a_warning() -> None:
    config = ServeConfig(updates="tcp://0.0.0.0:5556", insecure=True)
    config.viewer.host = "0.0.0.0"
    warnings = check_config(config)
    assert len(warnings) == 2
    assert any("tcp://0.0.0.0:5556" in warning for warning in warnings)


def test_other_addresses_need_keys(tmp_path: Path) -> None:
    config = ServeConfig(requests="tcp://0.0.0.0:5557")
    with pytest.raises(ConfigError, match="splatstream keygen daemon"):
        check_config(config)
    config.keys = tmp_path / "keys"
    with pytest.raises(KeyFileError, match=r"daemon\.key_secret"):
        check_config(config)
    make_keys_folder(config.keys)
    (warning,) = check_config(config)
    assert "allows nobody yet" in warning
    config.viewer.host = "0.0.0.0"
    with pytest.raises(ConfigError, match=r"viewer\.host: 0\.0\.0\.0.*--viewer-token"):
        check_config(config)
    config.viewer.token_file = tmp_path / "page" / "token"
    assert any("plain HTTP" in warning for warning in check_config(config))
    assert config.viewer.token_file.stat().st_mode & 0o777 == 0o600


def test_a_page_for_everybody_is_refused_but_not_one_that_is_off() -> None:
    with pytest.raises(ConfigError, match=r"viewer\.host: 0\.0\.0\.0"):
        check_config(ServeConfig(viewer=ViewerConfig(host="0.0.0.0")))
    assert check_config(ServeConfig(viewer=ViewerConfig(host="0.0.0.0", enabled=False))) == []


def test_the_page_gets_a_free_port_and_a_taken_one_is_named() -> None:
    free = claim_viewer_port(ServeConfig(viewer=ViewerConfig(port=0)))
    assert free.viewer.port > 0
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--viewer-port: 127.0.0.1:{port}"):
            claim_viewer_port(ServeConfig(viewer=ViewerConfig(port=port)))


def test_who_binds_everything_is_reached_on_loopback() -> None:
    assert reachable("tcp://0.0.0.0:5556") == "tcp://127.0.0.1:5556"
    assert reachable("tcp://10.0.0.1:5556") == "tcp://10.0.0.1:5556"


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of run folders; pytest's own would be too long a path for a socket."""
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_folders_of_killed_daemons_are_removed_and_living_ones_kept(short_folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = short_folder / f"splatstream-{process.pid}-abc"
    living = short_folder / f"splatstream-{os.getppid()}-abc"
    other = short_folder / "splatstream-notes"
    for folder in (dead, living, other):
        folder.mkdir()
    run_dir = make_run_dir()
    assert not dead.exists()
    assert living.exists()
    assert other.exists()
    assert run_dir.stat().st_mode & 0o777 == 0o700
    assert len(str(run_dir)) < 100
    remove_run_dir(run_dir)
    assert not run_dir.exists()

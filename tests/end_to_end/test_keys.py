"""A daemon with keys as people run it: each key does what it may, files are its user's only."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_daemon import OFFICE, frames_done, send, wait_until

from streamer import Client, ClientKeys, ConnectionLostError, Requests, Subscriber
from streamer.cli import dispatch
from streamer.config import LogConfig, ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.requests import DaemonSilent, RequestRefused

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for arguments in (
        ["daemon"],
        ["robot", "--allow", "ingest"],
        ["laptop", "--allow", "watch"],
        ["operator", "--allow", "watch", "control"],
        ["stranger"],
    ):
        assert dispatch(["keygen", *arguments, "--dir", str(folder / "keys")]) == 0
    return folder


def keys(folder: Path, name: str) -> ClientKeys:
    return ClientKeys.load(folder / "keys" / f"{name}.key_secret", folder / "keys" / "daemon.key")


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[dict[str, str]]:
    """Addresses of a daemon that every network of this machine reaches, without --insecure."""
    everywhere = "tcp://0.0.0.0:*"
    config = ServeConfig(
        ingest=everywhere,
        updates=everywhere,
        requests=everywhere,
        max_sessions=1,
        keys=folder / "keys",
        session_dir=folder / "sessions",
        session=SessionConfig(long_side=64, refine=False),
        viewer=ViewerConfig(port=0),
        log=LogConfig(file=folder / "logs" / "daemon.log"),
    )
    with DaemonProcess(config) as process:
        yield {
            name: re.sub(r"0\.0\.0\.0", "127.0.0.1", address)
            for name, address in process.addresses.items()
        }


def sender(daemon: dict[str, str], who: ClientKeys | None) -> Client:
    return Client(
        daemon["ingest"],
        session="office",
        cameras=OFFICE.cameras,
        convention=OFFICE.convention,
        keys=who,
    )


def test_each_key_does_what_it_may(
    folder: Path, daemon: dict[str, str], capfd: pytest.CaptureFixture
) -> None:
    assert "viewer" in daemon, "the page has a key of its own"
    robot, laptop = keys(folder, "robot"), keys(folder, "laptop")
    with sender(daemon, robot) as client:
        send(client, OFFICE.frames[:8])
        client.flush()
    assert not client.rejected
    with (
        Requests(daemon["requests"], keys=laptop) as requests,
        Subscriber(daemon["updates"], daemon["requests"], "office", keys=laptop) as subscriber,
    ):
        wait_until(lambda: frames_done(requests, "office") == 8, "all frames")
        wait_until(lambda: subscriber.poll(0.1) or subscriber.synced, "the map")
        wait_until(lambda: subscriber.poll(0.1) or subscriber.mirror.count, "splats")
        with pytest.raises(RequestRefused, match="denied"):
            requests.reset("office")
        with pytest.raises(RequestRefused, match="denied"):
            requests.close_session("office")
    with Requests(daemon["requests"], keys=keys(folder, "operator")) as requests:
        requests.save("office")
    for who in (laptop, keys(folder, "stranger"), None):
        with pytest.raises(ConnectionLostError):
            sender(daemon, who)
    for who in (robot, keys(folder, "stranger"), None):
        with (
            Requests(daemon["requests"], keys=who, timeout=1) as requests,
            pytest.raises(DaemonSilent),
        ):
            requests.sessions()
    capfd.readouterr()
    files = ["--key", str(folder / "keys" / "laptop.key_secret")]
    files += ["--server-key", str(folder / "keys" / "daemon.key")]
    assert dispatch(["status", daemon["requests"], *files]) == 0
    assert "office" in capfd.readouterr().out
    out = folder / "map.ply"
    export = ["export", daemon["requests"], "--session", "office", "--out", str(out)]
    assert dispatch([*export, *files]) == 0 and out.stat().st_size > 1000
    assert dispatch([*export, *files[:2]]) == 2
    assert "--server-key: missing" in capfd.readouterr().err


def test_an_operators_key_ends_a_session_and_a_watchers_does_not(
    folder: Path, daemon: dict[str, str], capfd: pytest.CaptureFixture
) -> None:
    close = ["sessions", "close", "office", "--server", daemon["requests"]]
    close += ["--server-key", str(folder / "keys" / "daemon.key")]
    with Requests(daemon["requests"], keys=keys(folder, "laptop")) as watching:
        assert dispatch([*close, "--key", str(folder / "keys" / "laptop.key_secret")]) == 2
        assert "no right to control" in capfd.readouterr().err
        assert "office" in {entry.session for entry in watching.sessions()}
        assert dispatch([*close, "--key", str(folder / "keys" / "operator.key_secret")]) == 0
        assert "office has ended" in capfd.readouterr().out
        assert "office" not in {entry.session for entry in watching.sessions()}


def test_what_the_daemon_writes_is_for_its_user_only(folder: Path, daemon: dict[str, str]) -> None:
    written = [path for part in ("sessions", "logs") for path in (folder / part).rglob("*")]
    assert any(path.name == "chunks.safetensors" for path in written), "SAVE wrote a state"
    for path in [folder / "sessions", folder / "logs", *written]:
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            assert not mode & 0o077, f"{path}: {stat.filemode(mode)}"

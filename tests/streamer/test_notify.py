"""What a service manager hears, over real datagram sockets."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.notify import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """The manager's socket, and its name as systemd would hand it out."""
    with tempfile.TemporaryDirectory(prefix="sst-") as folder:
        path = str(Path(folder) / "notify")
        name = path if request.param == "path" else "@" + path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(name.replace("@", "\0"))
            receiver.setblocking(False)
            yield receiver, name


def heard(receiver: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_every_word_once(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000", "OTHER": "stays"}
    service = ServiceManager(environment)
    # No child may pet the watchdog in our name.
    assert environment == {"OTHER": "stays"}
    assert service.watchdog_s == 60.0
    for _ in range(100):
        service.alive()
    service.status("one\ntwo")
    service.status("one\ntwo")
    service.ready()
    service.stopping()
    assert heard(receiver) == ["WATCHDOG=1", "STATUS=one two", "READY=1", "STOPPING=1"]


def test_a_short_watchdog_is_petted_again_and_again(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    service = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1"})
    for _ in range(3):
        service.alive()
    assert heard(receiver) == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": str(os.getpid() + 1)}, {"WATCHDOG_USEC": "soon"}],
)
def test_a_watchdog_that_is_not_ours_is_not_petted(
    manager: tuple[socket.socket, str], watchdog: dict[str, str]
) -> None:
    receiver, name = manager
    service = ServiceManager({"NOTIFY_SOCKET": name, **watchdog})
    service.alive()
    assert service.watchdog_s is None
    assert heard(receiver) == []


def test_without_a_manager_nothing_happens() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000"}):
        service = ServiceManager(environment)
        service.ready()
        service.alive()
        service.status("fine")

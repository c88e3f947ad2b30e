"""`python -m viewer` as a process: addresses, errors, ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from viewer.config import ViewerConfig
from viewer.host import PageError
from viewer.page import open_page

NOBODY = ("--updates", "tcp://127.0.0.1:9", "--requests", "tcp://127.0.0.1:9")


@contextmanager
def viewer(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "viewer", *NOBODY, "--max-splats", "2000", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_the_page_is_served_without_a_daemon_until_it_is_ended() -> None:
    with viewer("--port", "0") as process:
        assert process.stdout is not None
        word, address = process.stdout.readline().split()
        assert word == "page" and address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"<html" in answer.read(10_000)
        process.terminate()
        assert process.wait(timeout=10) == 0


def test_a_taken_port_is_said_and_another_one_taken_until_ctrl_c() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with viewer("--port", str(port)) as process:
            assert process.stdout is not None and process.stderr is not None
            address = process.stdout.readline().split()[1]
            other = int(address.rpartition(":")[2])
            assert other != port
            assert f"port {port} is taken: the page is on port {other}" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0


def test_wrong_arguments_end_with_a_message() -> None:
    with viewer("--host", "203.0.113.7") as process:
        assert process.wait(timeout=30) == 2
        assert process.stderr is not None
        assert "host is '203.0.113.7'" in process.stderr.read()


def test_a_host_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(PageError, match="give an address of this machine"):
        open_page("203.0.113.7", 0)


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [("port", 70_000, "1 to 65535"), ("max_splats", 10, "1000 to 4000000")],
)
def test_impossible_settings_are_refused(field: str, value: int, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}: give {remedy}"):
        ViewerConfig(**{field: value})

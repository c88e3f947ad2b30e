"""The page beside `splatstream run`: where it is, and that it ends with it in whatever state."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from urllib.request import urlopen

import pytest
from daemon_helpers import wait_until

from streamer.config import ViewerConfig
from streamer.live_page import LivePage


@pytest.mark.timeout(120)
def test_a_page_is_announced_where_it_is_and_ended_though_it_hears_nothing() -> None:
    urls: list[str] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        page = LivePage("office", urls.append, ViewerConfig(port=taken))
        with page:

            def announced() -> bool:
                page._hear_page()
                return bool(urls)

            wait_until(announced, "the page")
            assert urls[0].startswith("http://127.0.0.1:")
            assert not urls[0].endswith(f":{taken}")
            with urlopen(urls[0], timeout=20) as answer:
                assert answer.status == 200
            process = stopped(page)
    assert urls[1:] == []
    assert process.returncode == -signal.SIGKILL
    assert "publisher" not in {thread.name for thread in threading.enumerate()}


def stopped(page: LivePage) -> subprocess.Popen[bytes]:
    process = page._page.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    # Of two pending signals the kernel delivers the lower one first: SIGTERM would win.
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    return process


@pytest.mark.timeout(120)
def test_what_goes_wrong_inside_comes_out_as_it_was() -> None:
    with pytest.raises(RuntimeError, match="the run"), LivePage("office", print) as page:
        process = page._page.process
        raise RuntimeError("the run broke")
    assert process is not None
    assert process.returncode is not None

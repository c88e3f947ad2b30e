"""The page beside `splatstream run` ends with it, whatever state it is in."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from streamer.live_page import LivePage


@pytest.mark.timeout(120)
def test_a_page_that_hears_nothing_is_ended_all_the_same() -> None:
    page = LivePage("office")
    with page:
        process = page._page.process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        # Of two pending signals the kernel delivers the lower one first: SIGTERM would win.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert process.returncode == -signal.SIGKILL
    assert "publisher" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.timeout(120)
def test_what_goes_wrong_inside_comes_out_as_it_was() -> None:
    with pytest.raises(RuntimeError, match="the run"), LivePage("office") as page:
        process = page._page.process
        raise RuntimeError("the run broke")
    assert process is not None
    assert process.returncode is not None

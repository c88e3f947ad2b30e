"""`splatstream view`: the page that it starts does not outlive it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from daemon_children import alive, children
from daemon_helpers import wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_view_that_is_ended_takes_its_page_with_it(number: signal.Signals) -> None:
    nobody = ["--updates", "tcp://127.0.0.1:1", "--requests", "tcp://127.0.0.1:2", "--port", "0"]
    command = [sys.executable, "-c", "from streamer.cli import main; main()", "view", *nobody]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as view:
        try:
            wait_until(lambda: children(view.pid), "the page's process")
            ((page,),) = children(view.pid).values()
        finally:
            view.send_signal(number)
    wait_until(lambda: not alive(page), "the page to end")

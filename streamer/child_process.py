"""One process of the daemon as its supervisor holds it: started, listened to, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from streamer.child import PARENT_VARIABLE
from streamer.control import control_identity
from streamer.protocol.links import Failed

BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 30.0
"""After so long a life a death counts as the first one again."""
_LONGEST_LINE = 8192
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    # glibc keeps an arena for every thread and gives little back: images and gradients that come
    # and go would look like a leak.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "4000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000",
}


def child_environment() -> dict[str, str]:
    """For a process that computes, and that ends with this one (`streamer.child`)."""
    return {**_ENVIRONMENT, **os.environ, PARENT_VARIABLE: str(os.getpid())}


@dataclass(slots=True, eq=False)
class ChildProcess:
    """A role and the process that plays it at the moment, if any."""

    role: str
    arguments: Sequence[str]
    """Module and its arguments, for ``python -m streamer.child``."""
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    given_up: Failed | None = None
    """Why starting it again would not help, in its own words."""
    session: str | None = None
    """Name of the session that this process runs."""
    on_death: Callable[[ChildProcess], None] | None = None
    """Told of every death."""
    answers: bool = False
    """Whether what it says on its standard output is kept for `read_answers`."""
    heard_at: float = 0.0
    """When it last said something on its control line."""
    deaths: int = 0
    start_at: float = 0.0
    _started: float = 0.0
    _output: bytearray = field(default_factory=bytearray)
    _answers: bytearray = field(default_factory=bytearray)

    @property
    def label(self) -> str:
        """How log lines name it."""
        return f"session {self.session}" if self.session else self.role

    @property
    def identity(self) -> bytes:
        """Its name on the control socket."""
        assert self.process is not None
        return control_identity(self.role, self.process.pid)

    def start(self) -> None:
        """Start it. From the main thread: the process ends when the starting thread does."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamer.child", *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self.answers else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=child_environment(),
            # Ctrl-C is for the supervisor, which ends its processes in order.
            start_new_session=True,
        )
        for pipe in (self.process.stderr, self.process.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        self.ready = False
        self.given_up = None
        self._started = time.monotonic()

    def died(self) -> int | None:
        """Exit status of a process that ended since it was looked at last, else None."""
        if self.process is None:
            return None
        status = self.process.poll()
        if status is None:
            return None
        if time.monotonic() - self._started > STEADY_S:
            self.deaths = 0
        wait = BACKOFF_S[min(self.deaths, len(BACKOFF_S) - 1)]
        self.deaths += 1
        self.start_at = time.monotonic() + wait
        self.ready = False
        if self.on_death is not None:
            self.on_death(self)
        return status

    def forget(self) -> list[str]:
        """Let go of a process that ended; its last log lines."""
        lines = self.read_lines()
        if self._output:
            lines.append(self._output.decode("utf-8", "replace"))
            self._output.clear()
        if self.process is not None:
            for pipe in (self.process.stderr, self.process.stdout):
                if pipe is not None:
                    pipe.close()
        self._answers.clear()
        self.process = None
        return lines

    def read_lines(self) -> list[str]:
        """Log lines that came since, whole ones only."""
        return [] if self.process is None else _whole_lines(self.process.stderr, self._output)

    def read_answers(self) -> list[str]:
        """Lines of its standard output that came since, whole ones only."""
        return [] if self.process is None else _whole_lines(self.process.stdout, self._answers)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def announced_page(answers: Sequence[str]) -> str | None:
    """Where the live page's process serves it, if it says so among these lines of its own."""
    addresses = [line.removeprefix("page ") for line in answers if line.startswith("page ")]
    return addresses[-1] if addresses else None


def _whole_lines(pipe: IO[bytes] | None, rest: bytearray) -> list[str]:
    """What came through a pipe that does not block; `rest` is what the last line lacks an end of,
    before and after."""
    if pipe is None or pipe.closed:
        return []
    while True:
        try:
            data = os.read(pipe.fileno(), 65536)
        except BlockingIOError:
            break
        if not data:
            break
        rest += data
    *lines, last = bytes(rest).split(b"\n")
    rest[:] = last[:_LONGEST_LINE]
    return [line.decode("utf-8", "replace") for line in lines if line.strip()]

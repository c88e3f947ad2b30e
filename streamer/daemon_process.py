"""A daemon of one's own as a child process, for the demo, tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import yaml

from streamer.child import PARENT_VARIABLE
from streamer.config import ServeConfig
from streamer.config_files import config_to_mapping

STOP_S = 8.0
"""A daemon ends within 5 s of SIGTERM; after this it is killed."""


class DaemonFailed(OSError):
    """The daemon ended, or was not ready in time; what it said itself is on stderr.

    Attributes:
        code: the daemon's exit code, None where it still ran.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class DaemonProcess:
    """`splatstream serve` with ``config`` as a child; ready when the block is entered.

    Its settings go through a file in a private temporary folder, which is removed at the end.
    What it writes after the `ready` line is passed over; its errors go where ours go.

    Attributes:
        addresses: by name: `ingest`, `updates`, `requests`, and `viewer` where there is a page.
    """

    def __init__(self, config: ServeConfig, *, ready_within_s: float = 180.0) -> None:
        self._config = config
        self._ready_within_s = ready_within_s
        self._folder = tempfile.TemporaryDirectory(prefix="splatstream-")
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.addresses: dict[str, str] = {}

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the daemon to end by itself; its exit code, or None where it still runs."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def start(self) -> None:
        """Starts the daemon and waits for its `ready` line; from a thread that outlives it.

        Raises:
            DaemonFailed: it ended before, or took too long (it is stopped then).
        """
        file = Path(self._folder.name) / "serve.yaml"
        file.write_text(yaml.safe_dump(config_to_mapping(self._config)), encoding="utf-8")
        # Without a parent it ends: a demo that is killed leaves no daemon behind.
        command = [sys.executable, "-m", "streamer.child", "streamer.cli", "serve"]
        self._process = subprocess.Popen(
            [*command, "--config", str(file)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            # Ctrl-C in a terminal is ours: a second signal would make the daemon hurry its end.
            start_new_session=True,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        )
        threading.Thread(target=self._read, daemon=True).start()
        deadline = time.monotonic() + self._ready_within_s
        try:
            while not self.addresses:
                self._take_line(deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if that is not heard; the temporary folder goes too."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            if self.wait(STOP_S) is None:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not self.addresses:
                self._lines.put(line.strip())
        self._lines.put(None)

    def _take_line(self, deadline: float) -> None:
        assert self._process is not None
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DaemonFailed(
                f"the daemon was not ready within {self._ready_within_s:g} s"
            ) from None
        if line is None:
            code = self._process.wait()
            message = f"the daemon ended with exit code {code} before it was ready"
            raise DaemonFailed(message, code)
        if line.startswith("ready"):
            words = line.split()
            pairs = zip(words[1::2], words[2::2], strict=False)
            self.addresses = {name: address for name, address in pairs if "://" in address}

    def __enter__(self) -> DaemonProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

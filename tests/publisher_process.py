"""The publisher as a process of its own, without a daemon around it: any session may speak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from streamer.config import PublisherConfig

PUBLISHER = """
import signal, sys
from pathlib import Path
from streamer.config import PublisherConfig
from streamer.publisher.server import Publisher
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
config = PublisherConfig(updates_hwm=int(sys.argv[4]))
publisher = Publisher(Path(sys.argv[1]), sys.argv[2], sys.argv[3], config)
print(publisher.addresses["updates"], publisher.addresses["requests"], flush=True)
publisher.run(lambda: bool(stopped))
publisher.close()
"""


class PublisherProcess:
    """The daemon's publisher, in a process of its own; `start` again takes the same addresses."""

    def __init__(self, run_dir: Path, updates_hwm: int = PublisherConfig().updates_hwm) -> None:
        self.run_dir = run_dir
        self.updates_hwm = updates_hwm
        self.updates = self.requests = "tcp://127.0.0.1:*"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", PUBLISHER, str(self.run_dir), self.updates),
                *(self.requests, str(self.updates_hwm)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.updates, self.requests = self._process.stdout.readline().split()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate(timeout=10)

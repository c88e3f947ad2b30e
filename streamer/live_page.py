"""The live page of `splatstream run`: the daemon's publisher in a thread, the page beside it."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import zmq

from streamer.child_process import ChildProcess
from streamer.config import PublisherConfig, ViewerConfig
from streamer.protocol.internal import Counts
from streamer.publisher.server import Publisher
from streamer.run_dir import make_run_dir, remove_run_dir
from streamer.session.engine import Engine
from streamer.session.process import SocketOutbox, publish_socket

_STATUS_EVERY_S = 1.0
_ENDING_S = 5.0


class LivePage:
    """Shows an engine's map while it grows; the engine's results go through `outbox`.

    A context manager: inside it the page is up.
    """

    def __init__(self, session: str, config: ViewerConfig | None = None) -> None:
        self._config = config or ViewerConfig()
        self._run_dir = make_run_dir()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        anywhere = "tcp://127.0.0.1:*"
        self._publisher = Publisher(
            self._run_dir, anywhere, anywhere, PublisherConfig(), context=self._context
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._publisher.run, args=(self._stopping.is_set,), name="publisher"
        )
        self._socket = publish_socket(self._context, self._run_dir, session)
        self.outbox = SocketOutbox(self._socket, session, epoch=1)
        self._page = ChildProcess(
            "viewer",
            [
                "viewer",
                *("--updates", self._publisher.addresses["updates"]),
                *("--requests", self._publisher.addresses["requests"]),
                *("--host", self._config.host),
                *("--port", str(self._config.port)),
            ],
        )
        self._told_at = 0.0

    @property
    def url(self) -> str:
        """Where the page is, unless its port is taken: then the page's own log says."""
        return f"http://{self._config.host}:{self._config.port}"

    def __enter__(self) -> LivePage:
        self._thread.start()
        self._page.start()
        self.outbox.begin(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._page.process is not None:
            self._page.process.terminate()
            self._page.process.wait(_ENDING_S)
        self._stopping.set()
        self._thread.join()
        self._socket.close()
        self._publisher.close()
        self._context.term()
        remove_run_dir(self._run_dir)

    def tell(self, engine: Engine, frames_in: int, state: str) -> None:
        """Status for the panel, at most once a second."""
        now = time.monotonic()
        if now - self._told_at >= _STATUS_EVERY_S:
            self._told_at = now
            waiting = max(0, frames_in - engine.frames_done)
            counts = Counts(frames_in=frames_in, waiting=waiting)
            self.outbox.hello()
            self.outbox.status(engine.status(), counts, state)
        for line in self._page.read_lines():
            print(line, flush=True)

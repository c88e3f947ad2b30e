"""The live page of `splatstream run`: the daemon's publisher in a thread, the page beside it."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType

import zmq

from streamer.child_process import ChildProcess, announced_page
from streamer.config import PublisherConfig, ViewerConfig
from streamer.protocol import decode, encode
from streamer.protocol.internal import Counts
from streamer.protocol.links import Control, ControlDone, Resync
from streamer.publisher.server import Publisher
from streamer.run_dir import make_run_dir, remove_run_dir
from streamer.session.engine import Engine
from streamer.session.socket_outbox import SocketOutbox, publish_socket

_STATUS_EVERY_S = 1.0
_ENDING_S = 5.0


class LivePage:
    """Shows an engine's map while it grows; the engine's results go through `outbox`.

    A context manager: the page comes up a few seconds after it was entered, and `announce` is told
    its address then, by whoever calls `tell`. Where the port of `config` is taken (a daemon's page,
    say) the page takes the next free one.
    """

    def __init__(
        self,
        session: str,
        announce: Callable[[str], None],
        config: ViewerConfig | None = None,
    ) -> None:
        config = config or ViewerConfig()
        self._announce = announce
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
                *("--host", config.host),
                *("--port", str(config.port)),
            ],
            answers=True,
        )
        self._told_at = 0.0

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
        try:
            self._end_page()
        finally:
            # Whatever became of the page: a thread that goes on would keep the program alive.
            self._stopping.set()
            self._thread.join()
            self._socket.close()
            self._publisher.close()
            self._context.term()
            remove_run_dir(self._run_dir)

    def _end_page(self) -> None:
        process = self._page.process
        if process is None:
            return
        self._page.signal(signal.SIGTERM)
        try:
            process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._page.signal(signal.SIGKILL)
            process.wait()
        self._page.forget()

    def tell(self, engine: Engine, frames_in: int, state: str) -> None:
        """Answer the publisher; status for the panel at most once a second."""
        self._answer(engine)
        now = time.monotonic()
        if now - self._told_at >= _STATUS_EVERY_S:
            self._told_at = now
            waiting = max(0, frames_in - engine.frames_done)
            counts = Counts(frames_in=frames_in, waiting=waiting)
            self.outbox.hello()
            self.outbox.status(engine.status(), counts, state)
        self._hear_page()

    def _hear_page(self) -> None:
        for line in self._page.read_lines():
            print(line, flush=True)
        url = announced_page(self._page.read_answers())
        if url is not None:
            self._announce(url)

    def _answer(self, engine: Engine) -> None:
        while True:
            try:
                message = decode(self._socket.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            if message.kind == Resync.KIND:
                self.outbox.everything(engine)
            elif message.kind == Control.KIND:
                order = message.read(Control)
                reason = f"{order.op}: `splatstream run` takes no orders: use `splatstream serve`"
                refusal = ControlDone(id=order.id, ok=False, code="internal", reason=reason)
                self.outbox.send(encode(refusal))

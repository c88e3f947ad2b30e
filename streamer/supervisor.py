"""Starts the daemon's processes, keeps them running, ends them all.

One loop in one thread: orders and readiness over the control socket, deaths from the process
table, log lines from pipes. The processes themselves hold everything that is worth keeping, so
that any of them may die: addresses stay, and who comes back finds its state with its neighbours.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import zmq

from streamer.access.daemon import hand_out_own_keys, own_key_files, own_keys
from streamer.child_process import ChildProcess, announced_page
from streamer.config import ServeConfig
from streamer.config_files import write_run_config
from streamer.control import CONTROL, bind, ipc_address
from streamer.metrics.exporter import DaemonView, MetricsServer, ProcessView
from streamer.metrics.instruments import forget_metrics
from streamer.notify import ServiceManager
from streamer.preflight import check_addresses, check_config, claim_viewer_port, reachable
from streamer.protocol import Message, ProtocolError, decode, encode
from streamer.protocol.fields import Header
from streamer.protocol.internal import NeedSession, Ready, SessionRefused, SessionStarted
from streamer.protocol.links import (
    EndSession,
    Failed,
    SessionClosing,
    SessionEnded,
    SessionKept,
    SessionLost,
    SessionWanted,
)
from streamer.reporter import Reporter
from streamer.run_dir import make_run_dir, remove_run_dir
from streamer.session_pool import SessionPool, SessionRoom
from streamer.status_line import StatusLine

PUBLIC = frozenset({"ingest", "updates", "requests"})
POLL_MS = 100
TERM_S = 4.0
"""Patience after SIGTERM; with SIGKILL for the rest, everything is over within five seconds."""
START_S = 600.0
"""A first start compiles kernels; after so long the daemon says that it does not come up."""
MAX_START_DEATHS = 3


class StartFailed(ValueError):
    """The daemon cannot start; the message says what has to be changed."""


class Supervisor:
    """The daemon. Made and run in the main thread.

    Args:
        config: checked by :func:`streamer.preflight.check_config` before anything starts.
        reporter: where to say what happens.
    """

    def __init__(self, config: ServeConfig, reporter: Reporter) -> None:
        self._config = dataclasses.replace(config)
        self._reporter = reporter
        self._stopping = 0
        self._announced = False
        self._page_url: str | None = None
        self._manager = ServiceManager()
        self._view = DaemonView()
        self._metrics: MetricsServer | None = None

    def run(self) -> int:
        """Serve until SIGINT, SIGTERM or SIGHUP; returns the exit status.

        Raises ConfigError, AddressInUse or StartFailed where something has to be changed first.
        """
        for warning in check_config(self._config):
            self._reporter.log(warning, level="warning")
        if self._config.viewer.enabled:
            self._config = claim_viewer_port(self._config)
        check_addresses(self._config)
        with self._signals(), self._folder() as run_dir:
            self._open(run_dir)
            try:
                self._loop()
            finally:
                self._end()
        return 0

    def _open(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        if self._config.metrics.port is not None:
            self._metrics = MetricsServer(self._config.metrics, run_dir, self._view)
        write_run_config(self._config, run_dir)
        if self._config.keys is not None:
            hand_out_own_keys(self._config.keys, run_dir)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 0)
        bind(self._control, ipc_address(run_dir, CONTROL), "the run folder")
        self._ingest = self._child("ingest", "streamer.ingest")
        self._publisher = self._child("publisher", "streamer.publisher")
        self._viewer: ChildProcess | None = None
        self._pool = SessionPool(
            SessionRoom(
                limit=self._config.max_sessions,
                child=lambda: self._child("session", "streamer.session"),
                send=self._send,
                tell=self._tell,
                log=self._reporter.log,
                relay=self._reporter.relay,
            )
        )
        self._status: StatusLine | None = None
        self._started = time.monotonic()

    def _child(self, role: str, module: str) -> ChildProcess:
        return ChildProcess(
            role, [module, "--run-dir", str(self._run_dir)], on_death=self._count_death
        )

    def _count_death(self, child: ChildProcess) -> None:
        self._view.restarts[child.role] += 1

    def _loop(self) -> None:
        self._reporter.log("starting; the first start on a machine compiles for a while")
        while not self._stopping:
            # Before deaths are looked for: why a process gives up is the last thing it says.
            if self._control.poll(POLL_MS):
                self._take_messages()
            for child in self._children():
                self._look_after(child)
            self._pool.look_after()
            if not self._announced:
                self._announce_when_ready()
            elif self._status is not None:
                for name in self._pool.names():
                    self._status.follow(name)
                text = self._status.text()
                self._reporter.status(text)
                self._manager.status(text)
                names = self._pool.names()
                known = self._status.sessions.items()
                self._view.sessions = [status for name, status in known if name in names]
                if all(self._lives(child) for child in self._all_children()):
                    self._manager.alive()
            if self._metrics is not None:
                self._view.processes = [_view(child) for child in self._all_children()]

    def _children(self) -> list[ChildProcess]:
        children = [self._ingest, self._publisher]
        if self._viewer is None and self._config.viewer.enabled and self._publisher.ready:
            self._viewer = self._viewer_child()
        if self._viewer is not None:
            children.append(self._viewer)
        return children

    def _all_children(self) -> list[ChildProcess]:
        return [*self._children(), *self._pool.children()]

    def _lives(self, child: ChildProcess) -> bool:
        """Whether a process runs and, where its loop never waits for anything, turns."""
        patience = self._manager.watchdog_s
        if child.process is None:
            return False
        if patience is None or child not in (self._ingest, self._publisher):
            # A session may be busy with one batch for minutes.
            return True
        return time.monotonic() - child.heard_at < patience / 2

    def _viewer_child(self) -> ChildProcess:
        config = self._config
        arguments = ["viewer", "--updates", reachable(config.updates)]
        arguments += ["--requests", reachable(config.requests)]
        arguments += ["--host", config.viewer.host, "--port", str(config.viewer.port)]
        arguments += ["--max-splats", str(config.viewer.max_splats)]
        token = config.viewer.token_file
        if token is not None:
            arguments += ["--token-file", str(token)]
            self._reporter.log(f"open the page with ?token= and the content of {token}")
        if config.keys is not None:
            key, server_key = own_key_files(self._run_dir)
            arguments += ["--key", str(key), "--server-key", str(server_key)]
        arguments += ["--log-json"] if config.log.json else []
        return ChildProcess("viewer", arguments, on_death=self._count_death, answers=True)

    def _look_after(self, child: ChildProcess) -> None:
        self._reporter.relay(child.label, child.read_lines())
        if child is self._viewer:
            # Its own word: another program may have taken the port that was free before.
            self._page_url = announced_page(child.read_answers()) or self._page_url
        if child.process is None:
            if time.monotonic() >= child.start_at:
                child.start()
            return
        status = child.died()
        if status is None:
            return
        self._reporter.relay(child.label, child.forget())
        if self._announced:
            self._reporter.log(f"{child.label} ended with status {status}: it is started again")
        elif child.deaths >= MAX_START_DEATHS and child is not self._viewer:
            raise StartFailed(
                f"the {child.role} process does not start (status {status}); what it said is above"
            )

    def _take_messages(self) -> None:
        while True:
            try:
                identity, *frames = self._control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(identity, decode(frames))
            except ProtocolError as error:
                self._reporter.log(f"{identity.decode('ascii', 'replace')}: {error}")

    def _take(self, identity: bytes, message: Message) -> None:
        child = self._find(identity)
        if child is None:
            return
        child.heard_at = time.monotonic()
        if message.kind == Ready.KIND:
            self._ready(child, message.read(Ready).addresses)
        elif message.kind == Failed.KIND:
            self._failed(child, message.read(Failed))
        elif message.kind == NeedSession.KIND:
            self._need_session(message.read(NeedSession).session)
        elif message.kind == EndSession.KIND:
            self._pool.end(message.read(EndSession).session)
        elif message.kind == SessionWanted.KIND:
            self._pass_on(self._ingest, message.read(SessionWanted))
        elif message.kind == SessionClosing.KIND:
            self._pass_on(self._ingest, message.read(SessionClosing))
        elif message.kind == SessionKept.KIND:
            self._pass_on(self._publisher, message.read(SessionKept))

    def _find(self, identity: bytes) -> ChildProcess | None:
        for child in (self._ingest, self._publisher, *self._pool.children()):
            if child.process is not None and child.identity == identity:
                return child
        return None

    def _ready(self, child: ChildProcess, addresses: dict[str, str]) -> None:
        child.ready = True
        if addresses:
            # Whoever starts again binds what it had, also where any free port was asked for.
            for name in PUBLIC & addresses.keys():
                setattr(self._config, name, addresses[name])
            write_run_config(self._config, self._run_dir)
        if child is self._ingest or child is self._publisher:
            for name in self._pool.names():
                if self._pool.is_ending(name):
                    continue
                self._send(child.identity, SessionStarted(session=name))
                if child is self._publisher and self._pool.is_lost(name):
                    self._send(child.identity, SessionLost(session=name))

    def _failed(self, child: ChildProcess, failed: Failed) -> None:
        child.given_up = failed
        if child.session is None and not self._announced:
            raise StartFailed(failed.reason)
        self._reporter.log(f"{child.label}: {failed.reason}")

    def _need_session(self, name: str) -> None:
        if self._pool.has_to_wait(name):
            # The ingest asks again in a second.
            return
        refusal = self._pool.need(name)
        if refusal is None:
            self._tell(SessionStarted(session=name))
        elif self._ingest.ready:
            refused = SessionRefused(session=name, code="busy", reason=refusal)
            self._send(self._ingest.identity, refused)

    def _tell(self, header: Header) -> None:
        """Both ends of a session's line."""
        if isinstance(header, SessionEnded):
            if self._status is not None:
                self._status.forget(header.session)
            forget_metrics(self._run_dir, f"session {header.session}")
        for child in (self._ingest, self._publisher):
            self._pass_on(child, header)

    def _pass_on(self, child: ChildProcess, header: Header) -> None:
        if child.process is not None and child.ready:
            self._send(child.identity, header)

    def _send(self, identity: bytes, header: Header) -> None:
        self._control.send_multipart([identity, *encode(header)], zmq.NOBLOCK)

    def _announce_when_ready(self) -> None:
        if time.monotonic() - self._started > START_S:
            raise StartFailed(f"the daemon is not up after {START_S:.0f} s; what it said is above")
        if self._pool.spare_deaths >= MAX_START_DEATHS:
            raise StartFailed("the session process does not start; what it said is above")
        page = self._page()
        if not (self._ingest.ready and self._publisher.ready and self._pool.warm) or page is None:
            return
        config = self._config
        self._announced = True
        keys = own_keys(config.keys, self._run_dir)
        self._status = StatusLine(reachable(config.updates), self._context, keys)
        metrics = "" if self._metrics is None else f" metrics {self._metrics.url}"
        self._reporter.ready(
            f"ingest {config.ingest} updates {config.updates} requests {config.requests} {page}"
            f"{metrics}"
        )
        self._manager.ready()

    def _page(self) -> str | None:
        """How the ready line names the live page; None while it is on its way."""
        config = self._config.viewer
        if not config.enabled:
            return "viewer off"
        if self._page_url is not None:
            return f"viewer {self._page_url}"
        gone = self._viewer is not None and self._viewer.deaths >= MAX_START_DEATHS
        return "viewer (does not start)" if gone else None

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        run_dir = make_run_dir()
        try:
            yield run_dir
        finally:
            remove_run_dir(run_dir)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stopping += 1

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self) -> None:
        """SIGTERM to all, SIGKILL to who is left, nothing stays behind."""
        self._reporter.log("ending")
        self._manager.stopping()
        children = self._all_children()
        for child in children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + TERM_S
        asked = self._stopping
        while any(c.process is not None and c.process.poll() is None for c in children):
            if time.monotonic() > deadline or self._stopping > asked:
                break
            for child in children:
                child.read_lines()
            time.sleep(0.02)
        for child in children:
            child.signal(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
                child.forget()
        if self._status is not None:
            self._status.close()
        if self._metrics is not None:
            self._metrics.close()
        self._control.close()
        self._context.term()
        for name in PUBLIC:
            address = getattr(self._config, name)
            if address.startswith("ipc://"):
                Path(address.removeprefix("ipc://")).unlink(missing_ok=True)


def _view(child: ChildProcess) -> ProcessView:
    return ProcessView(child.label, None if child.process is None else child.process.pid)

"""The publisher's loop: one thread, four sockets, nothing in it ever waits for a reader."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from streamer.access.gate import Gate
from streamer.config import PublisherConfig
from streamer.control import (
    PUBLISH,
    PUBLISH_HWM,
    AddressInUse,
    ControlLink,
    bind,
    ipc_address,
    notice_dead_peers,
)
from streamer.garbage import QuietTimes
from streamer.metrics.instruments import PublisherInstruments
from streamer.protocol import Buffer, ProtocolError, decode, encode
from streamer.protocol.internal import SessionRefused, SessionStarted
from streamer.protocol.limits import MAX_PART_BYTES
from streamer.protocol.links import (
    ControlDone,
    Resync,
    SessionEnded,
    SessionKept,
    SessionLost,
)
from streamer.protocol.update_headers import (
    DAEMON_HEARTBEAT_TOPIC,
    DaemonHeartbeat,
    HeartbeatHeader,
    StatusHeader,
    topic,
)
from streamer.publisher.answers import Answers
from streamer.publisher.connections import ConnectionCount
from streamer.publisher.jobs import Workers
from streamer.publisher.mesher import Mesher
from streamer.publisher.mirror import SessionMirror, Verdict
from streamer.publisher.outbox import Outbox
from streamer.publisher.sleepers import Sleepers

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
RESYNC_S = 3.0
"""A session that computes may take so long to answer a RESYNC."""
RETRY_MS = 5
"""How soon a reader that was full is tried again."""
MAX_SUBSCRIPTION_BYTES = 4096
MAX_THUMBNAILS = 1 << 16
"""A RESYNC brings those of all key frames in one message."""
BURST = 64
"""Messages of one socket before the others have their turn."""


class Publisher:
    """Mirrors sessions and serves their readers. Made and run by one thread."""

    def __init__(
        self,
        run_dir: Path,
        updates: str,
        requests: str,
        config: PublisherConfig,
        *,
        control: ControlLink | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        gate: Gate | None = None,
        session_dir: Path | None = None,
    ) -> None:
        """Binds all addresses; raises AddressInUse.

        Args:
            gate: of the same context; None lets everybody in who reaches the addresses.
            session_dir: where sessions that have ended lie; None if they cannot come back.
        """
        self._context = context or zmq.Context.instance()
        context = self._context
        self._control = control
        self._config = config
        self._gate = gate
        self._updates = self._make_updates()
        self._updates_closed = False
        self._requests = context.socket(zmq.ROUTER)
        self._requests.setsockopt(zmq.SNDHWM, config.answers_hwm)
        self._requests.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self._requests.setsockopt(zmq.LINGER, 0)
        notice_dead_peers(self._requests)
        if gate is not None:
            gate.guard(self._requests, "requests")
        self._sessions = context.socket(zmq.ROUTER)
        self._sessions.setsockopt(zmq.LINGER, 0)
        self._sessions.setsockopt(zmq.RCVHWM, PUBLISH_HWM)
        self._sessions.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # A session that starts again has the same name: the new process takes over.
        self._sessions.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.addresses = {
            "updates": bind(self._updates, updates, "--updates"),
            "requests": bind(self._requests, requests, "--requests"),
        }
        bind(self._sessions, ipc_address(run_dir, PUBLISH), "the run folder")
        self._mirrors: dict[str, SessionMirror] = {}
        self._resync_at: dict[str, float] = {}
        self._poller = zmq.Poller()
        self._instruments = PublisherInstruments()
        self._connections = ConnectionCount(self._updates)
        self._workers = Workers()
        self._mesher = Mesher()
        self._outbox = Outbox(self._requests)
        self._sleepers = Sleepers(control, session_dir)
        self._answers = Answers(
            self._mirrors,
            self._outbox,
            self._workers,
            self._mesher,
            self._send_to_session,
            self._sleepers,
        )

    def run(self, stopping: Callable[[], bool]) -> None:
        """Serve until ``stopping()``."""
        poller = self._poller
        for socket in (self._updates, self._requests, self._sessions):
            poller.register(socket, zmq.POLLIN)
        poller.register(self._workers.wake_fd, zmq.POLLIN)
        if self._control is not None:
            poller.register(self._control.socket, zmq.POLLIN)
        beat = time.monotonic()
        quiet = QuietTimes(beat)
        while not stopping():
            ready = dict(poller.poll(RETRY_MS if self._outbox.waiting else 100))
            if not ready:
                quiet.use(time.monotonic())
            if self._control is not None and self._control.socket in ready:
                self._take_orders()
            if self._sessions in ready:
                self._take_sessions()
            if self._updates in ready:
                self._take_subscriptions()
            if self._requests in ready:
                self._take_requests()
            if self._workers.wake_fd in ready:
                self._workers.finish()
            if time.monotonic() >= beat:
                self._heartbeat()
                self._answers.expire()
                self._sleepers.forget()
                self._cut_off_the_revoked()
                beat = max(beat + HEARTBEAT_S, time.monotonic())
            self._outbox.pump()

    def close(self) -> None:
        """Close the sockets; readers see the daemon go."""
        self._mesher.close()
        self._workers.close()
        self._connections.close()
        for socket in (self._updates, self._requests, self._sessions):
            socket.close()

    def _make_updates(self) -> zmq.Socket[bytes]:
        updates = self._context.socket(zmq.XPUB)
        updates.setsockopt(zmq.SNDHWM, self._config.updates_hwm)
        updates.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        updates.setsockopt(zmq.LINGER, 0)
        notice_dead_peers(updates)
        if self._gate is not None:
            self._gate.guard(updates, "updates")
        return updates

    def _cut_off_the_revoked(self) -> None:
        """Open the updates anew where a subscriber lost its right: all come back who may, and
        repair what they missed by a snapshot."""
        if self._gate is not None and self._gate.watchers_lost():
            logger.info("a key lost the right to watch: all subscribers are let in anew")
            self._poller.unregister(self._updates)
            self._connections.close()
            self._updates.close()
            self._updates = self._make_updates()
            self._connections = ConnectionCount(self._updates)
            self._poller.register(self._updates, zmq.POLLIN)
            self._updates_closed = True
        if self._updates_closed:
            # The port is free once libzmq has closed the old socket behind our back; until then
            # what is published goes nowhere.
            with contextlib.suppress(AddressInUse):
                bind(self._updates, self.addresses["updates"], "--updates")
                self._updates_closed = False

    def _take_orders(self) -> None:
        assert self._control is not None
        while (message := self._control.receive()) is not None:
            if message.kind == SessionLost.KIND:
                self._lose(message.read(SessionLost).session)
            elif message.kind == SessionStarted.KIND:
                name = message.read(SessionStarted).session
                self._mirrors.setdefault(name, SessionMirror(name))
                self._sleepers.started(name)
            elif message.kind == SessionRefused.KIND:
                self._forget_unborn(message.read(SessionRefused).session)
            elif message.kind == SessionEnded.KIND:
                self._end(message.read(SessionEnded).session)
            elif message.kind == SessionKept.KIND:
                kept = message.read(SessionKept)
                if kept.session not in self._mirrors:
                    self._sleepers.kept(kept)
                self._answers.kept(kept)

    def _forget_unborn(self, name: str) -> None:
        mirror = self._mirrors.get(name)
        if mirror is not None and not mirror.epoch:
            del self._mirrors[name]

    def _lose(self, name: str) -> None:
        mirror = self._mirrors.get(name)
        if mirror is None:
            return
        mirror.lose()
        if mirror.epoch:
            self._publish(name, StatusHeader.KIND, encode(mirror.current_status()))
        logger.warning("session %s died: its last map stays until it is back", name)

    def _end(self, name: str) -> None:
        """Whoever listens is told, and nothing of the session stays here."""
        mirror = self._mirrors.pop(name, None)
        self._resync_at.pop(name, None)
        if mirror is not None and mirror.epoch:
            status = msgspec.structs.replace(mirror.current_status(), state="ended")
            self._publish(name, StatusHeader.KIND, encode(status))
        self._answers.ended(name)

    def _take_sessions(self) -> None:
        for _ in range(BURST):
            try:
                frames = self._sessions.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            buffers = [frame.buffer for frame in frames]
            name = bytes(buffers[0]).decode("ascii", "replace")
            try:
                self._take_session(name, buffers[1:])
            except ProtocolError as error:
                logger.error("session %s: %s", name, error)

    def _take_session(self, name: str, frames: list[memoryview]) -> None:
        message = decode(frames, max_parts=MAX_THUMBNAILS)
        if message.kind == ControlDone.KIND:
            self._answers.control_done(message.read(ControlDone))
            return
        mirror = self._mirrors.get(name)
        if mirror is None:
            if self._control is not None:
                # Last words of a session that has ended, or first ones that overtook the
                # supervisor's; what they say is repeated.
                return
            mirror = self._mirrors[name] = SessionMirror(name)
        verdict = mirror.receive(message)
        if Verdict.PUBLISH in verdict:
            self._publish(name, message.kind, list(frames))
        mirror.join()
        if Verdict.RESYNC in verdict:
            self._resync(name)

    def _resync(self, name: str) -> None:
        now = time.monotonic()
        if now - self._resync_at.get(name, -RESYNC_S) >= RESYNC_S:
            self._resync_at[name] = now
            self._send_to_session(name, encode(Resync()))

    def _send_to_session(self, name: str, message: list[Buffer]) -> bool:
        try:
            self._sessions.send_multipart([name.encode(), *message], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def _take_subscriptions(self) -> None:
        # Nothing depends on who listens; unread, the notices would pile up.
        for _ in range(BURST):
            try:
                self._updates.recv(zmq.NOBLOCK)
            except zmq.Again:
                return

    def _take_requests(self) -> None:
        for _ in range(BURST):
            try:
                reader, *frames = self._requests.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            rights = None if self._gate is None or not frames else self._gate.rights(frames[-1])
            self._answers.take(reader.bytes, [frame.buffer for frame in frames], rights)

    def _heartbeat(self) -> None:
        if self._control is not None:
            self._control.alive()
        self._instruments.readers(self._connections.count(), self._outbox.readers)
        self._updates.send_multipart([DAEMON_HEARTBEAT_TOPIC, *encode(DaemonHeartbeat())[1:]])
        for name, mirror in self._mirrors.items():
            if mirror.epoch:
                header = HeartbeatHeader(session=name, epoch=mirror.epoch, seq=mirror.seq)
                self._publish(name, HeartbeatHeader.KIND, encode(header))

    def _publish(self, name: str, kind: bytes, message: list[Buffer] | list[memoryview]) -> None:
        self._updates.send_multipart([topic(name, kind), *message[1:]], copy=False)
        self._instruments.published(kind.decode(), sum(len(part) for part in message))

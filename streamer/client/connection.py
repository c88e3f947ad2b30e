"""The thread that owns a sender's socket: HELLO, frames within the credit, pings, coming back."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import threading
import time

import msgspec
import zmq

from streamer.access import ClientKeys
from streamer.access.handshakes import HandshakeWatch
from streamer.addresses import AddressError, connect
from streamer.client.errors import RefusedError, refusal
from streamer.client.window import Window
from streamer.protocol import Header, Message, ProtocolError, decode, encode
from streamer.protocol.messages import (
    Ack,
    Bye,
    Error,
    Flush,
    Hello,
    Ping,
    Pong,
    Reject,
    Welcome,
)

logger = logging.getLogger(__name__)

PING_AFTER_S = 3.0
SILENT_FOR_S = 9.0
WELCOME_WITHIN_S = 3.0
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_POLL_S = 0.25

RESUMABLE = frozenset({"no_hello", "bad_seq", "bad_session"})
"""Errors after which saying HELLO again with `resume` goes on where the daemon stands."""


class Stage(enum.Enum):
    """Where the connection stands."""

    AWAY = enum.auto()
    GREETING = enum.auto()
    OPEN = enum.auto()
    FAILED = enum.auto()
    CLOSED = enum.auto()


class SenderConnection:
    """Keeps `window` moving. Every public attribute is guarded by `changed`.

    Args:
        patience_s: how long the daemon may have no room for the session before that is an error.
    """

    def __init__(
        self,
        address: str,
        hello: Hello,
        window: Window,
        patience_s: float,
        keys: ClientKeys | None = None,
    ) -> None:
        self.changed = threading.Condition()
        self.window = window
        self.stage = Stage.AWAY
        self.failure: RefusedError | Exception | None = None
        self.away_since = time.monotonic()
        self.trouble: str | None = None
        """Why handshakes fail and what to check, where that is known (keys)."""
        self.refused = False
        """Whether the daemon turned this client away, rather than just being out of reach."""
        self.welcome: Welcome | None = None
        self.connects = 0
        self._address = address
        self._hello = hello
        self._keys = keys
        self._patience_s = patience_s
        self._busy_since: float | None = None
        self._flush = False
        self._closing = False
        self._attempt = 0
        self._due = 0.0
        self._heard = self._pinged = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket: zmq.Socket[bytes] | None = None
        self._watch: HandshakeWatch | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="splatstream-client", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def wake(self) -> None:
        """There is something new to send."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def flush(self) -> None:
        """Say FLUSH behind the frames queued so far."""
        with self.changed:
            self._flush = True
        self.wake()

    def close(self) -> None:
        """Say BYE and stop; what is not settled by now is given up."""
        with self.changed:
            self._closing = True
        self.wake()
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # ---- the thread ----

    def _run(self) -> None:
        try:
            while True:
                with self.changed:
                    if self._closing or self.stage is Stage.FAILED:
                        break
                self._step()
        except Exception as error:
            logger.exception("the client's thread failed")
            self._fail(error)
        finally:
            self._say_bye()
            with self.changed:
                if self.stage is not Stage.FAILED:
                    self.stage = Stage.CLOSED
                self.changed.notify_all()

    def _step(self) -> None:
        now = time.monotonic()
        if self.stage is Stage.AWAY:
            if now < self._due:
                self._sleep(min(_POLL_S, self._due - now))
                return
            self._greet(now)
            if self.stage is Stage.FAILED:
                return
        self._send_what_may_go(now)
        self._poll()
        self._receive()
        self._check_silence(time.monotonic())

    def _greet(self, now: float) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        # Frames that never left are in the window: a lost connection need not keep them too.
        self._socket.setsockopt(zmq.LINGER, 0)
        self._watch = HandshakeWatch(self._socket, self._keys)
        try:
            connect(self._socket, self._address, self._keys)
        except AddressError as error:
            self._fail(error)
            return
        self._heard = self._pinged = now
        hello = self._hello
        if self.connects > 0:
            hello = msgspec.structs.replace(hello, resume=True)
        self._say(hello)
        with self.changed:
            self.stage = Stage.GREETING

    def _send_what_may_go(self, now: float) -> None:
        while self.stage is Stage.OPEN:
            with self.changed:
                frame = self.window.next_frame(now)
                flush = self._flush and not self.window.unsent
                if frame is None and not flush:
                    return
                if frame is None:
                    self._flush = False
                    header: Header = Flush()
                    parts: tuple = ()
                else:
                    header = msgspec.structs.replace(frame.header, seq=frame.seq)
                    parts = frame.parts
                if not self._say(header, *parts):
                    return
                if frame is not None:
                    self.window.mark_sent()
                    self.changed.notify_all()

    def _poll(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_read, zmq.POLLIN)
        if self._socket is not None:
            poller.register(self._socket, zmq.POLLIN)
        poller.poll(int(_POLL_S * 1000))
        self._drain_wakes()

    def _sleep(self, seconds: float) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_read, zmq.POLLIN)
        poller.poll(int(seconds * 1000) + 1)
        self._drain_wakes()

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                message = decode(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            except ProtocolError as error:
                logger.warning("the daemon sent what cannot be read: %s", error)
                continue
            self._heard = time.monotonic()
            try:
                self._understand(message)
            except ProtocolError as error:
                logger.warning("the daemon sent what cannot be read: %s", error)

    def _understand(self, message: Message) -> None:
        if message.kind == Ack.KIND:
            ack = message.read(Ack)
            self._busy_since = None
            with self.changed:
                self.window.ack(ack.seq, ack.credit, ack.dropped)
                self.changed.notify_all()
        elif message.kind == Reject.KIND:
            self._on_reject(message.read(Reject))
        elif message.kind == Welcome.KIND:
            self._on_welcome(message.read(Welcome))
        elif message.kind == Error.KIND:
            self._on_error(message.read(Error))
        elif message.kind == Pong.KIND:
            pass
        else:
            logger.warning("the daemon sent a %r, which no client expects", message.kind)

    def _on_reject(self, reject: Reject) -> None:
        now = time.monotonic()
        with self.changed:
            self.window.reject(reject.seq, reject.code, reject.reason, now)
            self.changed.notify_all()
        if reject.code == "busy" and not self._is_patient():
            self._fail(refusal(reject.code, reject.reason))

    def _is_patient(self) -> bool:
        """Whether the daemon, which has no room for the session now, may still find some."""
        now = time.monotonic()
        self._busy_since = self._busy_since or now
        return now - self._busy_since <= self._patience_s

    def _on_welcome(self, welcome: Welcome) -> None:
        with self.changed:
            self.window.welcome(welcome.next_seq, welcome.credit)
            self.welcome = welcome
            self.trouble, self.refused = None, False
            self.stage = Stage.OPEN
            self.connects += 1
            self._attempt = 0
            self.changed.notify_all()

    def _on_error(self, error: Error) -> None:
        with self.changed:
            known = self.connects > 0
        if known and (error.code in RESUMABLE or (error.code == "busy" and self._is_patient())):
            self._leave(f"{error.code}: {error.reason}")
        else:
            self._fail(refusal(error.code, error.reason))

    def _check_silence(self, now: float) -> None:
        if self._socket is None:
            return
        silence = now - self._heard
        if self.stage is Stage.GREETING:
            self._look_for_trouble()
            if silence > WELCOME_WITHIN_S:
                self._leave("no answer to HELLO")
        elif silence > PING_AFTER_S + SILENT_FOR_S:
            self._leave(f"silent for {silence:.0f} s")
        elif silence > PING_AFTER_S and now - self._pinged > PING_AFTER_S:
            self._pinged = now
            self._say(Ping(t=now))

    def _look_for_trouble(self) -> None:
        assert self._watch is not None
        trouble = self._watch.trouble()
        if trouble is not None and trouble != self.trouble:
            with self.changed:
                self.trouble = trouble
                self.refused = self._watch.refused()
                self.changed.notify_all()
            logger.warning("%s: %s", self._address, trouble)

    def _leave(self, why: str) -> None:
        """Give this socket up and come back after a while, the first time at once."""
        self._hang_up()
        delay = BACK_OFF_S[min(self._attempt, len(BACK_OFF_S) - 1)]
        self._attempt += 1
        self._due = time.monotonic() + delay
        with self.changed:
            if self.stage is Stage.OPEN:
                self.away_since = time.monotonic()
                logger.warning("lost the daemon at %s (%s), coming back", self._address, why)
            self.stage = Stage.AWAY
            self.changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self.changed:
            self.failure = error
            self.stage = Stage.FAILED
            self.changed.notify_all()

    def _say(self, header: Header, *parts: bytes | memoryview) -> bool:
        assert self._socket is not None
        try:
            self._socket.send_multipart(encode(header, *parts), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def _say_bye(self) -> None:
        if self._socket is None:
            return
        if self.stage is Stage.OPEN:
            self._socket.setsockopt(zmq.LINGER, 1000)
            self._say(Bye())
        self._hang_up()

    def _hang_up(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

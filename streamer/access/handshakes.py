"""Why a connection does not come about: ZeroMQ itself says nothing and goes on trying."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamer.access.keys import ClientKeys
from streamer.protocol import Buffer

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_FINAL = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_NOT_ALLOWED = (
    "the daemon does not allow this key here: its public file belongs into allowed/ingest/ "
    "(sending), allowed/watch/ (reading) or allowed/control/ (orders) of the daemon's keys"
)
_NEEDS_KEYS = "the daemon there has keys: give yours and the daemon's (--key, --server-key)"
_BROKEN_OFF = (
    "the handshake is broken off: if that daemon has keys, give yours and its public one (--key, "
    "--server-key)"
)
_HAS_NO_KEYS = (
    "what answers there has no keys: leave --key and --server-key out, or start the daemon with "
    "--keys"
)
_WRONG_SERVER_KEY = (
    "the handshake is broken off: is --server-key the present daemon.key of that daemon?"
)


class HandshakeWatch:
    """Listens to the fate of one client socket's handshakes. Made before the socket connects,
    used and closed by the socket's thread; close it before the socket.
    """

    def __init__(self, socket: zmq.Socket[bytes], keys: ClientKeys | None) -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._has_keys = keys is not None
        self._trouble: str | None = None
        self._final = False

    def trouble(self) -> str | None:
        """Why the last handshake failed and what to check; None where it did not."""
        while self._monitor.poll(0):
            message = recv_monitor_message(self._monitor)
            event = message["event"]
            self._final = event in _FINAL
            self._trouble = self._reason(event, message["value"])
        return self._trouble

    def refused(self) -> bool:
        """Whether the handshake failed for good: libzmq does not try again on this socket."""
        self.trouble()
        return self._final

    def send(self, message: Sequence[Buffer]) -> bool:
        """Send without waiting; False where the socket takes nothing: one that was refused has
        nobody to send to, and would wait for ever."""
        try:
            self._socket.send_multipart(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def readable(self, seconds: float) -> bool:
        """Wait for a message; False when none came in time, or none will come."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if self._socket in dict(poller.poll(max(0, int(left * 1000)))):
                return True
            if left <= 0 or self.refused():
                return False

    def close(self) -> None:
        """Stop listening."""
        self._socket.disable_monitor()
        self._monitor.close()

    def _reason(self, event: int, value: int) -> str | None:
        match event:
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                return _NOT_ALLOWED
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                # Other values speak of another kind of socket: the address is wrong, not a key.
                if value != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                    return None
                return _HAS_NO_KEYS if self._has_keys else _NEEDS_KEYS
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                return _WRONG_SERVER_KEY if self._has_keys else _BROKEN_OFF
            case _:
                return None

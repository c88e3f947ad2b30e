"""How the daemon's processes talk to their supervisor, and how they bind their addresses."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import zmq

from streamer.protocol import Header, Message, ProtocolError, decode, encode
from streamer.protocol.internal import NeedSession, Ready
from streamer.protocol.links import Alive, Failed

CONTROL, BATCHES, PUBLISH = "control", "batches", "publish"
"""Names of the sockets in the run folder."""
PUBLISH_HWM = 64
"""Messages between a session and the publisher, on each side; what does not go adds up in the map,
chunk by chunk."""
ALIVE_EVERY_S = 1.0


class AddressInUse(ValueError):
    """An address that cannot be bound; the message names it and the remedy."""


def ipc_address(run_dir: Path, name: str) -> str:
    """Address of one of the daemon's internal sockets."""
    return f"ipc://{run_dir / name}"


def bind(socket: zmq.Socket[bytes], address: str, option: str) -> str:
    """Bind and return the actual address (``:*`` and ``:0`` take a free port).

    ``option`` is what the user would change, for the message of AddressInUse.
    """
    if address.startswith("tcp://") and address.endswith(":0"):
        address = address[:-1] + "*"
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            reason = "is in use by another program"
        else:
            reason = f"cannot be bound ({error.strerror})"
        raise AddressInUse(
            f"{option}: {address} {reason}: stop what runs there, or give another address "
            f"with {option} (a port of * takes a free one)"
        ) from None
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def notice_dead_peers(socket: zmq.Socket[bytes]) -> None:
    """Have the system ask silent peers whether they are still there; before the socket is bound.

    A robot whose network went away says no goodbye: its connection would be kept for ever.
    """
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 6)


class ControlLink:
    """One process's line to the supervisor. Not thread-safe."""

    def __init__(
        self, run_dir: Path, process: str, context: zmq.Context[zmq.Socket[bytes]] | None = None
    ) -> None:
        self.process = process
        self.socket = (context or zmq.Context.instance()).socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, control_identity(process, os.getpid()))
        self.socket.setsockopt(zmq.LINGER, 500)
        self.socket.connect(ipc_address(run_dir, CONTROL))
        self._alive_at = 0.0

    def ready(self, addresses: dict[str, str] | None = None) -> None:
        """This process works; ``addresses`` are its public ones as bound, by name."""
        self.send(Ready(process=self.process, addresses=addresses or {}))

    def failed(self, code: str, reason: str) -> None:
        """This process gives up, and starting it again would not help."""
        self.send(Failed(process=self.process, code=code, reason=reason))

    def alive(self) -> None:
        """This process's loop turns; call as often as one likes."""
        now = time.monotonic()
        if now - self._alive_at >= ALIVE_EVERY_S:
            self._alive_at = now
            # A supervisor that does not listen must not hold the process up.
            with contextlib.suppress(zmq.Again):
                self.socket.send_multipart(encode(Alive()), zmq.NOBLOCK)

    def need_session(self, session: str) -> None:
        """Ask for a session's process; asking again is harmless."""
        self.send(NeedSession(session=session))

    def receive(self) -> Message | None:
        """The next order, or None; what cannot be read is passed over."""
        while True:
            try:
                return decode(self.socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return None
            except ProtocolError:
                continue

    def close(self) -> None:
        """Hang up; what was said before is still delivered."""
        self.socket.close()

    def send(self, header: Header) -> None:
        """Say something to the supervisor."""
        self.socket.send_multipart(encode(header))


def control_identity(process: str, pid: int) -> bytes:
    """The name under which the supervisor sees a process."""
    return f"{process}-{pid}".encode()

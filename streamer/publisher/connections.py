"""How many peers are connected to a bound socket."""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message


class ConnectionCount:
    """Follows a socket by its monitor; made before the first peer comes, and by the same thread.

    A peer counts from the moment it is accepted; one whose handshake fails is gone with it.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._descriptors: set[int] = set()

    def count(self) -> int:
        """Peers now."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._descriptors.add(event["value"])
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._descriptors.discard(event["value"])
        return len(self._descriptors)

    def close(self) -> None:
        """Before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)

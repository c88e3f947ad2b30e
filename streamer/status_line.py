"""One line about all sessions, from what the daemon publishes."""

from __future__ import annotations

import zmq

from streamer.access import ClientKeys
from streamer.addresses import connect
from streamer.protocol import ProtocolError, read_header
from streamer.protocol.update_headers import StatusHeader, topic


class StatusLine:
    """Listens to the status messages of a daemon. One thread."""

    def __init__(
        self,
        updates: str,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: ClientKeys | None = None,
    ) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 64)
        connect(self._socket, updates, keys)
        self._followed: set[str] = set()
        self.sessions: dict[str, StatusHeader] = {}

    def follow(self, session: str) -> None:
        """Listen to one more session; again is harmless."""
        if session not in self._followed:
            self._followed.add(session)
            # Only this kind: the map itself is megabytes a second.
            self._socket.setsockopt(zmq.SUBSCRIBE, topic(session, StatusHeader.KIND))

    def forget(self, session: str) -> None:
        """Stop listening to a session; one that is not known is none."""
        if session in self._followed:
            self._followed.remove(session)
            self._socket.setsockopt(zmq.UNSUBSCRIBE, topic(session, StatusHeader.KIND))
        self.sessions.pop(session, None)

    def text(self) -> str:
        """The present state of every session, newest first."""
        self.listen()
        if not self.sessions:
            return "no session yet"
        return " | ".join(describe(status) for status in reversed(self.sessions.values()))

    def listen(self) -> list[StatusHeader]:
        """The status messages that came since."""
        came: list[StatusHeader] = []
        while True:
            try:
                _, header, *_ = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return came
            try:
                status = read_header(header, StatusHeader.KIND, StatusHeader)
            except ProtocolError:
                continue
            self.sessions[status.session] = status
            came.append(status)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


def describe(status: StatusHeader) -> str:
    """A session's counters in a few words."""
    words = [
        f"{status.session}: {status.state}",
        f"{status.frames_done}/{status.frames_in} frames",
    ]
    if status.frames_waiting:
        words.append(f"{status.frames_waiting} waiting")
    if status.frames_dropped:
        words.append(f"{status.frames_dropped} dropped")
    if status.frames_rejected:
        words.append(f"{status.frames_rejected} rejected")
    words.append(f"{status.keyframes} key frames")
    words.append(f"{status.splats:,} splats")
    if status.latency_ms is not None:
        words.append(f"latency {status.latency_ms.p50:.0f}/{status.latency_ms.p95:.0f} ms")
    if status.psnr is not None:
        words.append(f"{status.psnr:.1f} dB")
    return ", ".join(words)

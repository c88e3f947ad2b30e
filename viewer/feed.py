"""What comes from the daemon, received in threads of its own.

The page reads whole, immutable states from here and never waits for the daemon; the receiving
threads never wait for a browser.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import zmq

from gs_decoder import Chunk
from streamer.access import ClientKeys
from streamer.addresses import connect
from streamer.protocol.update_headers import DAEMON_HEARTBEAT_TOPIC
from streamer.requests import Requests
from streamer.subscriber import Subscriber
from viewer.state import FeedState, Figures, Link

AWAY_AFTER_S = 3.0
_ASK_EVERY_S = 1.0
_RETRY_AFTER_S = 0.5
_POLL_S = 0.1
_ANSWER_S = 1.5
_DEAF_S = 10.0
NEWEST = 1_000
"""Key frames that the page has beside those of the map's chunks: a stream has no end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Standing:
    """How far the page has come with a session."""

    session: str
    epoch: int | None = None
    seq: int = 0


class Feed:
    """One session's map and figures, kept up to date until `stop`.

    Args:
        updates: address of the daemon's updates.
        requests: address of its requests.
        session: which session; None: the newest one that there is, as long as it is there.
        keys: for a daemon that has keys.
    """

    def __init__(
        self,
        updates: str,
        requests: str,
        session: str | None = None,
        *,
        keys: ClientKeys | None = None,
    ) -> None:
        self._updates = updates
        self._keys = keys
        self._requests = requests
        self._lock = threading.Lock()
        self._state = FeedState(session=session)
        self._chosen = session is not None
        self._heard_at: float | None = None
        self._started_at = time.monotonic()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=target.__name__, daemon=True)
            for target in (self._receive, self._ask, self._listen)
        ]

    def start(self) -> None:
        """Begin to receive."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; returns when they are gone or after 2 s."""
        self._stop.set()
        deadline = time.monotonic() + 2.0
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def state(self) -> FeedState:
        """The newest state."""
        now = time.monotonic()
        with self._lock:
            state = self._state
            heard_at = self._heard_at
        silent = now - (self._started_at if heard_at is None else heard_at)
        link: Link
        if silent > AWAY_AFTER_S:
            link = "away"
        elif heard_at is None:
            link = "connecting"
        else:
            link = "live" if state.session is not None else "waiting"
        return dataclasses.replace(state, link=link, silent_s=silent)

    def choose(self, session: str) -> None:
        """Show another session."""
        with self._lock:
            self._chosen = True
            if session != self._state.session:
                self._switch(session)

    def open_requests(self, timeout: float = 10.0) -> Requests:
        """A connection for requests of one's own; sockets belong to one thread."""
        return Requests(self._requests, timeout=timeout, keys=self._keys)

    # The threads -------------------------------------------------------------------------------

    def _receive(self) -> None:
        stood: _Standing | None = None
        while not self._stop.is_set():
            session = self._session()
            if session is None:
                self._stop.wait(_POLL_S)
                continue
            if stood is not None and stood.session != session:
                stood = None
            try:
                subscriber = Subscriber(self._updates, self._requests, session, keys=self._keys)
                with subscriber:
                    stood = self._follow(subscriber, stood or _Standing(session))
            except (ValueError, OSError, zmq.ZMQError) as error:
                _log.warning("updates of session %s: %s", session, error)
                self._stop.wait(_RETRY_AFTER_S)

    def _follow(self, subscriber: Subscriber, stood: _Standing) -> _Standing:
        """Mirror the session until another one is chosen or the daemon was away.

        A daemon that comes back may be another one, which counts from the beginning: that shows
        when its whole map is there, so a new subscriber takes over then. Until it holds
        everything, the page keeps what it has.
        """
        was_synced = was_away = pending = False
        while not self._stop.is_set():
            changes = subscriber.poll(_POLL_S)
            was_away, is_back = self.state().link == "away", was_away
            if is_back and not was_away:
                return stood
            was_synced = was_synced or subscriber.synced
            pending = pending or any(change.kind != "status" for change in changes)
            if not was_synced:
                continue
            now = _Standing(stood.session, subscriber.epoch, subscriber.seq)
            begun = stood.epoch is not None and (now.epoch != stood.epoch or now.seq < stood.seq)
            with self._lock:
                if self._state.session != stood.session:
                    return stood
                if pending or begun:
                    self._take_map(dict(subscriber.mirror.chunks), begun)
                figures = read_figures(subscriber.status)
                if figures is not None:
                    self._state = dataclasses.replace(self._state, figures=figures)
            stood, pending = now, False
        return stood

    def _take_map(self, chunks: dict[int, Chunk], begun: bool) -> None:
        self._state = dataclasses.replace(
            self._state,
            generation=self._state.generation + begun,
            chunks=chunks,
            map_version=self._state.map_version + 1,
            asked=() if begun else self._state.asked,
            figures=None if begun else self._state.figures,
        )

    def _ask(self) -> None:
        """Sessions and key frames: what updates do not carry."""
        seen: tuple[str | None, int] | None = None
        while not self._stop.is_set():
            try:
                with self.open_requests(_ANSWER_S) as requests:
                    while not self._stop.wait(_ASK_EVERY_S if seen else 0.0):
                        seen = self._ask_once(requests, seen)
            except (ValueError, OSError, zmq.ZMQError) as error:
                _log.debug("requests to the daemon: %s", error)
                self._stop.wait(_RETRY_AFTER_S)

    def _ask_once(
        self, requests: Requests, seen: tuple[str | None, int] | None
    ) -> tuple[str | None, int]:
        names = tuple(entry.session for entry in requests.sessions())
        with self._lock:
            if set(names) != set(self._state.sessions):
                self._state = dataclasses.replace(self._state, sessions=names)
            if names and self._state.session not in names and not self._chosen:
                self._switch(names[-1])
            state = self._state
        now = (state.session, state.map_version)
        if state.session is None or state.session not in names or now == seen:
            return now
        asked = tuple(requests.keyframes(state.session, newest=NEWEST))
        with self._lock:
            if self._state.session == state.session and (
                self._state.generation == state.generation
            ):
                self._state = dataclasses.replace(self._state, asked=asked)
        return now

    def _listen(self) -> None:
        """The daemon's pulse."""
        while not self._stop.is_set():
            socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
            with socket:
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.SUBSCRIBE, DAEMON_HEARTBEAT_TOPIC)
                connect(socket, self._updates, self._keys)
                heard = time.monotonic()
                # One whose key was refused does not try again by itself.
                while not self._stop.is_set() and time.monotonic() - heard < _DEAF_S:
                    if socket.poll(100):
                        socket.recv_multipart()
                        heard = time.monotonic()
                        with self._lock:
                            self._heard_at = heard

    def _switch(self, session: str) -> None:
        # A page without a session has shown nothing that would have to go.
        begun = self._state.session is not None
        self._state = FeedState(
            session=session,
            sessions=self._state.sessions,
            generation=self._state.generation + begun,
        )

    def _session(self) -> str | None:
        with self._lock:
            return self._state.session


def read_figures(status: Any) -> Figures | None:
    """A status header as the page's figures; None where there is none yet."""
    if status is None:
        return None
    names = [f.name for f in dataclasses.fields(Figures) if not f.name.startswith("latency_")]
    values = {name: getattr(status, name) for name in names if hasattr(status, name)}
    latency = status.latency_ms
    if latency is not None:
        values.update(latency_p50_ms=latency.p50, latency_p95_ms=latency.p95)
    return Figures(**values)

"""The session processes: one per name, and one warm spare, so that a first frame need not wait
for imports and kernels.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from streamer.child_process import BACKOFF_S, STEADY_S, ChildProcess
from streamer.protocol.fields import Header
from streamer.protocol.internal import SessionRefused, SessionStarted
from streamer.protocol.links import Assign, SessionEnded, SessionLost

SPARE_DELAY_S = 20.0
"""Warming a spare takes all cores for seconds: not while a session has just begun."""
END_S = 60.0
"""A session that is told to end finishes its batch and saves its state; after so long it is killed,
and goes on from an earlier state."""

CLOSE_ONE = (
    "close one that nobody needs now (splatstream sessions close NAME; it comes back when it is "
    "asked for), or raise --max-sessions"
)
"""What to do where there is no room for one more session."""


@dataclass(slots=True)
class SessionRoom:
    """What the pool needs of its supervisor."""

    limit: int
    """Most sessions at a time."""
    child: Callable[[], ChildProcess]
    """A new session process, not yet started."""
    send: Callable[[bytes, Header], None]
    """A message to one process, by its control identity."""
    tell: Callable[[Header], None]
    """A message to ingest and publisher."""
    log: Callable[[str], None]
    relay: Callable[[str, list[str]], None]
    """What a process said: how it is labelled, and its lines."""


@dataclass(slots=True)
class _Session:
    name: str
    child: ChildProcess | None = None
    deaths: int = 0
    start_at: float = 0.0
    ending_since: float | None = None
    """When it was told to end."""
    _assigned: float = 0.0

    def take(self, child: ChildProcess) -> None:
        """Run in this process from now on."""
        child.session = self.name
        self.child = child
        self._assigned = time.monotonic()

    def lose(self) -> None:
        """The process is gone; the next one waits the longer, the oftener this happens."""
        self.child = None
        now = time.monotonic()
        if now - self._assigned > STEADY_S:
            self.deaths = 0
        self.start_at = now + BACKOFF_S[min(self.deaths, len(BACKOFF_S) - 1)]
        self.deaths += 1


class SessionPool:
    """Names to processes. Who asks for a name gets one, who dies is replaced under its name."""

    def __init__(self, room: SessionRoom) -> None:
        self._room = room
        self._sessions: dict[str, _Session] = {}
        self._spare: ChildProcess | None = room.child()
        self._spare_at = 0.0

    @property
    def warm(self) -> bool:
        """Whether session processes come up: one waits, or has a session that was running when the
        last daemon was killed. The next one to wait is then in no hurry, or not wanted."""
        assigned = any(session.child is not None for session in self._sessions.values())
        return assigned or (self._spare is not None and self._spare.ready)

    @property
    def spare_deaths(self) -> int:
        """How often in a row a waiting process died."""
        return 0 if self._spare is None else self._spare.deaths

    def names(self) -> list[str]:
        """Names of all sessions, running or about to."""
        return list(self._sessions)

    def is_lost(self, name: str) -> bool:
        """Whether a session has no process at the moment."""
        return self._sessions[name].child is None

    def is_ending(self, name: str) -> bool:
        """Whether a session was told to end and has not yet."""
        session = self._sessions.get(name)
        return session is not None and session.ending_since is not None

    def has_to_wait(self, name: str) -> bool:
        """Whether a session can have a process once one that is on its way out has ended."""
        if name in self._sessions:
            return self.is_ending(name)
        full = len(self._sessions) >= self._room.limit
        return full and any(self.is_ending(other) for other in self._sessions)

    def children(self) -> Iterator[ChildProcess]:
        """All processes."""
        if self._spare is not None:
            yield self._spare
        for session in self._sessions.values():
            if session.child is not None:
                yield session.child

    def need(self, name: str) -> str | None:
        """Give a session its process; the reason where there is no room for it."""
        if name in self._sessions:
            return None
        if len(self._sessions) >= self._room.limit:
            names = ", ".join(self._sessions)
            return (
                f"session: {name!r} would be one more than max_sessions ({self._room.limit}); "
                f"running: {names}: {CLOSE_ONE}"
            )
        self._sessions[name] = _Session(name)
        self._assign()
        return None

    def end(self, name: str) -> None:
        """Have a session save its state and end; again is harmless."""
        session = self._sessions.get(name)
        if session is None or session.child is None:
            self._sessions.pop(name, None)
            self._room.tell(SessionEnded(session=name))
        elif session.ending_since is None:
            session.ending_since = time.monotonic()
            # It does not die unasked.
            session.child.on_death = None
            session.child.signal(signal.SIGTERM)

    def look_after(self) -> None:
        """Start, replace and assign what is due; call often."""
        self._look_after_spare()
        for session in list(self._sessions.values()):
            self._look_after_session(session)
        self._assign()

    def _look_after_spare(self) -> None:
        waiting = any(session.child is None for session in self._sessions.values())
        if self._spare is None:
            room = len(self._sessions) < self._room.limit
            if waiting or (room and time.monotonic() >= self._spare_at):
                self._spare = self._room.child()
            else:
                return
        spare = self._spare
        if spare.process is None:
            if time.monotonic() >= spare.start_at:
                spare.start()
            return
        self._room.relay(spare.label, spare.read_lines())
        status = spare.died()
        if status is not None:
            self._room.relay(spare.label, spare.forget())
            self._room.log(f"a waiting session process ended with status {status}")

    def _look_after_session(self, session: _Session) -> None:
        child = session.child
        if child is None:
            return
        self._room.relay(child.label, child.read_lines())
        status = child.died()
        if status is None:
            since = session.ending_since
            if since is not None and time.monotonic() - since > END_S:
                child.signal(signal.SIGKILL)
            return
        self._room.relay(child.label, child.forget())
        if session.ending_since is not None:
            del self._sessions[session.name]
            how = "its state is saved" if status == 0 else f"status {status}"
            self._room.log(f"session {session.name} ended: {how}")
            self._room.tell(SessionEnded(session=session.name))
            return
        if child.given_up is not None:
            del self._sessions[session.name]
            failed = child.given_up
            self._room.tell(
                SessionRefused(session=session.name, code=failed.code, reason=failed.reason)
            )
            return
        session.lose()
        self._room.log(f"session {session.name} ended with status {status}: it is started anew")
        self._room.tell(SessionLost(session=session.name))

    def _assign(self) -> None:
        for session in self._sessions.values():
            spare = self._spare
            if session.child is not None or time.monotonic() < session.start_at:
                continue
            if spare is None or spare.process is None or not spare.ready:
                return
            session.take(spare)
            self._spare = None
            self._spare_at = time.monotonic() + SPARE_DELAY_S
            self._room.send(spare.identity, Assign(session=session.name))
            self._room.tell(SessionStarted(session=session.name))

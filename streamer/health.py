"""One look at a running daemon: its sessions, what waits, how fast it goes, what is wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streamer.access import ClientKeys
from streamer.client.corrector import PoseClient
from streamer.client.errors import ConnectionLostError, RefusedError
from streamer.protocol.requests import StatusAnswer
from streamer.requests import RequestRefused, Requests

STARTING_S = 5.0
"""After so long a session without a status is wrong."""
NOT_DURABLE = "frames are not on the disk: no journal, or it cannot be written (see the log)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """From where on a session counts as unwell; None: never."""

    max_latency_ms: float | None = None
    max_waiting: int | None = None
    durable: bool = False
    """Whether a session that keeps frames in memory alone is unwell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLook:
    """One session. Rates are frames a second, taken in and finished, between the two looks."""

    status: StatusAnswer
    in_rate: float
    done_rate: float
    problems: list[str]


@dataclass(slots=True)
class DaemonLook:
    """The daemon; `problems` are those that belong to no session."""

    sessions: list[SessionLook] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Nothing is wrong."""
        return not self.problems and not any(session.problems for session in self.sessions)

    def to_builtins(self) -> dict[str, Any]:
        """For JSON; of a status all but what belongs to its message."""
        sessions = []
        for look in self.sessions:
            status = msgspec.to_builtins(look.status)
            for key in ("proto", "id", "seq"):
                status.pop(key, None)
            rates = {"in": round(look.in_rate, 3), "done": round(look.done_rate, 3)}
            sessions.append({**status, "frames_per_s": rates, "problems": look.problems})
        return {"healthy": self.healthy, "problems": self.problems, "sessions": sessions}


def look_at(
    requests: Requests, *, over_s: float, bounds: Bounds, session: str | None
) -> DaemonLook:
    """Ask for the status of all sessions twice, `over_s` seconds apart.

    Args:
        requests: a connection to the daemon.
        session: only this one.

    Raises:
        DaemonSilent: it does not answer.
        RequestRefused: there is no such session.
    """
    names = [entry.session for entry in requests.sessions()] if session is None else [session]
    before = {name: (time.monotonic(), _status(requests, name)) for name in names}
    if names:
        time.sleep(over_s)
    look = DaemonLook()
    for name, (asked, first) in before.items():
        try:
            now, status = time.monotonic(), requests.status(name)
        except RequestRefused:
            # It ended between the two looks.
            continue
        seconds = max(now - asked, 1e-3)
        # Of a new epoch the counters begin anew.
        last = first if status.epoch == first.epoch else status
        look.sessions.append(
            SessionLook(
                status=status,
                in_rate=(status.frames_in - last.frames_in) / seconds,
                done_rate=(status.frames_done - last.frames_done) / seconds,
                problems=_problems(status, bounds),
            )
        )
    return look


def ingest_problem(address: str, timeout_s: float, keys: ClientKeys | None = None) -> str | None:
    """Why the ingest takes nothing; None where it greets as it should.

    Raises:
        AddressError: the address is none.
    """
    try:
        PoseClient(address, "status", client="status", timeout_s=timeout_s, keys=keys).close()
    except ConnectionLostError as error:
        return str(error)
    except RefusedError as error:
        # The key's sessions are others: so it was let in, and answered.
        if error.code != "denied":
            raise
    return None


def _status(requests: Requests, name: str) -> StatusAnswer:
    """Of a session that is just coming back there is none for a moment."""
    until = time.monotonic() + STARTING_S
    while True:
        try:
            return requests.status(name)
        except RequestRefused as refused:
            if refused.code != "busy" or time.monotonic() >= until:
                raise
        time.sleep(0.2)


def _problems(status: StatusAnswer, bounds: Bounds) -> list[str]:
    problems = []
    if status.state == "lost":
        problems.append("its process died and is not back yet")
    latency = status.latency_ms
    most = bounds.max_latency_ms
    if most is not None and latency is not None and latency.p95 > most:
        problems.append(f"latency p95 is {latency.p95:.0f} ms, above {most:g}")
    if bounds.max_waiting is not None and status.frames_waiting > bounds.max_waiting:
        problems.append(f"{status.frames_waiting} frames wait, above {bounds.max_waiting}")
    if bounds.durable and not status.durable:
        problems.append(NOT_DURABLE)
    return problems

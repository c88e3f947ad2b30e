"""Sessions that are not running: which there are on the disk, and how readers get them back.

The publisher only asks: whether a session ends or comes back is the ingest's to decide, which knows
who sends into it. What is asked goes by way of the supervisor.
"""

from __future__ import annotations

import time
from pathlib import Path

from streamer.control import ControlLink
from streamer.protocol import ProtocolError
from streamer.protocol.links import SessionClosing, SessionKept, SessionWanted
from streamer.stored_sessions import can_come_back

WANTED_EVERY_S = 1.0
"""So often at most the ingest hears that a session is asked for."""
REFUSAL_S = 3.0
"""For so long the reason why a session does not come back is told to whoever asks for it."""


class Sleepers:
    """Asks for sessions to come back, to stay, or to end.

    Args:
        control: to the supervisor; None where there is none, and so no session but those that
            speak.
        session_dir: None where sessions that have ended cannot come back.
    """

    def __init__(self, control: ControlLink | None, session_dir: Path | None) -> None:
        self._control = control
        self._session_dir = session_dir
        self._wanted_at: dict[str, float] = {}
        self._refusals: dict[str, tuple[float, SessionKept]] = {}

    def stored(self, name: str) -> bool:
        """Whether a session lies on the disk that can be brought back."""
        if self._control is None or self._session_dir is None:
            return False
        return can_come_back(self._session_dir, name)

    def want(self, name: str) -> None:
        """A reader asks for this session: it stays, or comes back."""
        now = time.monotonic()
        if self._control is not None and now >= self._wanted_at.get(name, 0.0) + WANTED_EVERY_S:
            self._wanted_at[name] = now
            self._control.send(SessionWanted(session=name))

    def wake(self, name: str) -> ProtocolError:
        """Bring a stored session back; what to tell whoever asked meanwhile."""
        self.want(name)
        if (known := self._refusals.get(name)) is not None:
            return ProtocolError(known[1].code, known[1].reason)
        return ProtocolError(
            "busy", f"session {name} had ended and is being brought back: ask again in a second"
        )

    def close(self, name: str) -> None:
        """Have a session end now."""
        if self._control is not None:
            self._control.send(SessionClosing(session=name))

    def kept(self, kept: SessionKept) -> None:
        """A session does not come back."""
        self._refusals[kept.session] = (time.monotonic(), kept)

    def started(self, name: str) -> None:
        """A session comes back."""
        self._refusals.pop(name, None)

    def forget(self) -> None:
        """What is long past; call about once a second."""
        now = time.monotonic()
        self._wanted_at = {
            name: at for name, at in self._wanted_at.items() if now - at < WANTED_EVERY_S
        }
        self._refusals = {
            name: known for name, known in self._refusals.items() if now - known[0] < REFUSAL_S
        }

"""Which sessions the ingest holds: who is let in, who ends while the daemon runs, who comes back.

A session that nobody sends into and that has nothing to do ends after a while: its process saves
its state, and nothing of it stays in memory. Its sender, a correction or a reader brings it back
from its folder. Without a journal nothing could come back, so nothing ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from streamer.control import ControlLink
from streamer.ingest.backstage import ASK_AGAIN_S, Backstage
from streamer.ingest.restore import SessionMaker
from streamer.ingest.sessions import Process, Session
from streamer.ingest.takeover import check_takeover, sends_now
from streamer.journal import JournalError
from streamer.protocol import Message, ProtocolError
from streamer.protocol.links import (
    EndSession,
    SessionClosing,
    SessionEnded,
    SessionKept,
    SessionWanted,
)
from streamer.protocol.messages import Hello
from streamer.session.folder import SessionFolderError
from streamer.session_pool import CLOSE_ONE
from streamer.stored_sessions import can_come_back

logger = logging.getLogger(__name__)

MAX_IDLE_SESSIONS = 256
"""Sessions that were greeted and hold nothing yet."""


class Roster:
    """Lets sessions in, ends them, brings them back.

    Args:
        sessions: shared with `Backstage` and `Door`.
        make: brings sessions into being.
        limit: most sessions with a process.
        idle_s: seconds without a sender and without work after which a session ends; 0: never.
        gone: told the session that is no longer held.
    """

    def __init__(
        self,
        sessions: dict[str, Session],
        make: SessionMaker,
        backstage: Backstage,
        control: ControlLink,
        *,
        limit: int,
        idle_s: float,
        gone: Callable[[Session], None],
    ) -> None:
        self._sessions = sessions
        self._make = make
        self._backstage = backstage
        self._control = control
        self._limit = limit
        self._idle_s = idle_s
        self._gone = gone

    # ---- coming ----

    def admit(self, hello: Hello) -> Session:
        """A session for somebody who wants to send frames into one that is not held.

        Raises:
            ProtocolError: `busy`, there is no room; `bad_session`, it would mix two streams;
                `internal`, its folder cannot be used.
        """
        self._check_room(hello.session, make_some=True)
        session = self._restore(hello.session)
        try:
            check_takeover(session, hello)
        except ProtocolError:
            session.leave()
            raise
        self._make_room()
        self._sessions[hello.session] = session
        return session

    def wake(self, name: str) -> bool:
        """Bring a session back that has ended, or see that it does not end now.

        Returns:
            whether there is such a session, here or on the disk.

        Raises:
            ProtocolError: as `admit`.
        """
        session = self._sessions.get(name)
        if session is None:
            if not self._is_stored(name):
                return False
            self._check_room(name, make_some=False)
            session = self._restore(name)
            self._sessions[name] = session
        session.active_at = time.monotonic()
        session.wanted = True
        if session.link.process is Process.NONE and session.stream.accepted:
            self._backstage.ask_for_process(session)
        return session.link.process is not Process.NONE

    def _restore(self, name: str) -> Session:
        try:
            return self._make.make(name, None, time.monotonic())
        except (JournalError, SessionFolderError) as error:
            raise ProtocolError("internal", f"session: {error}") from None

    def _is_stored(self, name: str) -> bool:
        journals = self._make.journals
        return journals is not None and can_come_back(journals.session_dir, name)

    def _check_room(self, name: str, *, make_some: bool) -> None:
        """See that one more session may run.

        Args:
            make_some: a session that only waits to be idle for long enough makes room now.
        """
        free = (Process.NONE, Process.ENDING)
        running = [s for s in self._sessions.values() if s.link.process not in free]
        if len(running) < self._limit:
            return
        idle = [s for s in running if self._may_end(s) is None and not self._is_active(s)]
        if not (make_some and self._idle_s and idle):
            names = ", ".join(session.name for session in running)
            raise ProtocolError(
                "busy",
                f"session: {self._limit} sessions run already (--max-sessions), {name!r} would be "
                f"one more: {CLOSE_ONE}; running: {names}",
            )
        leaving = min(idle, key=lambda session: session.active_at)
        logger.info("session %s ends to make room for %s", leaving.name, name)
        self._end(leaving)

    def _make_room(self) -> None:
        idle = [
            session
            for session in self._sessions.values()
            if not session.holds_frames and session.link.process is Process.NONE
        ]
        for session in idle[: max(0, len(idle) - MAX_IDLE_SESSIONS)]:
            self._let_go(session)

    # ---- going ----

    def tick(self) -> None:
        """End who has been idle for long enough; several times a second."""
        now = time.monotonic()
        for session in list(self._sessions.values()):
            link = session.link
            if link.process is Process.ENDING:
                if now - link.asked_at >= ASK_AGAIN_S:
                    self._ask_to_end(session)
            elif self._is_active(session):
                session.active_at = now
            elif link.process is Process.NONE and session.recorded:
                # Refused a process; all that it holds is on the disk.
                self._let_go(session)
            elif self._idle_s and now - session.active_at >= self._idle_s:
                if link.process is Process.NONE:
                    self._let_go(session)
                elif self._may_end(session) is None:
                    logger.info("session %s ends: idle for %g s", session.name, self._idle_s)
                    self._end(session)

    def handle(self, message: Message) -> bool:
        """An order of the supervisor; False if it is not for here."""
        try:
            if message.kind == SessionWanted.KIND:
                name = message.read(SessionWanted).session
                try:
                    self.wake(name)
                except ProtocolError as error:
                    self._keep(name, error)
            elif message.kind == SessionClosing.KIND:
                self._close(message.read(SessionClosing).session)
            elif message.kind == SessionEnded.KIND:
                self._ended(message.read(SessionEnded).session)
            else:
                return False
        except ProtocolError as error:
            logger.warning("supervisor: %s", error)
        return True

    def _close(self, name: str) -> None:
        session = self._sessions.get(name)
        if session is None:
            # Nobody here works on it; the supervisor says so if it does not either.
            self._control.send(EndSession(session=name))
            return
        if session.link.process is Process.ENDING:
            return
        if (refusal := self._may_end(session)) is not None:
            self._keep(name, refusal)
            return
        logger.info("session %s ends: it was closed", name)
        self._end(session)

    def _keep(self, name: str, error: ProtocolError) -> None:
        self._control.send(SessionKept(session=name, code=error.code, reason=error.reason))

    def _is_active(self, session: Session) -> bool:
        """Whether somebody sends into it, or it has something to do."""
        link, stream = session.link, session.stream
        if sends_now(session.sender) or stream.pending:
            return True
        if link.process is Process.NONE:
            return False
        lacks = link.lacks is not None or link.catch_up is not None
        return bool(link.process is not Process.STARTED or link.busy or lacks or stream.waiting)

    def _may_end(self, session: Session) -> ProtocolError | None:
        """Why a session cannot end now."""
        name, recorder, sender = session.name, session.recorder, session.sender
        if recorder is None:
            return ProtocolError(
                "internal",
                f"session: {name!r} has no journal (journal.enabled) and could not come back: it "
                "ends with the daemon",
            )
        if recorder.trouble is not None:
            return ProtocolError(
                "busy", f"session: {name!r} cannot be written down now: {recorder.trouble}"
            )
        if sends_now(sender):
            assert sender is not None
            return ProtocolError(
                "busy",
                f"session: client {sender.hello.client!r} sends into {name!r}: end that one first",
            )
        if session.link.process is not Process.STARTED or not session.link.life:
            return ProtocolError("busy", f"session: {name!r} is starting: ask again in a second")
        return None

    def _end(self, session: Session) -> None:
        self._backstage.stop_catching_up(session)
        session.link.process = Process.ENDING
        session.link.want = 0
        session.wanted = False
        self._ask_to_end(session)

    def _ask_to_end(self, session: Session) -> None:
        session.link.asked_at = time.monotonic()
        self._control.send(EndSession(session=session.name))

    def _ended(self, name: str) -> None:
        session = self._sessions.get(name)
        if session is None:
            return
        reason = f"session {name} has ended: send the correction again, it brings it back"
        self._backstage.corrections.fail(name, "busy", reason)
        link = session.link
        link.process, link.want, link.busy, link.lacks = Process.NONE, 0, True, None
        if not (sends_now(session.sender) or session.stream.pending or session.wanted):
            self._let_go(session)
        elif session.stream.accepted:
            # Somebody came while it was on its way out.
            self._backstage.ask_for_process(session)

    def _let_go(self, session: Session) -> None:
        del self._sessions[session.name]
        session.leave()
        self._gone(session)

"""The inner side of the ingest: sessions' processes take batches, answer corrections, come and go.

Sessions pull: a STATE says how many frames would be taken now, and one batch answers it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

from streamer.control import ControlLink
from streamer.frames import Frame
from streamer.ingest.batches import describe, parts
from streamer.ingest.catchup import CatchUp, Section
from streamer.ingest.corrections import Corrections
from streamer.ingest.decoder import Job, Took
from streamer.ingest.durability import begin_journal, lacking_section, note_report, record, take_up
from streamer.ingest.replies import Reply
from streamer.ingest.sessions import Process, Session
from streamer.journal import Report
from streamer.protocol import Buffer, Header, Message, ProtocolError, decode, encode
from streamer.protocol.internal import (
    Batch,
    CountsUpdate,
    PosesDone,
    PosesForward,
    ResetDone,
    SessionRefused,
    SessionStarted,
    State,
)
from streamer.protocol.limits import MAX_INTERNAL_PARTS
from streamer.protocol.links import SessionLost
from streamer.protocol.messages import Error

logger = logging.getLogger(__name__)

MAX_BATCH = 128
"""Frames in one batch at most, whatever a session wants: three parts each must fit."""
ASK_AGAIN_S = 1.0
COUNTS_EVERY_S = 1.0


class Backstage:
    """Talks to the sessions' processes and to the supervisor, for all sessions."""

    def __init__(
        self,
        batches: zmq.Socket[bytes],
        control: ControlLink,
        sessions: dict[str, Session],
        reply: Reply,
        batch_timeout_s: float,
        took: Took,
        submit: Callable[[Job], None],
        catch_up: Callable[[Section], CatchUp],
    ) -> None:
        self._batches = batches
        self._control = control
        self._sessions = sessions
        self._reply = reply
        self._batch_timeout_s = batch_timeout_s
        self._took = took
        self._submit = submit
        self._catch_up = catch_up
        self.corrections = Corrections(reply)

    # ---- verdicts ----

    def settle(self, session: Session) -> None:
        """Hand out the verdicts that are due; acceptances need the session's process."""
        stream, link = session.stream, session.link
        has_process = link.process in (Process.STARTED, Process.LOST)
        record(session, accepting=has_process)
        if has_process or (stream.ready and not stream.wants_in):
            self._hand_out_verdicts(session, accepting=has_process)
        if stream.wants_in and link.process is Process.NONE:
            self.ask_for_process(session)
        self.pump(session)

    def _hand_out_verdicts(self, session: Session, *, accepting: bool = True) -> None:
        messages = session.stream.settle(accepting=accepting)
        # Noted before it is said: what was acknowledged must not be asked for again by a successor.
        session.save_counts()
        for message in messages:
            self._tell_sender(session, message)
        if session.recorder is not None and session.stream.newly_dropped:
            session.recorder.put_dropped(session.stream.newly_dropped)
            session.stream.newly_dropped = []

    def opened(self, session: Session) -> None:
        """A sender said HELLO; if the session only sleeps on the disk, wake it."""
        take_up(session)
        if session.stream.accepted and session.link.process is Process.NONE:
            self.ask_for_process(session)

    def revive(self) -> None:
        """Ask for the processes of sessions that a daemon left running when it was killed."""
        for session in self._sessions.values():
            if session.stream.accepted and session.link.process is Process.NONE:
                self.ask_for_process(session)

    def close(self) -> None:
        """Stop reading journals."""
        for session in self._sessions.values():
            self.stop_catching_up(session)

    def ask_for_process(self, session: Session) -> None:
        """Have the supervisor start one; its word follows."""
        recorder = session.recorder
        if recorder is not None and not begin_journal(session):
            assert recorder.trouble is not None
            refused = SessionRefused(session=session.name, code="internal", reason=recorder.trouble)
            self._give_up(session, refused)
            return
        session.link.process = Process.ASKED
        session.link.asked_at = time.monotonic()
        self._control.need_session(session.name)

    def _tell_sender(self, session: Session, header: Header) -> None:
        if session.sender is not None and session.sender.identity is not None:
            self._reply(session.sender.identity, header)

    # ---- the journal ----

    def reported(self, report: Report) -> None:
        """The journal's thread wrote something, or could not."""
        for session in self._sessions.values():
            if session.recorder is None or session.recorder.queue is not report.queue:
                continue
            if note_report(session, report):
                self.corrections.durable(session.name, report.durable)
            self.settle(session)
            return

    # ---- what a session has lost ----

    def feed(self) -> None:
        """Send on what was read from journals since."""
        for session in self._sessions.values():
            if session.link.catch_up is not None:
                self.pump(session)

    def _feed(self, session: Session) -> None:
        """What the journal gave, as it is wanted; then nothing is lacking any more."""
        link, stream = session.link, session.stream
        assert link.catch_up is not None
        while (step := link.catch_up.peek()) is not None:
            if step.poses is not None:
                # When the batch before it is done: it is not to overtake what it once came after.
                if link.want == 0 or not self._send(session, step.poses):
                    return
            elif not step.whole:
                # As if they had just come in: those behind them fill the batch.
                stream.put_back(step.frames)
            elif step.frames:
                if link.want == 0 or not self._send_frames(session, step.frames):
                    return
                if not step.recorded:
                    session.note_batch(step.frames)
            link.catch_up.pop()
        stream.replaying = link.catch_up.remaining
        if link.catch_up.ended:
            self.stop_catching_up(session)

    def stop_catching_up(self, session: Session) -> None:
        """What its process was still to be told stays in the journal."""
        if session.link.catch_up is not None:
            session.link.catch_up.cancel()
        session.link.catch_up = None
        session.stream.replaying = 0

    # ---- batches ----

    def pump(self, session: Session) -> None:
        """Send the session a batch if it wants one and there is enough for it."""
        link, stream = session.link, session.stream
        self._decode(session)
        if link.process is not Process.STARTED or link.epoch == 0:
            return
        if link.lacks is not None:
            section, link.lacks = lacking_section(session, MAX_BATCH), None
            link.catch_up = None if section is None else self._catch_up(section)
        if link.catch_up is not None:
            self._feed(session)
        if link.catch_up is not None:
            return
        if link.want:
            stream.freshen()
            self._decode(session)
        count, flush = min(len(stream.waiting), link.want, MAX_BATCH), session.flushes
        if count == 0 and not (flush and not stream.waiting):
            return
        late = time.monotonic() - session.last_frame_at >= self._batch_timeout_s
        enough = min(link.want, MAX_BATCH, stream.most_waiting)
        if not (count >= enough or flush or (late and not stream.pending)):
            return
        frames = stream.take(count)
        done = flush and not stream.waiting
        if not self._send_frames(session, frames, flush=done):
            stream.put_back(frames)
            return
        now = time.monotonic_ns()
        for frame in frames:
            self._took("queue", (now - frame.received_ns) / 1e9)
        if frames:
            session.note_batch(frames)
        if done:
            session.flush_upto = None
        self._hand_out_verdicts(session)
        self._decode(session)

    def _decode(self, session: Session) -> None:
        for job in session.to_decode():
            self._submit(job)

    def _send_frames(self, session: Session, frames: list[Frame], *, flush: bool = False) -> bool:
        link = session.link
        header = Batch(
            frames=[describe(f) for f in frames],
            counts=session.stream.counts,
            epoch=link.epoch,
            flush=flush,
        )
        if not self._send(session, header, *[part for f in frames for part in parts(f)]):
            return False
        if frames:
            link.want = 0
            link.sent_next = frames[-1].seq + 1
        session.last_counts_at = time.monotonic()
        return True

    def _send_counts(self, session: Session) -> None:
        session.last_counts_at = time.monotonic()
        self._send(session, CountsUpdate(counts=session.stream.counts, epoch=session.link.epoch))

    def _send(self, session: Session, header: Header, *parts: Buffer) -> bool:
        try:
            self._batches.send_multipart(
                [session.name.encode(), *encode(header, *parts)], zmq.NOBLOCK, copy=False
            )
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        return True

    # ---- corrections ----

    def forward_poses(
        self, session: Session, header: PosesForward, peer: bytes, unknown: list[int]
    ) -> bool:
        """Hand a checked correction to the session; False if its process is not there, or has
        older ones to come from the journal."""
        ready = session.link.process is Process.STARTED and session.coming() is not None
        if not ready or not self._send(session, header):
            return False
        self.corrections.add(session, header, peer, unknown)
        return True

    # ---- what sessions say ----

    def handle_session(self, frames: list[bytes]) -> None:
        """A message of a session's process; its identity is the session's name."""
        name = frames[0].decode("ascii", "replace")
        try:
            message = decode(frames[1:], max_parts=MAX_INTERNAL_PARTS)
            if message.kind == State.KIND:
                self._on_state(message.read(State))
            elif message.kind == PosesDone.KIND:
                self.corrections.done(self._sessions.get(name), message.read(PosesDone))
            elif message.kind == ResetDone.KIND:
                self._on_reset(message.read(ResetDone))
        except ProtocolError as error:
            logger.warning("session %s: %s", name, error)

    def _on_state(self, state: State) -> None:
        session = self._sessions.get(state.session)
        if session is None:
            return
        link = session.link
        said, known = (state.epoch, state.life), (link.epoch, link.life)
        if said < known or (said == known and link.process is not Process.STARTED):
            return
        if said > known:
            # A new process: what the old one had taken is gone with it.
            self.stop_catching_up(session)
            link.sent_next = state.next_seq
            # It publishes no status before it knows what was counted.
            session.last_counts_at = 0.0
        if said > known or link.lacks is not None:
            link.lacks = state
        link.epoch, link.life = said
        link.process = Process.STARTED
        link.busy, link.batch = state.busy, state.batch
        if state.next_seq >= link.sent_next:
            link.want = state.want
        self.settle(session)

    def _on_reset(self, reset: ResetDone) -> None:
        session = self._sessions.get(reset.session)
        if session is None:
            return
        self.stop_catching_up(session)
        session.forget_frames()
        if reset.epoch > session.link.epoch:
            # Its processes are counted anew in every epoch.
            session.link.epoch, session.link.life = reset.epoch, 0
        session.link.lacks = None
        if session.recorder is not None:
            session.recorder.begin_epoch(reset.epoch)
        reason = f"session {session.name} was reset: say HELLO again, seq starts at 0"
        self._tell_sender(session, Error(code="bad_session", reason=reason))
        if session.sender is not None:
            session.sender.identity = None
        self._send_counts(session)

    # ---- what the supervisor says ----

    def handle_control(self, message: Message) -> None:
        """An order of the supervisor."""
        try:
            if message.kind == SessionStarted.KIND:
                self._on_started(message.read(SessionStarted).session)
            elif message.kind == SessionRefused.KIND:
                self._on_refused(message.read(SessionRefused))
            elif message.kind == SessionLost.KIND:
                self._on_lost(message.read(SessionLost).session)
        except ProtocolError as error:
            logger.warning("supervisor: %s", error)

    def _on_started(self, name: str) -> None:
        session = self._sessions.get(name)
        if session is not None:
            session.link.process = Process.STARTED
            self.settle(session)

    def _on_refused(self, refused: SessionRefused) -> None:
        session = self._sessions.get(refused.session)
        if session is None:
            return
        session.link.process = Process.NONE
        session.link.want = 0
        if refused.code == "busy":
            for message in session.stream.refuse_pending("busy", refused.reason):
                self._tell_sender(session, message)
            return
        self._give_up(session, refused)

    def _give_up(self, session: Session, refused: SessionRefused) -> None:
        """The process cannot run, and another one could not either until somebody repairs it."""
        reason = f"session {session.name} does not start: {refused.reason}"
        self.stop_catching_up(session)
        kept = session.recorder is not None and session.recorder.queue is not None
        lost = len(session.stream.waiting)
        if lost:
            fate = "are in its journal" if kept else "are dropped"
            reason += f"; {lost} accepted frames that waited for it {fate}"
        if kept:
            # Whoever says HELLO again finds it as the disk has it.
            self._sessions.pop(session.name).leave()
        else:
            session.forget_frames()
        logger.warning("%s (%s)", reason, refused.code)
        # `bad_session` would call for another HELLO, and so start in vain again and again.
        code = "internal" if refused.code == "bad_session" else refused.code
        self.corrections.fail(session.name, code, reason)
        self._tell_sender(session, Error(code=code, reason=reason))
        if session.sender is not None:
            session.sender.identity = None
            # Nothing of this sender is left here: whoever comes next need not wait for its silence.
            session.sender.said_bye = True

    def _on_lost(self, name: str) -> None:
        session = self._sessions.get(name)
        if session is None:
            return
        session.link.process = Process.LOST
        session.link.want = 0
        self.stop_catching_up(session)
        reason = f"session {name} died and starts anew: send the correction again"
        self.corrections.fail(name, "internal", reason, lost=True)

    # ---- the clock ----

    def tick(self) -> None:
        """What is due by time alone; several times a second."""
        now = time.monotonic()
        for session in self._sessions.values():
            link = session.link
            if link.process is Process.ASKED and now - link.asked_at >= ASK_AGAIN_S:
                self.ask_for_process(session)
            if link.process is not Process.STARTED:
                continue
            self.pump(session)
            if now - session.last_counts_at >= COUNTS_EVERY_S:
                self._send_counts(session)

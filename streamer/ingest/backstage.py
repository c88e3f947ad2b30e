"""The inner side of the ingest: sessions' processes take batches, answer corrections, come and go.

Sessions pull: a STATE says how many frames would be taken now, and one batch answers it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import zmq

from streamer.control import ControlLink
from streamer.frames import Frame
from streamer.ingest.decoder import Took
from streamer.ingest.sessions import Process, Session
from streamer.protocol import Buffer, Header, Message, ProtocolError, decode, encode
from streamer.protocol.internal import (
    Batch,
    BatchFrame,
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
from streamer.protocol.messages import Error, PosesAck

logger = logging.getLogger(__name__)

MAX_BATCH = 128
"""Frames in one batch at most, whatever a session wants: three parts each must fit."""
MAX_CORRECTIONS = 256
"""Corrections that sessions may owe an answer to; older ones are no longer answered."""
ASK_AGAIN_S = 1.0
COUNTS_EVERY_S = 1.0

Reply = Callable[[bytes, Header], None]


@dataclass(frozen=True, slots=True)
class _Correction:
    """A forwarded POSES whose answer is awaited."""

    peer: bytes
    unknown: list[int]


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
    ) -> None:
        self._batches = batches
        self._control = control
        self._sessions = sessions
        self._reply = reply
        self._batch_timeout_s = batch_timeout_s
        self._took = took
        self._corrections: dict[tuple[str, str, int], _Correction] = {}

    # ---- verdicts ----

    def settle(self, session: Session) -> None:
        """Hand out the verdicts that are due; acceptances need the session's process."""
        stream, link = session.stream, session.link
        has_process = link.process in (Process.STARTED, Process.LOST)
        if has_process or (stream.ready and not stream.wants_in):
            self._hand_out_verdicts(session, accepting=has_process)
        if stream.wants_in and link.process is Process.NONE:
            self._ask_for_process(session)
        self.pump(session)

    def _hand_out_verdicts(self, session: Session, *, accepting: bool = True) -> None:
        messages = session.stream.settle(accepting=accepting)
        # Noted before it is said: what was acknowledged must not be asked for again by a successor.
        session.save_counts()
        for message in messages:
            self._tell_sender(session, message)

    def _ask_for_process(self, session: Session) -> None:
        session.link.process = Process.ASKED
        session.link.asked_at = time.monotonic()
        self._control.need_session(session.name)

    def _tell_sender(self, session: Session, header: Header) -> None:
        if session.sender is not None and session.sender.identity is not None:
            self._reply(session.sender.identity, header)

    # ---- batches ----

    def pump(self, session: Session) -> None:
        """Send the session a batch if it wants one and there is enough for it."""
        link, stream = session.link, session.stream
        flush = session.flush_upto is not None and (
            not stream.pending or stream.pending[0].seq > session.flush_upto
        )
        if link.process is not Process.STARTED or link.epoch == 0:
            return
        count = min(len(stream.waiting), link.want, MAX_BATCH)
        if count == 0 and not (flush and not stream.waiting):
            return
        late = time.monotonic() - session.last_frame_at >= self._batch_timeout_s
        if not (count >= min(link.want, MAX_BATCH) or flush or (late and not stream.pending)):
            return
        frames = stream.take(count)
        done = flush and not stream.waiting
        header = Batch(
            frames=[_describe(f) for f in frames],
            counts=stream.counts,
            epoch=link.epoch,
            flush=done,
        )
        if not self._send(session, header, *[part for f in frames for part in _parts(f)]):
            stream.put_back(frames)
            return
        now = time.monotonic_ns()
        for frame in frames:
            self._took("queue", (now - frame.received_ns) / 1e9)
        if frames:
            link.want = 0
            link.sent_next = frames[-1].seq + 1
        if done:
            session.flush_upto = None
        session.last_counts_at = time.monotonic()
        self._hand_out_verdicts(session)

    def _send(self, session: Session, header: Header, *parts: Buffer) -> bool:
        try:
            self._batches.send_multipart(
                [session.name.encode(), *encode(header, *parts)], zmq.NOBLOCK, copy=False
            )
        except (zmq.Again, zmq.ZMQError) as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        return True

    # ---- corrections ----

    def forward_poses(
        self, session: Session, header: PosesForward, peer: bytes, unknown: list[int]
    ) -> bool:
        """Hand a checked correction to the session; False if its process is not there."""
        if session.link.process is not Process.STARTED or not self._send(session, header):
            return False
        key = (session.name, header.client, header.revision)
        self._corrections[key] = _Correction(peer, unknown)
        while len(self._corrections) > MAX_CORRECTIONS:
            self._corrections.pop(next(iter(self._corrections)))
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
                self._on_poses_done(name, message.read(PosesDone))
            elif message.kind == ResetDone.KIND:
                self._on_reset(message.read(ResetDone))
        except ProtocolError as error:
            logger.warning("session %s: %s", name, error)

    def _on_state(self, state: State) -> None:
        session = self._sessions.get(state.session)
        if session is None:
            return
        link = session.link
        if state.epoch < link.epoch or (state.epoch == link.epoch and link.process is Process.LOST):
            return
        if state.epoch > link.epoch:
            # A new process: what the old one had taken is gone with it.
            link.sent_next = state.next_seq
        link.epoch = state.epoch
        link.process = Process.STARTED
        if state.next_seq >= link.sent_next:
            link.want = state.want
        self.settle(session)

    def _on_poses_done(self, name: str, done: PosesDone) -> None:
        correction = self._corrections.pop((name, done.client, done.revision), None)
        if correction is None:
            return
        if done.code is not None:
            reason = done.reason or "the session refused the correction"
            answer: Header = Error(code=done.code, reason=reason, revision=done.revision)
        else:
            answer = PosesAck(
                revision=done.revision,
                moved=done.moved,
                unknown=sorted({*done.unknown, *correction.unknown}),
            )
        self._reply(correction.peer, answer)

    def _on_reset(self, reset: ResetDone) -> None:
        session = self._sessions.get(reset.session)
        if session is None:
            return
        session.forget_frames()
        session.link.epoch = max(session.link.epoch, reset.epoch)
        self._tell_sender(
            session,
            Error(
                code="bad_session",
                reason=f"session {session.name} was reset: say HELLO again, seq starts at 0",
            ),
        )
        if session.sender is not None:
            session.sender.identity = None

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
        lost = len(session.stream.waiting)
        session.forget_frames()
        reason = f"session {session.name} does not start: {refused.reason}"
        if lost:
            reason += f"; {lost} accepted frames that waited for it are dropped"
        logger.warning("%s (%s)", reason, refused.code)
        # `bad_session` would call for another HELLO, and so start in vain again and again.
        code = "internal" if refused.code == "bad_session" else refused.code
        self._fail_corrections(session.name, code, reason)
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
        # Its successor knows none of these, and would answer none of them.
        self._fail_corrections(
            name, "internal", f"session {name} died and starts anew: send the correction again"
        )

    def _fail_corrections(self, name: str, code: str, reason: str) -> None:
        for key in [key for key in self._corrections if key[0] == name]:
            correction = self._corrections.pop(key)
            self._reply(correction.peer, Error(code=code, reason=reason, revision=key[2]))

    # ---- the clock ----

    def tick(self) -> None:
        """What is due by time alone; several times a second."""
        now = time.monotonic()
        for session in self._sessions.values():
            link = session.link
            if link.process is Process.ASKED and now - link.asked_at >= ASK_AGAIN_S:
                self._ask_for_process(session)
            if link.process is not Process.STARTED:
                continue
            self.pump(session)
            if now - session.last_counts_at >= COUNTS_EVERY_S:
                session.last_counts_at = now
                self._send(session, CountsUpdate(counts=session.stream.counts, epoch=link.epoch))


def _describe(frame: Frame) -> BatchFrame:
    height, width = frame.image.shape[:2]
    return BatchFrame(
        seq=frame.seq,
        stamp_ns=frame.stamp_ns,
        camera=frame.camera,
        width=width,
        height=height,
        K=frame.K.reshape(-1).tolist(),
        c2w=None if frame.c2w is None else frame.c2w.reshape(-1).tolist(),
        has_depth=frame.depth is not None,
        has_valid=frame.valid is not None,
        received_ns=frame.received_ns,
    )


def _parts(frame: Frame) -> list[memoryview]:
    arrays = [np.ascontiguousarray(frame.image)]
    if frame.depth is not None:
        arrays.append(np.ascontiguousarray(frame.depth, np.float32))
    if frame.valid is not None:
        arrays.append(np.ascontiguousarray(frame.valid).view(np.uint8))
    return [array.reshape(-1).view(np.uint8).data for array in arrays]

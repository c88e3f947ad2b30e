"""The session process: an engine between the ingest's batches and the publisher's updates.

One loop: look at the sockets, take a batch if one is there, else refine one step. The engine asks
for work (`want` in STATE) and never waits for it, so refinement fills exactly the time that batches
leave. In the middle of a batch, a step or a publication corrections of poses are looked for, and
published at once; all else waits until it is done. A batch that comes before such a correction
waits too, and is overtaken, which the ingest is told. Sending never blocks either: what a lost
publisher misses, it is told again when it asks (RESYNC).
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import zmq

from streamer.config import ServeConfig
from streamer.frames import Frame
from streamer.garbage import QuietTimes
from streamer.ingest.batches import unpack_frames
from streamer.keep import parse_keep
from streamer.protocol.errors import ProtocolError
from streamer.protocol.internal import (
    Batch,
    Counts,
    CountsUpdate,
    PosesDone,
    PosesForward,
    ResetDone,
    State,
)
from streamer.protocol.links import Control, ControlDone
from streamer.protocol.wire import Message, encode
from streamer.session.corrections import StaleRevision
from streamer.session.engine import Engine
from streamer.session.folder import SessionFolderError, begin_life, end_life, session_folder
from streamer.session.inbox import Inbox
from streamer.session.late_poses import announce_forwarded
from streamer.session.pace import Rush
from streamer.session.resume import resume
from streamer.session.saving import Saving
from streamer.session.socket_outbox import SocketOutbox, dealer, publish_socket
from streamer.session.spill_files import SPILLED, SpillFolder
from streamer.session.state_files import Cursor
from streamer.session.turns import Turns
from ttt_core.default_model import weights_digest

log = logging.getLogger(__name__)

_TELL_EVERY_S = 0.5
_STATUS_EVERY_S = 1.0
_IDLE_POLL_MS = 100
_SHORT_POLL_MS = 10
"""While another session works, or a SAVE waits for memory."""
_FULL_POLL_MS = 5
"""How soon a publisher that took nothing is tried again."""
_LAST_WORDS_S = 1.0
"""How long a session that ends waits for the publisher to take the rest."""
_RESET_S = 2.0
"""How long the answer to RESET waits for an ingest that may be away."""
_STREAMING_S = 2.0
_MEANWHILE = frozenset({PosesForward.KIND, CountsUpdate.KIND, Batch.KIND})
"""What is of use in the middle of a batch: a correction, and what may lie before it."""


class SessionProcess:
    """One session from its first frame until it is told to end."""

    def __init__(self, run_dir: Path, config: ServeConfig, session: str, engine: Engine) -> None:
        self.session = session
        self.engine = engine
        self.folder = session_folder(config.session_dir, session)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._ingest = dealer(context, f"ipc://{run_dir}/batches", session)
        self._publish = publish_socket(context, run_dir, session)
        self._inbox = Inbox(self._ingest, self._publish)
        # Without a journal nobody can tell this process what its predecessor was told.
        self._life = begin_life(self.folder, anew=not config.journal.enabled)
        self._turns = Turns(run_dir)
        self._outbox = SocketOutbox(self._publish, session, self._life.epoch)
        engine.map.go_on_from(self._first_number)
        engine.outbox = self._outbox
        self._parent = os.getppid()
        self._counts = Counts()
        self._counts_known = self._life.life == 1
        """Whether it is known what the processes before this one had counted."""
        # What a journal does not continue would leave gaps behind it.
        self._saves_itself = config.journal.enabled
        spilled = SpillFolder(self.folder / SPILLED, kept=self._saves_itself)
        if self._life.life == 1:
            spilled.clear()
        engine.spill_to(spilled)
        self._settings: dict[str, str | int] = {
            "long_side": config.session.long_side,
            "weights": weights_digest(config.session.weights),
        }
        self._quiet = QuietTimes(time.monotonic())
        self._controls: deque[Control] = deque()
        """Orders that came behind a SAVE, which they do not overtake."""
        self._reset_order: tuple[int, float] | None = None
        """A RESET that the ingest is yet to hear of, and until when its answer waits for that."""
        self._next_seq = 0
        self._rush = Rush()
        if self._life.life > 1:
            epoch, long_side = self._life.epoch, config.session.long_side
            self._next_seq = resume(engine, self.folder, epoch, self._settings, long_side)
        every = config.session.save_every if self._saves_itself else 0
        keep = parse_keep(config.journal.keep)
        self._saving = Saving(engine, self.folder, keep, self._cursor, every)
        self._waiting: deque[list[Frame]] = deque()
        self._told_at = self._status_at = self._batch_at = 0.0
        self._stopping = False

    @property
    def _first_number(self) -> int:
        """What seqs and revisions of this process lie above: all that its predecessors gave."""
        return (self._life.life - 1) << 32

    def stop(self) -> None:
        """End after the step or batch under way; safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Until `stop`."""
        if self._life.life == 1:
            self._outbox.begin(self._life.epoch)
        else:
            self._outbox.go_on(self._first_number)
        self._tell(force=True)
        while not self._stopping:
            ordered = self._saving.ordered
            wants = self.engine.wants_refinement and not ordered
            turn = wants and self._turns.may_refine(time.monotonic())
            patience = _IDLE_POLL_MS if self._outbox.ready else _FULL_POLL_MS
            if wants or ordered:
                patience = 0 if turn or self._saving.publishing else _SHORT_POLL_MS
            for message in self._inbox.messages(patience):
                self._handle(message)
                # Announced at once, and followed as soon as nothing else is in the middle of it.
                self.engine.follow_poses(self._attend)
                if message.kind == Batch.KIND or self._ready:
                    self._work()
                if self._stopping:
                    break
            if self._stopping:
                break
            # Nothing waits at this moment.
            if self._reset_order is not None and time.monotonic() >= self._reset_order[1]:
                self._answer_reset()
            self._go_on_saving()
            if self._saving.ordered:
                pass
            elif self.engine.wants_refinement:
                self._refine(turn)
            elif self._state() == "idle":
                self._saving.settled()
                self._quiet.use(time.monotonic())
            if self._ready:
                self._work()
            self._tell()
        self._answer_reset()
        self._outbox.flush(_LAST_WORDS_S)
        self.engine.publish()
        self._outbox.flush(_LAST_WORDS_S)
        self._saving.finish(last=self._saves_itself and self._next_seq > 0)
        self._answer_saves()
        self.engine.close()
        self._inbox.close()
        self._turns.close()
        # A daemon that was killed takes its processes along, without having meant to end anything.
        if os.getppid() == self._parent:
            end_life(self.folder)

    def _refine(self, turn: bool) -> None:
        if turn:
            began = time.monotonic()
            self.engine.refine(self._attend)
            self.engine.follow_poses(self._attend)
            self._turns.refined(began, time.monotonic())

    # Messages in -----------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        try:
            match message.kind:
                case Batch.KIND:
                    self._take_batch(message)
                case CountsUpdate.KIND:
                    update = message.read(CountsUpdate)
                    if update.epoch == self._outbox.epoch:
                        self._counts, self._counts_known = update.counts, True
                        self._answer_reset()
                case PosesForward.KIND:
                    self._take_poses(message.peek(PosesForward))
                case Control.KIND:
                    self._control(message.read(Control))
                case b"RESYNC":
                    self._outbox.everything(self.engine)
                case kind:
                    raise ProtocolError("bad_header", f"kind {kind!r} is not for a session")
        except ProtocolError as error:
            log.error("a message of the daemon's own was refused: %s", error)

    def _attend(self, under_way: Future[Any] | None) -> None:
        """In the middle of a batch, a step or a publication."""
        if self._stopping:
            return
        for message in self._inbox.meanwhile(under_way, _MEANWHILE):
            self._handle(message)
            if self._stopping:
                break

    def _take_batch(self, message: Message) -> None:
        batch = message.read(Batch)
        if batch.epoch != self._outbox.epoch:
            log.info("%d frames of before the reset are passed over", len(batch.frames))
            return
        self._counts, self._counts_known = batch.counts, True
        self._answer_reset()
        # An ingest that was killed may have sent what its successor sends again.
        frames = [
            frame
            for frame in unpack_frames(batch.frames, message.parts)
            if frame.seq >= self._next_seq
        ]
        if frames:
            self._next_seq = frames[-1].seq + 1
            self._waiting.append(frames)

    @property
    def _ready(self) -> bool:
        """Whether a batch waits that is not to wait; one that was on its way when PAUSE came waits
        for RESUME."""
        return bool(self._waiting) and not self.engine.paused and not self._stopping

    def _work(self) -> None:
        """Process what was taken, and say where that leaves the session."""
        while self._ready:
            self._tell(force=True)
            frames = self._waiting.popleft()
            # A lossless sender waits for us; what a live one had to lose says how fast it is.
            seconds = self._rush.batch(time.monotonic(), len(frames), self._counts.dropped)
            with self._turns.working():
                self.engine.process(frames, seconds=seconds, attend=self._attend)
            self._batch_at = time.monotonic()
            # A stream leaves no idle moment; right after a batch nobody waits.
            self._saving.batch_done()
            self._saving.go_on()
            self._quiet.use(time.monotonic(), idle=False)
        self._tell(force=True)
        self._publish_status()

    def _take_poses(self, poses: PosesForward) -> None:
        waiting = [frame for frames in self._waiting for frame in frames]
        try:
            outcome = announce_forwarded(self.engine, poses, waiting, self._next_seq)
            if poses.received_ns:
                told_ns = time.monotonic_ns()
                self._outbox.took("correction", (told_ns - poses.received_ns) / 1e9)
            self._saving.corrected()
            done = PosesDone(
                revision=poses.revision,
                client=poses.client,
                moved=outcome.moved,
                unknown=outcome.unknown,
                before=waiting[0].seq if waiting else None,
            )
        except StaleRevision as error:
            done = PosesDone(
                revision=poses.revision, client=poses.client, code="bad_revision", reason=str(error)
            )
        self._ingest.send_multipart(encode(done))

    def _control(self, control: Control) -> None:
        if self._controls or (self._saving.ordered and control.op != "save"):
            self._controls.append(control)
        elif control.op == "save":
            self._saving.order(control.id)
        else:
            self._carry_out(control)

    def _carry_out(self, control: Control) -> None:
        done: ControlDone | None = ControlDone(id=control.id, ok=True)
        try:
            match control.op:
                case "pause":
                    # What readers have then is the map as it is.
                    self.engine.publish()
                    self.engine.paused = True
                case "resume":
                    self.engine.paused = False
                case "reset":
                    self._answer_reset()
                    self._reset()
                    # Whoever has the answer may say HELLO at once, which the ingest is to take.
                    self._reset_order = (control.id, time.monotonic() + _RESET_S)
                    done = None
        except SessionFolderError as error:
            done = ControlDone(id=control.id, ok=False, code="internal", reason=str(error))
        if done is not None:
            self._outbox.send(encode(done))
        if control.op == "resume":
            self.engine.publish()
        self._work()

    def _answer_reset(self) -> None:
        """The ingest knows the new epoch, or is away."""
        if self._reset_order is not None:
            self._outbox.send(encode(ControlDone(id=self._reset_order[0], ok=True)))
            self._reset_order = None

    # Saving ----------------------------------------------------------------------------------

    def _cursor(self) -> Cursor:
        first = self._waiting[0][0].seq if self._waiting else self._next_seq
        return Cursor(epoch=self._outbox.epoch, next_seq=first, settings=self._settings)

    def _go_on_saving(self) -> None:
        """A part of it; then what came behind a SAVE that has its copy."""
        self._saving.go_on()
        self._answer_saves()
        behind, self._controls = self._controls, deque()
        for control in behind:
            self._control(control)

    def _answer_saves(self) -> None:
        for saved in self._saving.collect():
            done = ControlDone(id=saved.order, ok=True)
            if saved.error is not None:
                reason = str(saved.error)
                done = ControlDone(id=saved.order, ok=False, code="internal", reason=reason)
            self._outbox.send(encode(done))

    def _reset(self) -> None:
        self._life = begin_life(self.folder, anew=True)
        epoch = self._life.epoch
        self.engine.reset()
        self._next_seq = 0
        self._counts = Counts()
        self._rush = Rush()
        self._saving.forget()
        self._waiting.clear()
        self._outbox.begin(epoch)
        self._ingest.send_multipart(encode(ResetDone(session=self.session, epoch=epoch)))

    # Messages out ----------------------------------------------------------------------------

    def _tell(self, *, force: bool = False) -> None:
        """STATE to the ingest, HELLO and status to the publisher, as often as they are due."""
        now = time.monotonic()
        if force or now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            idle = not (self.engine.paused or self._waiting)
            want = self.engine.config.batch if idle else 0
            state = State(
                session=self.session,
                epoch=self._outbox.epoch,
                life=self._life.life,
                next_seq=self._next_seq,
                pose_revision=self.engine.trajectory.revision,
                want=want,
                batch=self.engine.config.batch,
                done=self.engine.frames_done,
                busy=want == 0 or self.engine.wants_refinement,
            )
            self._ingest.send_multipart(encode(state))
        if now - self._status_at >= _STATUS_EVERY_S:
            self._outbox.hello()
            self._publish_status()

    def _publish_status(self) -> None:
        self._status_at = time.monotonic()
        if not self._counts_known:
            return
        unfinished = sum(len(frames) for frames in self._waiting)
        counts = msgspec.structs.replace(self._counts, waiting=self._counts.waiting + unfinished)
        self._outbox.status(self.engine.status(), counts, self._state())

    def _state(self) -> str:
        if self.engine.paused:
            return "paused"
        if self._next_seq == 0:
            return "waiting"
        if time.monotonic() - self._batch_at < _STREAMING_S:
            return "streaming"
        return "refining" if self.engine.wants_refinement else "idle"


def end_on_sigterm(process: SessionProcess) -> None:
    """SIGTERM ends the loop; Ctrl-C is the supervisor's to judge."""
    signal.signal(signal.SIGTERM, lambda *_: process.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

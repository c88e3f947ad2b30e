"""The session process: an engine between the ingest's batches and the publisher's updates.

One loop: look at the sockets, take a batch if one is there, else refine one step. The engine asks
for work (`want` in STATE) and never waits for it, so refinement fills exactly the time that batches
leave. In the middle of a batch, a step or a publication corrections of poses are looked for, and
published at once; all else waits until it is done. Sending never blocks either: what a lost
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
from streamer.session.engine_state import engine_state
from streamer.session.folder import SessionFolderError, begin_life, end_life, session_folder
from streamer.session.inbox import Inbox
from streamer.session.late_poses import announce_forwarded
from streamer.session.pace import Rush
from streamer.session.resume import resume
from streamer.session.socket_outbox import SocketOutbox, dealer, publish_socket
from streamer.session.spill_files import SPILLED, SpillFolder
from streamer.session.state_files import Cursor
from streamer.session.state_writer import StateWriter
from streamer.session.turns import Turns
from ttt_core.default_model import weights_digest

log = logging.getLogger(__name__)

_TELL_EVERY_S = 0.5
_STATUS_EVERY_S = 1.0
_IDLE_POLL_MS = 100
_MAKING_WAY_MS = 10
_FULL_POLL_MS = 5
"""How soon a publisher that took nothing is tried again."""
_LAST_WORDS_S = 1.0
"""How long a session that ends waits for the publisher to take the rest."""
_STREAMING_S = 2.0
_MEANWHILE = frozenset({PosesForward.KIND, CountsUpdate.KIND})
"""What is of use in the middle of a batch."""


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
        self._save_every = config.session.save_every
        self._settings: dict[str, str | int] = {
            "long_side": config.session.long_side,
            "weights": weights_digest(config.session.weights),
        }
        self._writer = StateWriter(self.folder, parse_keep(config.journal.keep))
        self._quiet = QuietTimes(time.monotonic())
        self._orders: list[int] = []
        """SAVEs that wait until what they are to hold is published, which is done in portions."""
        self._to_publish: set[int] = set()
        """Chunks."""
        self._unsaved = 0
        """Batches and corrections since the last state."""
        self._next_seq = 0
        self._rush = Rush()
        if self._life.life > 1:
            epoch, long_side = self._life.epoch, config.session.long_side
            self._next_seq = resume(engine, self.folder, epoch, self._settings, long_side)
        self._saved_steps = engine.refiner.steps
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
            wants = self.engine.wants_refinement and not self._orders
            turn = wants and self._turns.may_refine(time.monotonic())
            idle_ms = _IDLE_POLL_MS if self._outbox.ready else _FULL_POLL_MS
            patience = 0 if turn or self._orders else _MAKING_WAY_MS if wants else idle_ms
            for message in self._inbox.messages(patience):
                self._handle(message)
                # Announced at once, and followed as soon as nothing else is in the middle of it.
                self.engine.follow_poses(self._attend)
                if self._stopping:
                    break
            if self._orders and not self._stopping:
                self._prepare_save()
            elif self.engine.wants_refinement and not self._stopping:
                self._refine(turn)
            elif self._state() == "idle":
                if self._save_every:
                    self._save_by_itself()
                self._quiet.use(time.monotonic())
            self._answer_saves()
            self._tell()
        self._outbox.flush(_LAST_WORDS_S)
        self.engine.publish()
        self._finish_saves()
        self._outbox.flush(_LAST_WORDS_S)
        if self._saves_itself and self._next_seq:
            self._save()
        self._writer.close()
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
                case PosesForward.KIND:
                    self._take_poses(message.read(PosesForward))
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
        # What a correction is to come after, so the journal says, is not to come after it.
        kinds = frozenset() if self._waiting else _MEANWHILE
        for message in self._inbox.meanwhile(under_way, kinds):
            self._handle(message)
            if self._stopping:
                break

    def _take_batch(self, message: Message) -> None:
        batch = message.read(Batch)
        if batch.epoch != self._outbox.epoch:
            log.info("%d frames of before the reset are passed over", len(batch.frames))
            return
        self._counts, self._counts_known = batch.counts, True
        # An ingest that was killed may have sent what its successor sends again.
        frames = [
            frame
            for frame in unpack_frames(batch.frames, message.parts)
            if frame.seq >= self._next_seq
        ]
        if frames:
            self._next_seq = frames[-1].seq + 1
            self._waiting.append(frames)
            self._tell(force=True)
        self._work()

    def _work(self) -> None:
        """Process what was taken; a batch that was on its way when PAUSE came waits for RESUME."""
        while self._waiting and not self.engine.paused:
            frames = self._waiting.popleft()
            # A lossless sender waits for us; what a live one had to lose says how fast it is.
            seconds = self._rush.batch(time.monotonic(), len(frames), self._counts.dropped)
            with self._turns.working():
                self.engine.process(frames, seconds=seconds, attend=self._attend)
            self._batch_at = time.monotonic()
            self._unsaved += 1
            if self._save_every and self._unsaved >= self._save_every:
                self._save_by_itself()
            # A stream leaves no idle moment; right after a batch nobody waits.
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
            self._unsaved += 1
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
        if control.op == "save":
            # What readers have when it is answered is what the disk has.
            self._to_publish |= self.engine.publication.changed()
            self._orders.append(control.id)
            return
        self._finish_saves()
        done = ControlDone(id=control.id, ok=True)
        try:
            match control.op:
                case "pause":
                    # What readers have then is the map as it is.
                    self.engine.publish()
                    self.engine.paused = True
                case "resume":
                    self.engine.paused = False
                case "reset":
                    self._reset()
        except SessionFolderError as error:
            done = ControlDone(id=control.id, ok=False, code="internal", reason=str(error))
        self._outbox.send(encode(done))
        if control.op == "resume":
            self.engine.publish()
        self._work()

    # Saving ----------------------------------------------------------------------------------

    def _prepare_save(self) -> None:
        """Publish some more of what was changed when SAVE came; save when that is all."""
        self._to_publish = self.engine.publication.portion(self._to_publish)
        if not self._to_publish:
            self._finish_saves()

    def _finish_saves(self) -> None:
        """SAVEs that came so far are of what there is now."""
        while self._to_publish:
            self._to_publish = self.engine.publication.portion(self._to_publish)
        for order in self._orders:
            self._save(order)
        self._orders.clear()

    def _save(self, order: int | None = None) -> None:
        """Hand a copy to the thread that writes; nothing waits for it."""
        first = self._waiting[0][0].seq if self._waiting else self._next_seq
        cursor = Cursor(epoch=self._outbox.epoch, next_seq=first, settings=self._settings)
        self._writer.put(engine_state(self.engine), cursor, order)
        self._unsaved = 0
        self._saved_steps = self.engine.refiner.steps

    def _save_by_itself(self) -> None:
        """Unless there is nothing new, or nothing that could go on from it."""
        refined = self.engine.refiner.steps != self._saved_steps
        if self._saves_itself and (self._unsaved or refined) and not self._writer.busy:
            self._save()

    def _answer_saves(self) -> None:
        for saved in self._writer.collect():
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
        self._unsaved = self._saved_steps = 0
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

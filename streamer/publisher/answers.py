"""Requests of readers, answered from the mirrors (wire protocol, section 3)."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from streamer.access.rights import Right, Rights, check_right
from streamer.protocol import Buffer, Message, ProtocolError, decode, encode
from streamer.protocol.errors import CODES
from streamer.protocol.links import Control, ControlDone, SessionKept
from streamer.protocol.requests import (
    EXPORT_FORMATS,
    REQUESTS,
    SNAPSHOT_CODECS,
    CloseRequest,
    ExportAnswer,
    ExportRequest,
    KeyframesAnswer,
    KeyframesRequest,
    LocalizeRequest,
    ManifestAnswer,
    ManifestRequest,
    OkAnswer,
    PauseRequest,
    RenderRequest,
    Request,
    RequestError,
    RequestId,
    ResetRequest,
    ResumeRequest,
    SaveRequest,
    SessionEntry,
    SessionRequest,
    SessionsAnswer,
    SessionsRequest,
    SnapshotDone,
    SnapshotRequest,
    StatusAnswer,
    StatusRequest,
)
from streamer.publisher.jobs import Answer, Job, Workers, export_ply, render_picture
from streamer.publisher.mesher import ENDINGS, Mesher
from streamer.publisher.mirror import SessionMirror
from streamer.publisher.outbox import Outbox
from streamer.publisher.sleepers import Sleepers
from streamer.publisher.table import Differences

logger = logging.getLogger(__name__)

FORWARDED: dict[bytes, str] = {
    SaveRequest.KIND: "save",
    ResetRequest.KIND: "reset",
    PauseRequest.KIND: "pause",
    ResumeRequest.KIND: "resume",
}
ORDERS = FORWARDED.keys() | {CloseRequest.KIND}
FORWARD_TIMEOUT_S = 120.0
OPEN_TO_ALL = frozenset({SessionsRequest.KIND, StatusRequest.KIND})
"""Answered to whoever was let in; `ORDERS` take `control`, all else `watch`."""

SendToSession = Callable[[str, list[Buffer]], bool]
"""Sends a message to a session's process; False when nobody is there."""


@dataclass(frozen=True, slots=True)
class _Forwarded:
    reader: bytes
    kind: bytes
    id: RequestId | None
    session: str
    deadline: float


class _Id(msgspec.Struct, frozen=True):
    id: RequestId | None = None


class Answers:
    """Answers every request with its kind or with an ERROR, never with silence."""

    def __init__(
        self,
        mirrors: Mapping[str, SessionMirror],
        outbox: Outbox,
        workers: Workers,
        mesher: Mesher,
        send_to_session: SendToSession,
        sleepers: Sleepers,
    ) -> None:
        self._mirrors = mirrors
        self._outbox = outbox
        self._workers = workers
        self._mesher = mesher
        self._send_to_session = send_to_session
        self._sleepers = sleepers
        self._forwarded: dict[int, _Forwarded] = {}
        self._numbers = itertools.count(1)
        self._ignored = 0

    def take(self, reader: bytes, frames: Sequence[Buffer], rights: Rights | None = None) -> None:
        """Answer one request, now or when it is done.

        Args:
            rights: of the reader; None where the daemon has no keys and everybody may everything.
        """
        if self._outbox.full(reader):
            self._ignored += 1
            if self._ignored & (self._ignored - 1) == 0:
                logger.warning("%d requests of readers who take no answers", self._ignored)
            return
        request_id: RequestId | None = None
        try:
            message = decode(frames)
            request_id = _id_of(message)
            if message.kind not in REQUESTS:
                known = ", ".join(kind.decode() for kind in REQUESTS)
                raise ProtocolError(
                    "bad_header", f"kind: {message.kind!r} is not a request; known are {known}"
                )
            request = message.read(REQUESTS[message.kind])
            if not (rights and message.kind in OPEN_TO_ALL):
                right: Right = "control" if message.kind in ORDERS else "watch"
                check_right(rights, right, getattr(request, "session", None))
            self._answer(reader, message.kind, request)
        except ProtocolError as error:
            self._refuse(reader, request_id, error)
        except Exception:
            # A defect of ours must not take every other reader down with this one.
            logger.exception("a request was not understood")
            reason = "the daemon failed on this request, see its log"
            self._refuse(reader, request_id, ProtocolError("internal", reason))

    def control_done(self, done: ControlDone) -> None:
        """A session answered what was forwarded to it."""
        waiting = self._forwarded.pop(done.id, None)
        if waiting is None:
            return
        if done.ok:
            answer = encode(OkAnswer(id=waiting.id), kind=waiting.kind)
            self._outbox.send(waiting.reader, [answer])
            return
        code: Any = done.code if done.code in CODES else "internal"
        reason = done.reason or "the session does not say why"
        self._refuse(waiting.reader, waiting.id, ProtocolError(code, reason))

    def ended(self, session: str) -> None:
        """A session's process ended as it was told to."""
        for number, waiting in list(self._forwarded.items()):
            if waiting.session != session:
                continue
            if waiting.kind == CloseRequest.KIND:
                self.control_done(ControlDone(id=number, ok=True))
            else:
                reason = f"session {session} ended before it answered: ask again, it comes back"
                self.control_done(ControlDone(id=number, ok=False, code="busy", reason=reason))

    def kept(self, kept: SessionKept) -> None:
        """A session that was to end does not."""
        for number, waiting in list(self._forwarded.items()):
            if waiting.session == kept.session and waiting.kind == CloseRequest.KIND:
                self.control_done(
                    ControlDone(id=number, ok=False, code=kept.code, reason=kept.reason)
                )

    def expire(self) -> None:
        """Answer for sessions that died or say nothing; call about once a second."""
        now = time.monotonic()
        for number, waiting in list(self._forwarded.items()):
            mirror = self._mirrors.get(waiting.session)
            if mirror is not None and mirror.lost and waiting.kind != CloseRequest.KIND:
                reason = f"session {waiting.session} died before it answered: ask again later"
            elif now > waiting.deadline:
                reason = f"session {waiting.session} did not answer in {FORWARD_TIMEOUT_S:.0f} s"
            else:
                continue
            del self._forwarded[number]
            self._refuse(waiting.reader, waiting.id, ProtocolError("busy", reason))

    def _answer(self, reader: bytes, kind: bytes, request: Request) -> None:
        if isinstance(request, SessionsRequest):
            self._outbox.send(reader, [self._sessions(request)])
            return
        if isinstance(request, LocalizeRequest):
            raise ProtocolError(
                "internal", "LOCALIZE: this version of the daemon does not localise yet"
            )
        assert isinstance(request, SessionRequest)
        if isinstance(request, CloseRequest):
            self._close(reader, request)
            return
        mirror = self._mirror(request)
        if kind in FORWARDED:
            self._forward(reader, kind, request)
        elif isinstance(request, StatusRequest) and mirror.counted:
            fields = msgspec.structs.asdict(mirror.current_status())
            self._outbox.send(reader, [encode(StatusAnswer(**fields, id=request.id))])
        elif not mirror.synced:
            raise ProtocolError(
                "busy", f"session {mirror.name}: its map is on its way here: ask again in a second"
            )
        elif isinstance(request, StatusRequest):
            raise ProtocolError("busy", f"session {mirror.name} is starting: ask again in a second")
        elif isinstance(request, ManifestRequest):
            answer = ManifestAnswer(
                id=request.id,
                epoch=mirror.epoch,
                seq=mirror.seq,
                chunks=mirror.table.manifest(),
            )
            self._outbox.send(reader, [encode(answer)])
        elif isinstance(request, SnapshotRequest):
            differences, run = _snapshot(mirror, request)
            self._outbox.send(reader, run, differences.nbytes)
        elif isinstance(request, KeyframesRequest):
            entries = mirror.keyframes.entries(request.newest)
            thumbnails = mirror.keyframes.thumbnails(entries) if request.thumbnails else []
            answer_ = KeyframesAnswer(id=request.id, keyframes=entries)
            self._outbox.send(reader, [encode(answer_, *thumbnails)])
        elif isinstance(request, ExportRequest):
            self._export(reader, mirror, request)
        else:
            assert isinstance(request, RenderRequest)
            self._render(reader, mirror, request)

    def _mirror(self, request: SessionRequest) -> SessionMirror:
        session = request.session
        mirror = self._mirrors.get(session)
        looks_only = isinstance(request, StatusRequest)
        if mirror is None:
            if not self._sleepers.stored(session):
                raise self._unknown(session)
            if looks_only:
                raise ProtocolError(
                    "bad_session",
                    f"session: {session!r} has ended: who asks for its map brings it back",
                )
            raise self._sleepers.wake(session)
        if not looks_only:
            mirror.active_at = time.monotonic()
            self._sleepers.want(session)
        return mirror

    def _unknown(self, session: str) -> ProtocolError:
        known = ", ".join(self._mirrors) or "none yet"
        return ProtocolError(
            "bad_session", f"session: {session!r} is not known here; sessions: {known}"
        )

    def _close(self, reader: bytes, request: CloseRequest) -> None:
        if request.session in self._mirrors:
            self._await(reader, request)
            self._sleepers.close(request.session)
        elif self._sleepers.stored(request.session):
            # It has ended already.
            self._outbox.send(reader, [encode(OkAnswer(id=request.id), kind=request.KIND)])
        else:
            raise self._unknown(request.session)

    def _sessions(self, request: SessionsRequest) -> list[Buffer]:
        now = time.monotonic()
        entries = [
            SessionEntry(
                session=mirror.name,
                epoch=mirror.epoch,
                splats=mirror.table.splats,
                state=mirror.state,
                frames_in=mirror.status.frames_in if mirror.status else 0,
                frames_done=mirror.status.frames_done if mirror.status else 0,
                idle_s=round(now - mirror.active_at, 1),
            )
            for mirror in self._mirrors.values()
        ]
        return encode(SessionsAnswer(id=request.id, sessions=entries))

    def _forward(self, reader: bytes, kind: bytes, request: SessionRequest) -> None:
        op: Any = FORWARDED[kind]
        mirror = self._mirrors[request.session]
        number = self._await(reader, request)
        order = encode(Control(op=op, id=number))
        if mirror.lost or not self._send_to_session(request.session, order):
            del self._forwarded[number]
            raise ProtocolError(
                "busy", f"session {request.session} has no process now: ask again in a second"
            )

    def _await(self, reader: bytes, request: SessionRequest) -> int:
        """Answer this one when somebody else has; under which number."""
        number = next(self._numbers)
        deadline = time.monotonic() + FORWARD_TIMEOUT_S
        kind, session = type(request).KIND, request.session
        self._forwarded[number] = _Forwarded(reader, kind, request.id, session, deadline)
        return number

    def _export(self, reader: bytes, mirror: SessionMirror, request: ExportRequest) -> None:
        if request.format not in EXPORT_FORMATS:
            raise ProtocolError(
                "bad_header",
                f"format: {request.format!r} is not one of {', '.join(EXPORT_FORMATS)}",
            )
        records = list(mirror.table.chunks.values())
        if request.format in ENDINGS:
            entries = mirror.keyframes.entries()
            poses = [np.array(entry.c2w, np.float64).reshape(4, 4) for entry in entries]

            def slow_job() -> Answer:
                data = self._mesher.mesh(records, poses, request.format)
                return encode(ExportAnswer(id=request.id, format=request.format), data)

            self._work(reader, request.id, slow_job, slow=True)
            return
        if request.format != "ply":
            raise ProtocolError(
                "internal",
                f"format: {request.format!r} is not written by this version yet: ask for 'ply', "
                "or for 'mesh' or 'glb'",
            )

        def job() -> Answer:
            data = export_ply(records)
            return encode(ExportAnswer(id=request.id, format="ply"), data)

        self._work(reader, request.id, job)

    def _render(self, reader: bytes, mirror: SessionMirror, request: RenderRequest) -> None:
        records = list(mirror.table.chunks.values())

        self._work(reader, request.id, lambda: render_picture(records, request))

    def _work(
        self, reader: bytes, request_id: RequestId | None, job: Job, *, slow: bool = False
    ) -> None:
        def done(result: Answer | ProtocolError) -> None:
            if isinstance(result, ProtocolError):
                self._refuse(reader, request_id, result)
            else:
                self._outbox.send(reader, [result])

        submit = self._workers.submit_slow if slow else self._workers.submit
        submit(job, done)

    def _refuse(self, reader: bytes, request_id: RequestId | None, error: ProtocolError) -> None:
        answer = RequestError(code=error.code, reason=error.reason, id=request_id)
        self._outbox.send(reader, [encode(answer)])


def _snapshot(
    mirror: SessionMirror, request: SnapshotRequest
) -> tuple[Differences, Iterator[list[Buffer]]]:
    """What differs, and the run of messages. Raises ProtocolError for an unusable codec."""
    if request.codec not in SNAPSHOT_CODECS:
        raise ProtocolError(
            "bad_header", f"codec: {request.codec!r} is not one of {', '.join(SNAPSHOT_CODECS)}"
        )
    if request.codec == "spz":
        raise ProtocolError(
            "internal", "codec: 'spz' is not spoken by this version yet: ask for 'f16' or 'f32'"
        )
    have = request.have if request.epoch == mirror.epoch else []
    # Taken now, sent later: what changes meanwhile comes by the updates after this seq.
    differences = mirror.table.differences(have)
    return differences, _run(differences, mirror.name, mirror.epoch, mirror.seq, request)


def _run(
    differences: Differences, session: str, epoch: int, seq: int, request: SnapshotRequest
) -> Iterator[list[Buffer]]:
    sent = 0
    for message in differences.messages(
        session=session,
        epoch=epoch,
        seq=seq,
        codec=request.codec,
        max_splats=request.max_splats,
    ):
        sent += 1
        yield message
    yield encode(SnapshotDone(id=request.id, epoch=epoch, seq=seq, messages=sent, done=True))


def _id_of(message: Message) -> RequestId | None:
    """The id to echo, also where the rest of the header is wrong."""
    try:
        return message.read(_Id).id
    except ProtocolError:
        return None

"""The public side of the ingest: section 1 of the wire protocol, message by message.

Bad input is answered and counted. After an ERROR the sender's connection counts for nothing until
it says HELLO again; its session and everything accepted from it stay as they are.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamer.access.rights import Rights, check_right
from streamer.conventions import ConventionError, check_convention
from streamer.ingest.backstage import Backstage
from streamer.ingest.checks import camera_models, checked_job
from streamer.ingest.decoder import Decoder, Verdict
from streamer.ingest.poses import corrected_poses, opencv_entries
from streamer.ingest.replies import Reply
from streamer.ingest.roster import Roster
from streamer.ingest.sessions import Process, Sender, Session
from streamer.ingest.stream import Offer
from streamer.ingest.takeover import check_takeover
from streamer.protocol import (
    PROTO_VERSION,
    Buffer,
    Message,
    ProtocolError,
    decode,
)
from streamer.protocol.fields import SESSION_PATTERN
from streamer.protocol.internal import PosesForward
from streamer.protocol.limits import MAX_INTERNAL_PARTS, MAX_PARTS
from streamer.protocol.messages import (
    Bye,
    Cameras,
    Error,
    Flush,
    FrameHeader,
    Hello,
    Ping,
    Pong,
    Poses,
    PosesAck,
    Proto,
    Reject,
    SeqOnly,
    Welcome,
)

logger = logging.getLogger(__name__)

MAX_PEERS = 4096


@dataclass(slots=True)
class _Peer:
    """A connection that said HELLO."""

    hello: Hello


class Door:
    """Reads what clients say and answers it.

    Args:
        sessions: shared with `Backstage` and `Roster`.
        reply: sends a header to a connection.
        roster: lets sessions in.
        refused: told the code of every refusal.
    """

    def __init__(
        self,
        sessions: dict[str, Session],
        roster: Roster,
        backstage: Backstage,
        decoder: Decoder,
        reply: Reply,
        *,
        refused: Callable[[str], None],
    ) -> None:
        self._sessions = sessions
        self._backstage = backstage
        self._decoder = decoder
        self._reply = reply
        self._roster = roster
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self._refusals: Counter[str] = Counter()
        self._refused = refused
        self._handlers: dict[bytes, Callable[[bytes, _Peer, Message], None]] = {
            FrameHeader.KIND: self._on_frame,
            Cameras.KIND: self._on_cameras,
            Poses.KIND: self._on_poses,
            Flush.KIND: self._on_flush,
            Ping.KIND: self._on_ping,
            Bye.KIND: self._on_bye,
        }

    def handle(self, frames: Sequence[Buffer], rights: Rights | None = None) -> None:
        """One received message, its sender's identity first.

        Args:
            rights: of the sender as they are now; None where the daemon has no keys.
        """
        identity = bytes(frames[0])
        try:
            check_right(rights, "ingest")
            message = decode(frames[1:], max_parts=MAX_INTERNAL_PARTS)
            if message.kind == Hello.KIND:
                self._on_hello(identity, message, rights)
                return
            if message.kind not in self._handlers:
                known = ", ".join(kind.decode() for kind in (Hello.KIND, *self._handlers))
                raise ProtocolError(
                    "bad_header", f"kind {message.kind.decode()!r} is unknown; known are {known}"
                )
            if len(message.parts) > MAX_PARTS and message.kind != FrameHeader.KIND:
                raise ProtocolError("too_large", f"more than {MAX_PARTS} parts are not allowed")
            peer = self._greeted(identity)
            # A right may be taken away from a connection that stands.
            check_right(rights, "ingest", peer.hello.session)
            self._handlers[message.kind](identity, peer, message)
        except ProtocolError as error:
            self._count(identity, error)
            self._forget(identity)
            self._reply(identity, Error(code=error.code, reason=error.reason))
        except Exception:
            # A defect of ours must not take every other sender down with this one.
            logger.exception("a message of %s was not understood", identity.hex())
            self._forget(identity)
            reason = "the daemon failed on this message, see its log"
            self._reply(identity, Error(code="internal", reason=reason))

    def left(self, session: Session) -> None:
        """The session is no longer held: its sender has to say HELLO again."""
        if session.sender is not None and session.sender.identity is not None:
            self._peers.pop(session.sender.identity, None)

    def decided(self, verdict: Verdict) -> None:
        """A frame was decoded, or could not be."""
        session = self._sessions.get(verdict.session)
        if session is None or session.generation != verdict.generation:
            return
        if isinstance(verdict.result, ProtocolError):
            self._count(verdict.session.encode(), verdict.result)
        session.stream.decide(verdict.seq, verdict.result)
        self._backstage.settle(session)

    # ---- HELLO ----

    def _on_hello(self, identity: bytes, message: Message, rights: Rights | None) -> None:
        self._forget(identity)
        major = message.read(Proto).proto[0]
        if major != PROTO_VERSION[0]:
            raise ProtocolError(
                "bad_version",
                f"proto: you speak version {major}, this daemon speaks {PROTO_VERSION[0]} "
                f"(proto {list(PROTO_VERSION)}): use a client of the same major version",
            )
        hello = message.read(Hello)
        if not re.match(SESSION_PATTERN, hello.session):
            raise ProtocolError(
                "bad_session",
                f"session: {hello.session[:80]!r} is no name: 1 to 64 characters A-Za-z0-9_.-, "
                "the first a letter or digit",
            )
        check_right(rights, "ingest", hello.session)
        if hello.convention is not None:
            try:
                check_convention(hello.convention)
            except ConventionError as error:
                raise ProtocolError("bad_header", str(error)) from None
        if hello.role == "frames":
            self._open_for_frames(identity, hello)
        self._peers[identity] = _Peer(hello)
        while len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        session = self._sessions.get(hello.session)
        self._reply(
            identity,
            Welcome(
                proto=PROTO_VERSION,
                session=hello.session,
                epoch=session.epoch if session else 0,
                credit=session.stream.credit if session and hello.role == "frames" else 0,
                next_seq=session.stream.settled + 1 if session else 0,
                durable=session.stream.counts.durable if session else False,
            ),
        )

    def _open_for_frames(self, identity: bytes, hello: Hello) -> None:
        if hello.cameras is None:
            raise ProtocolError("bad_header", "HELLO header: missing required field `cameras`")
        if hello.convention is None:
            raise ProtocolError(
                "bad_header",
                "HELLO header: missing required field `convention`: say which camera axes your "
                "poses have (opencv, opengl, arkit, ros_optical, ros_body)",
            )
        cameras = camera_models(hello.cameras, hello.convention)
        session = self._sessions.get(hello.session)
        if session is not None:
            check_takeover(session, hello)
        else:
            session = self._roster.admit(hello)
        if session.sender is not None and session.sender.identity is not None:
            self._peers.pop(session.sender.identity, None)
        session.open(hello, cameras, identity, time.monotonic())
        self._backstage.opened(session)

    # ---- FRAME ----

    def _on_frame(self, identity: bytes, peer: _Peer, message: Message) -> None:
        session, sender = self._sending(identity, peer)
        header: FrameHeader | None = None
        fault: ProtocolError | None = None
        try:
            header = message.read(FrameHeader)
            seq = header.seq
        except ProtocolError as error:
            try:
                seq = message.read(SeqOnly).seq
            except ProtocolError:
                raise error from None
            fault = error
        nbytes = sum(len(part) for part in message.parts)
        if header is not None:
            nbytes += self._decoder.becomes(header)
        offer = session.stream.offer(seq, nbytes)
        if offer is Offer.REPEAT:
            self._reply(identity, session.stream.ack())
            return
        if offer is Offer.GAP:
            raise ProtocolError(
                "bad_seq",
                f"seq: {seq} came, {session.stream.received + 1} is next: frames are numbered "
                "without gaps; say HELLO with resume and go on from next_seq",
            )
        if offer is Offer.NO_CREDIT:
            reason = f"seq: {seq} is beyond the credit: wait for an ACK and send it again"
            self._reply(identity, Reject(seq=seq, code="no_credit", reason=reason))
            return
        session.last_frame_at = time.monotonic()
        if header is not None:
            try:
                job = checked_job(header, message, session, sender)
                if session.frame_log is not None:
                    session.frame_log.append(seq, header.stamp_ns, header.camera)
                session.stream.hold(job)
                self._backstage.settle(session)
                return
            except ProtocolError as error:
                fault = error
        assert fault is not None
        self._count(identity, fault)
        session.stream.decide(seq, fault)
        self._backstage.settle(session)

    # ---- the rest ----

    def _on_cameras(self, identity: bytes, peer: _Peer, message: Message) -> None:
        session, sender = self._sending(identity, peer)
        headers = message.read(Cameras).cameras
        session.add_cameras(headers, camera_models(headers, sender.convention))

    def _on_poses(self, identity: bytes, peer: _Peer, message: Message) -> None:
        if peer.hello.role == "frames":
            self._sending(identity, peer)
        received_ns = time.monotonic_ns()
        header = message.read(Poses)
        try:
            self._correct(identity, peer, header, received_ns)
        except ProtocolError as error:
            # Only this correction is bad: whoever corrects poses need not start anew for it.
            self._count(identity, error)
            self._reply(
                identity, Error(code=error.code, reason=error.reason, revision=header.revision)
            )

    def _correct(self, identity: bytes, peer: _Peer, header: Poses, received_ns: int) -> None:
        poses = corrected_poses(header.poses)
        session = self._sessions.get(peer.hello.session)
        keys = [key for key, _ in header.poses]
        if session is None or session.link.process is Process.NONE:
            if self._roster.wake(peer.hello.session):
                raise ProtocolError(
                    "busy",
                    f"session {peer.hello.session} had ended and is being brought back: send the "
                    "correction again in a second",
                )
            self._reply(identity, PosesAck(revision=header.revision, moved=0, unknown=keys))
            return
        try:
            axes = session.axes(keys, header.by, _own_convention(peer.hello))
        except ConventionError as error:
            raise ProtocolError("bad_camera", str(error)) from None
        entries = opencv_entries(keys, poses, axes)
        forward = PosesForward(
            revision=header.revision,
            client=identity.hex(),
            entries=entries,
            by=header.by,
            upto=header.upto,
            received_upto=session.stream.received,
            waiting=session.coming() or [],
            received_ns=received_ns,
        )
        self._backstage.corrections.check(session.name, forward)
        unknown = sorted(set(keys) - {key for key, _ in entries})
        if not self._backstage.forward_poses(session, forward, identity, unknown):
            raise ProtocolError(
                "busy",
                f"session {session.name} is starting or catching up: send the correction again in "
                "a second",
            )

    def _on_flush(self, identity: bytes, peer: _Peer, message: Message) -> None:
        session, _ = self._sending(identity, peer)
        message.read(Flush)
        self._flush(session)

    def _on_ping(self, identity: bytes, peer: _Peer, message: Message) -> None:
        if peer.hello.role == "frames":
            self._sending(identity, peer)
        self._reply(identity, Pong(t=message.read(Ping).t))

    def _on_bye(self, identity: bytes, peer: _Peer, message: Message) -> None:
        message.read(Bye)
        if peer.hello.role == "frames":
            session, sender = self._sending(identity, peer)
            sender.said_bye = True
            self._flush(session)
        self._forget(identity)

    def _flush(self, session: Session) -> None:
        session.flush_upto = session.stream.received
        self._backstage.pump(session)

    def _greeted(self, identity: bytes) -> _Peer:
        peer = self._peers.get(identity)
        if peer is None:
            raise ProtocolError("no_hello", "this connection is not open: say HELLO first")
        self._peers.move_to_end(identity)
        return peer

    def _sending(self, identity: bytes, peer: _Peer) -> tuple[Session, Sender]:
        session = self._sessions.get(peer.hello.session)
        sender = session.sender if session is not None else None
        if session is None or sender is None or sender.identity != identity:
            raise ProtocolError(
                "no_hello",
                f"this connection does not send into session {peer.hello.session!r}"
                f" (role {peer.hello.role}): say HELLO with role frames",
            )
        sender.heard = time.monotonic()
        return session, sender

    def _forget(self, identity: bytes) -> None:
        peer = self._peers.pop(identity, None)
        session = self._sessions.get(peer.hello.session) if peer is not None else None
        if session is not None and session.sender and session.sender.identity == identity:
            session.sender.identity = None

    def _count(self, whose: bytes, error: ProtocolError) -> None:
        self._refused(error.code)
        # A broken sender repeats itself thirty times a second.
        count = self._refusals[error.code] = self._refusals[error.code] + 1
        if count & (count - 1) == 0:
            who = whose.decode() if whose.isalnum() else whose.hex()
            logger.warning("refused (%d so far, from %s): %s", count, who, error)


def _own_convention(hello: Hello) -> str | None:
    """The convention of a client's corrections where it states one of its own."""
    return hello.convention if hello.role == "poses" else None

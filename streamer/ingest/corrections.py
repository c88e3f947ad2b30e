"""Corrections on their way through a session, and what their senders are owed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from streamer.ingest.replies import Reply
from streamer.ingest.sessions import Session
from streamer.journal import Corrected, Overtook
from streamer.protocol import Header, ProtocolError
from streamer.protocol.internal import PosesDone, PosesForward
from streamer.protocol.messages import Error, PosesAck

MAX_OWED_POSES = 100_000
"""Poses of corrections that a session may owe an answer to, some 60 MB of them on their way to it
and into its journal; one correction passes alone, whatever its size."""
MAX_OWED = 256
"""The same, corrections."""
UNANSWERED_S = 600.0
"""A correction that a session has said nothing to for so long is given up."""


@dataclass(slots=True)
class _Correction:
    """A forwarded POSES whose answer is awaited, or waits until it is durable."""

    peer: bytes
    unknown: list[int]
    number: int
    """Of the journal's entry, 0 without one."""
    poses: int
    since: float
    answer: Header | None = None


class Corrections:
    """Answers each correction once, when its session has applied it and it is on the disk."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._awaited: dict[tuple[str, str, int], _Correction] = {}

    def check(self, name: str, header: PosesForward) -> None:
        """Whether a session can be told of this now.

        Raises:
            ProtocolError: `busy`; `bad_revision` where its own client is still to be answered.
        """
        self._give_up_old(name)
        if (name, header.client, header.revision) in self._awaited:
            raise ProtocolError(
                "bad_revision",
                f"revision: {header.revision} came twice: the answer to the first is on its way",
            )
        owed = [entry for key, entry in self._awaited.items() if key[0] == name]
        total = sum(entry.poses for entry in owed) + len(header.entries)
        if owed and (len(owed) >= MAX_OWED or total > MAX_OWED_POSES):
            raise ProtocolError(
                "busy",
                f"session {name} has {len(owed)} corrections to answer first: send this one again "
                "in a second",
            )

    def _give_up_old(self, name: str) -> None:
        before = time.monotonic() - UNANSWERED_S
        for key in [k for k, e in self._awaited.items() if k[0] == name and e.since < before]:
            reason = f"session {name} did not answer in {UNANSWERED_S:.0f} s: send it again"
            error = Error(code="internal", reason=reason, revision=key[2])
            self._reply(self._awaited.pop(key).peer, error)

    def add(self, session: Session, header: PosesForward, peer: bytes, unknown: list[int]) -> None:
        """The session was told of a correction: journal it, and remember who asked."""
        number = 0
        if session.recorder is not None:
            number = session.recorder.put(
                Corrected(
                    revision=header.revision,
                    client=header.client,
                    entries=header.entries,
                    by=header.by,
                    upto=header.upto,
                    received_upto=header.received_upto,
                    waiting=header.waiting,
                ),
                # A loop closure is one entry, and somebody waits for its answer.
                urgent=True,
            )
        key = (session.name, header.client, header.revision)
        self._awaited[key] = _Correction(
            peer, unknown, number, len(header.entries), time.monotonic()
        )

    def done(self, session: Session | None, done: PosesDone) -> None:
        """The session applied a correction, or refused it."""
        if session is None:
            return
        overtook = 0
        if done.before is not None and session.recorder is not None:
            # Also of one that came from the journal, and that nobody waits for any more.
            entry = Overtook(revision=done.revision, client=done.client, before=done.before)
            overtook = session.recorder.put(entry, urgent=True)
        key = (session.name, done.client, done.revision)
        correction = self._awaited.get(key)
        if correction is None:
            return
        correction.number = max(correction.number, overtook)
        if done.code is not None:
            reason = done.reason or "the session refused the correction"
            correction.answer = Error(code=done.code, reason=reason, revision=done.revision)
            correction.number = 0
        else:
            correction.answer = PosesAck(
                revision=done.revision,
                moved=done.moved,
                unknown=sorted({*done.unknown, *correction.unknown}),
            )
        self.durable(session.name, session.recorder.durable if session.recorder else 0)

    def durable(self, name: str, number: int) -> None:
        """The journal of a session holds its entries up to this one."""
        for key in [key for key in self._awaited if key[0] == name]:
            correction = self._awaited[key]
            if correction.answer is not None and correction.number <= number:
                self._awaited.pop(key)
                self._reply(correction.peer, correction.answer)

    def fail(self, name: str, code: str, reason: str, *, lost: bool = False) -> None:
        """Nobody will answer these.

        Args:
            lost: the process died; what is journalled its successor will be told, and answer.
        """
        for key in [key for key in self._awaited if key[0] == name]:
            if lost and self._awaited[key].number:
                continue
            correction = self._awaited.pop(key)
            self._reply(correction.peer, Error(code=code, reason=reason, revision=key[2]))

"""Corrections on their way through a session, and what their senders are owed."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.ingest.replies import Reply
from streamer.ingest.sessions import Session
from streamer.journal import Corrected
from streamer.protocol import Header
from streamer.protocol.internal import PosesDone, PosesForward
from streamer.protocol.messages import Error, PosesAck

MAX_CORRECTIONS = 256
"""Corrections that sessions may owe an answer to; older ones are no longer answered."""


@dataclass(slots=True)
class _Correction:
    """A forwarded POSES whose answer is awaited, or waits until it is durable."""

    peer: bytes
    unknown: list[int]
    number: int
    """Of the journal's entry, 0 without one."""
    answer: Header | None = None


class Corrections:
    """Answers each correction once, when its session has applied it and it is on the disk."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._awaited: dict[tuple[str, str, int], _Correction] = {}

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
                )
            )
        key = (session.name, header.client, header.revision)
        self._awaited[key] = _Correction(peer, unknown, number)
        while len(self._awaited) > MAX_CORRECTIONS:
            self._awaited.pop(next(iter(self._awaited)))

    def done(self, session: Session | None, done: PosesDone) -> None:
        """The session applied a correction, or refused it."""
        if session is None:
            return
        key = (session.name, done.client, done.revision)
        correction = self._awaited.get(key)
        if correction is None:
            return
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

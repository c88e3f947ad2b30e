"""What a key may do: rights, each for all sessions or for those whose names fit a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from streamer.protocol import ProtocolError

Right = Literal["ingest", "watch", "control"]
RIGHTS: tuple[Right, ...] = get_args(Right)
BY_SESSION: frozenset[Right] = frozenset({"ingest", "control"})
"""Rights that can be given for single sessions: every message that needs one names its session.
Subscriptions of updates do not pass the daemon one by one, so who may watch sees all sessions."""
EVERY_SESSION = "*"
_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.*-]{0,63}")


@dataclass(frozen=True, slots=True)
class Rights:
    """Rights with the patterns of the sessions that they are for."""

    permissions: frozenset[tuple[Right, str]] = frozenset()

    @classmethod
    def everywhere(cls, *rights: Right) -> Rights:
        """These, in all sessions."""
        return cls(frozenset((right, EVERY_SESSION) for right in rights))

    def __bool__(self) -> bool:
        return bool(self.permissions)

    def __or__(self, other: Rights) -> Rights:
        return Rights(self.permissions | other.permissions)

    def any_of(self, rights: Iterable[Right]) -> bool:
        """Whether one of these is given, in some session."""
        return any(right in rights for right, _ in self.permissions)

    def patterns(self, right: Right) -> list[str]:
        """The sessions that a right is for, in order."""
        return sorted(pattern for given, pattern in self.permissions if given == right)

    def covers(self, right: Right, session: str) -> bool:
        """Whether a right is given for a session."""
        return any(fnmatchcase(session, pattern) for pattern in self.patterns(right))


NONE = Rights()


def check_right(rights: Rights | None, right: Right, session: str | None = None) -> None:
    """Raises ProtocolError ``denied`` where a sender lacks a right, for a session where one is
    named.

    Args:
        rights: of the sender; None where the daemon has no keys and everybody may everything.
    """
    if rights is None:
        return
    patterns = rights.patterns(right)
    if not patterns:
        raise ProtocolError(
            "denied",
            f"this key has no right to {right}: put its public file into allowed/{right}/ on the "
            "daemon's side",
        )
    if session is not None and not rights.covers(right, session):
        raise ProtocolError(
            "denied",
            f"this key may {right} in {', '.join(patterns)} alone, not in session {session[:64]}: "
            f"put its public file into allowed/{right}/{session[:64]}/ on the daemon's side as "
            f"well, or into allowed/{right}/ for all sessions",
        )


def is_pattern(name: str) -> bool:
    """Whether a name can stand for sessions: one of theirs, in which `*` is any characters."""
    return _PATTERN.fullmatch(name) is not None

"""What can go wrong between a program and its daemon, by name."""

from __future__ import annotations

from dataclasses import dataclass


class ConnectionLostError(ConnectionError):
    """The daemon has not answered for longer than the client was told to bear."""


class ArgumentError(ValueError):
    """Something that cannot be sent; the message names the argument and what is needed."""


class ClientClosedError(ValueError):
    """The client was closed before."""


class RefusedError(ValueError):
    """The daemon refused this client or what it asked.

    Attributes:
        code: of the wire protocol.
        reason: field, value and remedy, as the daemon said it.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class SessionBusyError(RefusedError):
    """Another client sends into the session, or there are too many sessions."""


class SessionHoldsFramesError(RefusedError):
    """The session has frames already: resume it, reset it, or use another name."""


class VersionMismatchError(RefusedError):
    """Client and daemon speak different versions of the protocol."""


class StaleRevisionError(RefusedError):
    """A pose correction whose revision is not newer than the last one."""


class FrameRejectedError(RefusedError):
    """A frame was rejected and the client is strict."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A frame that the daemon did not take; the stream went on without it."""

    seq: int
    stamp_ns: int
    code: str
    reason: str


_BY_CODE: dict[str, type[RefusedError]] = {
    "busy": SessionBusyError,
    "bad_session": SessionHoldsFramesError,
    "bad_version": VersionMismatchError,
    "bad_revision": StaleRevisionError,
}


def refusal(code: str, reason: str) -> RefusedError:
    """The exception that an ERROR of the daemon becomes."""
    return _BY_CODE.get(code, RefusedError)(code, reason)

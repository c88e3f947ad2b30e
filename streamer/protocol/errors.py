"""The error codes of the protocol and the exception that carries one."""

from __future__ import annotations

from typing import Literal, get_args

Code = Literal[
    "bad_header",
    "bad_part",
    "too_large",
    "bad_image",
    "bad_pose",
    "no_pose",
    "bad_camera",
    "bad_seq",
    "bad_revision",
    "no_hello",
    "bad_version",
    "bad_session",
    "no_credit",
    "busy",
    "denied",
    "internal",
]
CODES: frozenset[str] = frozenset(get_args(Code))

RETRY_CODES: frozenset[str] = frozenset({"no_credit", "busy"})
"""Rejections that settle nothing: the same frame may be sent again."""


MAX_REASON = 1000
"""Characters: a reason that quotes what was wrong must fit into the header that tells it."""


class ProtocolError(ValueError):
    """A message that breaks the protocol, or asks for what cannot be had.

    Args:
        code: one of `CODES`, for programs.
        reason: field, value and remedy, for people; cut where it is too long.
    """

    def __init__(self, code: Code, reason: str) -> None:
        if len(reason) > MAX_REASON:
            reason = f"{reason[: MAX_REASON - 1]}…"
        super().__init__(f"{code}: {reason}")
        self.code: Code = code
        self.reason = reason

"""Who may send into a session that is there already."""

from __future__ import annotations

import time

from streamer.ingest.sessions import Sender, Session
from streamer.protocol import ProtocolError
from streamer.protocol.messages import Hello

SILENCE_S = 30.0
"""After so long another client may take a session over."""


def sends_now(sender: Sender | None) -> bool:
    """Whether a session's sender is there, or may be back any moment."""
    if sender is None or sender.said_bye:
        return False
    return time.monotonic() - sender.heard < SILENCE_S


def check_takeover(session: Session, hello: Hello) -> None:
    """Whether this client may send into the session.

    Raises:
        ProtocolError: `busy`, another one does; `bad_session`, it would mix two streams.
    """
    sender = session.sender
    if sender is not None and sender.hello.client != hello.client and sends_now(sender):
        silence = time.monotonic() - sender.heard
        raise ProtocolError(
            "busy",
            f"session: client {sender.hello.client!r} sends into {hello.session!r} and was heard "
            f"{silence:.0f} s ago: wait for its BYE or {SILENCE_S:.0f} s of silence, or use "
            "another session (push: --session)",
        )
    if session.holds_frames and not hello.resume:
        raise ProtocolError(
            "bad_session",
            f"session: {hello.session!r} holds {session.stream.received + 1} frames: go on in "
            "it with resume (push: --resume; HELLO: resume: true), use another name (push: "
            f"--session), or empty it with Requests(...).reset({hello.session!r}), which needs "
            f"it to run; else its folder {hello.session} can be deleted",
        )

"""Clients of the ingest: programs that have frames, and programs that correct poses."""

from streamer.client.corrector import PoseClient
from streamer.client.errors import (
    ArgumentError,
    ClientClosedError,
    ConnectionLostError,
    FrameRejectedError,
    RefusedError,
    Rejection,
    SessionBusyError,
    SessionHoldsFramesError,
    StaleRevisionError,
    VersionMismatchError,
)
from streamer.client.sender import Client
from streamer.protocol.messages import PosesAck

__all__ = [
    "ArgumentError",
    "Client",
    "ClientClosedError",
    "ConnectionLostError",
    "FrameRejectedError",
    "PoseClient",
    "PosesAck",
    "RefusedError",
    "Rejection",
    "SessionBusyError",
    "SessionHoldsFramesError",
    "StaleRevisionError",
    "VersionMismatchError",
]

"""The daemon and its clients; the names here are imported when they are first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamer.access import ClientKeys
    from streamer.camera import CameraModel as Camera
    from streamer.client import (
        Client,
        ConnectionLostError,
        FrameRejectedError,
        PoseClient,
        RefusedError,
        Rejection,
        SessionBusyError,
        SessionHoldsFramesError,
        StaleRevisionError,
        VersionMismatchError,
    )
    from streamer.requests import Requests
    from streamer.subscriber import Subscriber

_CLIENT = (
    "Client",
    "ConnectionLostError",
    "FrameRejectedError",
    "PoseClient",
    "RefusedError",
    "Rejection",
    "SessionBusyError",
    "SessionHoldsFramesError",
    "StaleRevisionError",
    "VersionMismatchError",
)
_HOMES = {
    "ClientKeys": ("streamer.access", "ClientKeys"),
    "Camera": ("streamer.camera", "CameraModel"),
    "Requests": ("streamer.requests", "Requests"),
    "Subscriber": ("streamer.subscriber", "Subscriber"),
    **{name: ("streamer.client", name) for name in _CLIENT},
}

__all__ = [
    "Camera",
    "Client",
    "ClientKeys",
    "ConnectionLostError",
    "FrameRejectedError",
    "PoseClient",
    "RefusedError",
    "Rejection",
    "Requests",
    "SessionBusyError",
    "SessionHoldsFramesError",
    "StaleRevisionError",
    "Subscriber",
    "VersionMismatchError",
]


def __getattr__(name: str) -> Any:
    # `import streamer.cli` must not cost torch: each name brings its own module only when used.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)

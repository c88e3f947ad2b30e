"""Where the page may be served, known before anything heavy is imported."""

from __future__ import annotations

import socket


class PageError(ValueError):
    """The page cannot be served where it was asked to be."""


def check_host(host: str) -> None:
    """Raises PageError where `host` is no address of this machine: viser's server thread would die
    of it, and its constructor wait for ever."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise PageError(
            f"host is {host!r}: {error.strerror}; give an address of this machine"
        ) from None

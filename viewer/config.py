"""Settings of the live page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import FlagCreatePairsOff

from streamer.config import MAX_PAGE_SPLATS, MIN_PAGE_SPLATS


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerConfig:
    """The live page of a running daemon.

    Raises:
        ValueError: a port or a budget that cannot be.
    """

    updates: str = "tcp://127.0.0.1:5556"
    """Where the daemon publishes its updates."""
    requests: str = "tcp://127.0.0.1:5557"
    """Where it answers requests."""
    host: str = "127.0.0.1"
    """Address that the page is served on. Whoever reaches it sees the map and can pause it."""
    port: int = 8080
    """Port of the page; 0 takes a free one."""
    session: str | None = None
    """Which session; without it the newest one. The page can switch."""
    max_splats: int = 300_000
    """At most so many splats on the page; its memory in the browser is taken at once."""

    key: Path | None = None
    """This page's secret key file, where the daemon has keys."""
    server_key: Path | None = None
    """The daemon's public key file."""
    log_json: FlagCreatePairsOff[bool] = False
    """Log one JSON object a line."""

    token_file: Path | None = None
    """The page asks its visitors for the token in this file, which is made where it is missing."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}: give 1 to 65535, or 0 for a free one")
        if not MIN_PAGE_SPLATS <= self.max_splats <= MAX_PAGE_SPLATS:
            raise ValueError(
                f"max_splats is {self.max_splats}: give {MIN_PAGE_SPLATS} to {MAX_PAGE_SPLATS}"
            )

"""What all of the daemon's processes do alike when they start."""

from __future__ import annotations

import logging

from streamer.config import LogConfig


def set_up_logging(config: LogConfig) -> None:
    """Log lines to stderr, which the supervisor reads, time-stamps and labels."""
    logging.basicConfig(
        level=config.level.upper(), format="%(levelname)s %(name)s: %(message)s", force=True
    )

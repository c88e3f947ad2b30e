"""What all of the daemon's processes do alike when they start: they log."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from streamer.config import LogConfig

PLAIN_FORMAT = "%(levelname)s %(name)s: %(message)s"


def set_up_logging(config: LogConfig) -> None:
    """Log lines to stderr, which the supervisor reads and labels with the process.

    Plain lines are time-stamped by the supervisor; JSON lines carry their own time.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if config.json else logging.Formatter(PLAIN_FORMAT))
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    """One JSON object a record: `time`, `level`, `logger`, `message`, and `exception` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json_line(record.levelname.lower(), record.getMessage(), at=record.created, **fields)


def json_line(level: str, message: str, *, at: float, **fields: Any) -> str:
    """A log line as one JSON object; `at`, in seconds since 1970, is written as UTC."""
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    return json.dumps({"time": time, "level": level, **fields, "message": message})

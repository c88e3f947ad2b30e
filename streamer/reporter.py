"""What the daemon says: one line that begins with `ready`, log lines, and a live status."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.text import Text

_STATUS_EVERY_S = 10.0


class Reporter:
    """On a terminal a status line that stays at the bottom; elsewhere plain lines.

    Standard output carries the ``ready`` line and, on a terminal, the status; log lines go to
    standard error.
    """

    def __init__(self, log_file: Path | None = None) -> None:
        self._out = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._file: IO[str] | None = None
        if log_file is not None:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            self._file = log_file.open("a", encoding="utf-8")
        self._status = ""
        self._status_at = 0.0

    def log(self, text: str) -> None:
        """One line, with the time."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        if self._live is not None:
            # Above the status line, which would otherwise be torn.
            self._live.console.print(Text(line))
        else:
            print(line, file=sys.stderr, flush=True)
        if self._file is not None:
            print(f"{time.strftime('%Y-%m-%d')} {line}", file=self._file, flush=True)

    def ready(self, text: str) -> None:
        """The line that says where everything is; from now on a terminal has a status line."""
        print(f"ready {text}", flush=True)
        if self._file is not None:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ready {text}", file=self._file, flush=True)
        if self._out.is_terminal:
            self._live = Live(Text(""), console=self._out, refresh_per_second=4)
            self._live.start()

    def status(self, text: str) -> None:
        """The present state, called as often as one likes."""
        if self._live is not None:
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        elif text != self._status and time.monotonic() - self._status_at > _STATUS_EVERY_S:
            self._status, self._status_at = text, time.monotonic()
            self.log(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._file is not None:
            self._file.close()
            self._file = None

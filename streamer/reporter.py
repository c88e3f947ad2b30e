"""What the daemon says: one line that begins with `ready`, log lines, and a live status."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamer.processes import json_line

_STATUS_EVERY_S = 10.0


class Reporter:
    """On a terminal a status line that stays at the bottom; elsewhere plain lines, or JSON.

    Standard output carries the ``ready`` line and, on a terminal, the status; log lines go to
    standard error.

    Args:
        log_file: log lines go there too.
        json: every log line is a JSON object whose `process` says where it comes from; the
            ``ready`` line stays as it is, for whoever waits for it.
    """

    def __init__(self, log_file: Path | None = None, *, json: bool = False) -> None:
        self._json = json
        self._out = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._file: IO[str] | None = None
        if log_file is not None:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            self._file = log_file.open("a", encoding="utf-8")
        self._status = ""
        self._status_at = 0.0

    def log(self, text: str, level: str = "info") -> None:
        """One line of the supervisor's own, with the time."""
        if self._json:
            self._write_json(json_line(level, text, at=time.time(), process="supervisor"))
        else:
            self._write(text if level == "info" else f"{level}: {text}")

    def relay(self, process: str, lines: Sequence[str]) -> None:
        """What one of the daemon's processes wrote; what is no log line of its own (a traceback,
        a word of a library) gets the level `error`.
        """
        for line in lines:
            if not self._json:
                self._write(f"[{process}] {line}")
                continue
            try:
                fields = msgspec.json.decode(line, type=dict[str, object])
                fields = {"time": fields.pop("time"), "level": fields.pop("level"), **fields}
            except (msgspec.DecodeError, KeyError):
                self._write_json(json_line("error", line, at=time.time(), process=process))
            else:
                self._write_json(msgspec.json.encode({**fields, "process": process}).decode())

    def ready(self, text: str) -> None:
        """The line that says where everything is; from now on a terminal has a status line."""
        print(f"ready {text}", flush=True)
        if self._json:
            self.log(f"ready {text}")
        elif self._file is not None:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ready {text}", file=self._file, flush=True)
        if self._out.is_terminal and not self._json:
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

    def _write(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        if self._live is not None:
            # Above the status line, which would otherwise be torn.
            self._live.console.print(Text(line))
        else:
            print(line, file=sys.stderr, flush=True)
        if self._file is not None:
            print(f"{time.strftime('%Y-%m-%d')} {line}", file=self._file, flush=True)

    def _write_json(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        if self._file is not None:
            print(line, file=self._file, flush=True)

"""What a run tells about itself: JSON lines, one object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class RunLog:
    """Appends to a file of JSON lines; every line is there as soon as it was written.

    Kinds: "start", "resume", "step", "evaluation", "save", "note", "end". Numbers that are not
    finite become null, so that every JSON reader takes the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.exists() else b""
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        if before and not before.endswith(b"\n"):
            self._file.write("\n")  # a last line that was cut stays by itself

    def write(self, kind: str, **fields: Any) -> None:
        """One line."""
        line = {"kind": kind, **{name: _plain(value) for name, value in fields.items()}}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The run's history as it counts.

    Steps that a resumed run did again, because they were later than the saved state, are left out;
    so is a last line that was cut.
    """
    lines: list[dict[str, Any]] = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line.get("kind") == "resume":
            step = line["step"]
            lines = [past for past in lines if past.get("step", 0) <= step]
        lines.append(line)
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value

"""How commands write: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

_LINE_EVERY_S = 5.0


def console() -> Console:
    """Standard output; long lines are not broken, so that other programs can read them."""
    return Console(highlight=False, soft_wrap=True)


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows as aligned columns, the first `left` of them to the left. Never cut: a name that is
    shortened to fit a terminal is no name.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


class FrameProgress:
    """A bar of what is done on a terminal, a plain line every five seconds elsewhere."""

    def __init__(self, out: Console, bar: Progress, total: int, what: str) -> None:
        self._out = out
        self._bar = bar
        self._total = total
        self._what = what
        self._task = bar.add_task(what.split()[0], total=total)
        self._line_at = time.monotonic()

    def update(self, done: int) -> None:
        """``done`` of the total are done with."""
        self._bar.update(self._task, completed=done)
        now = time.monotonic()
        if not self._out.is_terminal and now - self._line_at >= _LINE_EVERY_S:
            self._line_at = now
            self._out.print(f"{done} of {self._total} {self._what}")


@contextmanager
def frame_progress(
    out: Console, total: int, what: str = "frames settled"
) -> Iterator[FrameProgress]:
    """Shows progress for the time of the block; ``what`` is counted, in the plural."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, disable=not out.is_terminal) as bar:
        yield FrameProgress(out, bar, total, what)

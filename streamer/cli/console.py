"""How commands write: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
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


def console() -> Console:
    """Standard output; long lines are not broken, so that other programs can read them."""
    return Console(highlight=False, soft_wrap=True)


class FrameProgress:
    """A bar of frames sent and settled; nothing at all where output is no terminal."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("frames", total=total, note="")

    def update(self, settled: int, note: str = "") -> None:
        """``settled`` frames of the total are done with; ``note`` stands at the end."""
        self._bar.update(self._task, completed=settled, note=note)


@contextmanager
def frame_progress(out: Console, total: int) -> Iterator[FrameProgress]:
    """Shows a progress bar for the time of the block."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=out, disable=not out.is_terminal) as bar:
        yield FrameProgress(bar, total)

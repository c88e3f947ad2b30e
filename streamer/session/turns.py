"""Sessions that share a machine: one that only refines makes way for one that works on frames.

Between two sessions that both refine, or both work on frames, the system shares the processors, as
it does between any two processes. But refinement takes what it gets, for minutes, and a batch that
has to share with it is late. So a session holds a lock in the daemon's run folder while it works
on frames, together with all others that do; who refines looks at it before every step. The kernel
lets go of the lock of a process that is killed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARE = 0.1
"""Of its time that a session refines at most while another one works on frames: it makes way, but
it is not starved by a stream that never ends."""


class Turns:
    """One session's part. Times are in seconds of any one clock that does not go back.

    Args:
        run_dir: the daemon's private folder.
    """

    def __init__(self, run_dir: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(run_dir / "frames.lock", flags, 0o600)
        self._not_before = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """This session works on frames meanwhile."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def may_refine(self, now: float) -> bool:
        """Whether a step of refinement is in nobody's way, or due all the same."""
        return now >= self._not_before or not self._others_work()

    def refined(self, began: float, now: float) -> None:
        """A step was done."""
        self._not_before = now + (now - began) * (1.0 / SHARE - 1.0)

    def close(self) -> None:
        """Let go of the lock's file."""
        os.close(self._descriptor)

    def _others_work(self) -> bool:
        try:
            # Held for no longer than this: two who ask at once take each other for a worker, and
            # ask again a moment later.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False

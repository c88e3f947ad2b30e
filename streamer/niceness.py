"""Making way for the processes that frames wait for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def make_way(pid: int, niceness: int) -> None:
    """Let a process that leads a session of its own make way for all others.

    Where Linux groups processes by session (sched(7), "The autogroup feature": desktops, mostly),
    the nice value of a process counts inside its session only, and the daemon's processes have one
    each; so the session's group gets the value too. What the system does not allow is left.

    Args:
        pid: a process started with `start_new_session`.
        niceness: 0 to 19.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))

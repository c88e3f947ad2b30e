"""``python -m streamer.child MODULE ARGS…`` runs MODULE as a process that ends with its parent.

The supervisor starts all of the daemon's processes through this: where it is killed without a
chance to clean up, none of them is left behind.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

PARENT_VARIABLE = "SPLATSTREAM_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5
_GRACE_S = 3.0


def end_with_parent(parent: int) -> None:
    """SIGTERM for this process when ``parent`` is gone, and a hard end soon after."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def main() -> None:
    """Bind to the parent named in the environment, then become MODULE."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        end_with_parent(int(parent))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

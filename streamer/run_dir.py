"""The daemon's private folder of ipc sockets: 0700, made at start, gone at the end."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

_NAME = re.compile(r"^splatstream-(\d+)-")
_LONGEST_SOCKET_PATH = 100
"""The kernel takes 107 bytes; the sockets' own names need some of them."""


def make_run_dir() -> Path:
    """A new private folder; those of daemons that were killed are removed first."""
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base)) > _LONGEST_SOCKET_PATH - 40:
        base = Path("/tmp")
    _remove_stale(base)
    return Path(tempfile.mkdtemp(prefix=f"splatstream-{os.getpid()}-", dir=base))


def remove_run_dir(run_dir: Path) -> None:
    """Remove the folder and what is left in it."""
    shutil.rmtree(run_dir, ignore_errors=True)


def _remove_stale(base: Path) -> None:
    for folder in base.glob("splatstream-*"):
        match = _NAME.match(folder.name)
        if match is None or _alive(int(match[1])):
            continue
        try:
            mine = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
        except OSError:
            continue
        if mine:
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

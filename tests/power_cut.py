"""A process that is killed at the n-th step that durability rests on: before or after a write, an
fsync, a rename, a cut. For child processes alone: the calls of `os` are replaced.

    python power_cut.py FOLDER STEP SEED MODULE ARGS…     runs MODULE so

With a seed the disk loses its power as well: what was not synced is then there in part or not at
all, and what was renamed or made is under its old name or gone where its folder was not synced.
Without one (`-`) it is SIGKILL alone, and the kernel keeps what was written.
"""

from __future__ import annotations

import os
import random
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class PowerCut:
    """Counts steps on files below `folder`; the `at`-th one does not end."""

    def __init__(self, folder: Path, at: int, seed: int | None) -> None:
        self.steps = 0
        self._root = str(folder.resolve())
        self._at = at
        self._random = None if seed is None else random.Random(seed)
        self._synced: dict[tuple[int, int], int] = {}
        self._named: dict[str, set[str]] = {}
        """Names by folder as they are on the disk for sure."""
        self._renamed: list[tuple[str, str, str | None]] = []
        """From, to, and where the content is kept that was there before; of folders not synced."""
        for place, folders, files in os.walk(self._root):
            self._named[place] = {*folders, *files}
            for name in files:
                status = os.stat(os.path.join(place, name))
                self._synced[status.st_dev, status.st_ino] = status.st_size

    def install(self) -> None:
        """From now on, in this process."""
        for name in ("write", "writev", "ftruncate", "fsync"):
            setattr(os, name, self._of_descriptor(getattr(os, name)))
        for name in ("rename", "replace"):
            setattr(os, name, self._of_names(getattr(os, name)))

    def _of_descriptor(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(descriptor: int, *arguments: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if not path.startswith(self._root):
                return call(descriptor, *arguments)
            self._step()
            result = call(descriptor, *arguments)
            if call.__name__ == "fsync":
                self._note_synced(descriptor, path)
                self._step()
            return result

        counted.__name__ = call.__name__
        return counted

    def _of_names(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(source: Any, target: Any, **options: Any) -> Any:
            old, new = os.path.abspath(source), os.path.abspath(target)
            if not old.startswith(self._root):
                return call(source, target, **options)
            self._step()
            kept = None
            if os.path.isfile(new):
                kept = os.path.join(os.path.dirname(self._root), f".kept-{len(self._renamed)}")
                if os.path.exists(kept):
                    os.unlink(kept)
                os.link(new, kept)
            result = call(source, target, **options)
            self._renamed.append((old, new, kept))
            if old in self._named:
                self._named[new] = self._named[old]
            self._step()
            return result

        return counted

    def _note_synced(self, descriptor: int, path: str) -> None:
        status = os.fstat(descriptor)
        self._synced[status.st_dev, status.st_ino] = status.st_size
        if os.path.isdir(path):
            self._named[path] = set(os.listdir(path))
            self._renamed = [r for r in self._renamed if os.path.dirname(r[1]) != path]

    def _step(self) -> None:
        if self.steps == self._at:
            if self._random is not None:
                self._lose(self._random)
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1

    def _lose(self, choice: random.Random) -> None:
        for old, new, kept in reversed(self._renamed):
            if choice.random() < 0.5 and os.path.exists(new):
                os.rename(new, old)
                if kept is not None:
                    os.link(kept, new)
        for place, folders, files in os.walk(self._root):
            known = self._named.get(place, set())
            for name in files:
                path = os.path.join(place, name)
                status = os.stat(path)
                synced = self._synced.get((status.st_dev, status.st_ino), 0)
                if status.st_size > synced:
                    os.truncate(path, choice.randint(synced, status.st_size))
                    if choice.random() < 0.3:
                        # The length arrived and the bytes did not.
                        os.truncate(path, status.st_size)
                moved = any(path == new for _, new, _ in self._renamed)
                if name not in known and not moved and choice.random() < 0.5:
                    os.unlink(path)
            folders[:] = [name for name in folders if not name.startswith(".kept")]


def main() -> None:
    """Run a module whose process is killed."""
    folder, at, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    PowerCut(folder, at, None if seed == "-" else int(seed)).install()
    del sys.argv[:4]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

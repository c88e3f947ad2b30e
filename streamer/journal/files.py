"""The few calls on files that durability rests on, in one place: tests put a failing one here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from streamer.protocol import Buffer

_AT_ONCE = 512
"""Pieces in one call; Linux takes 1024."""


class Files:
    """The machine's own files. All of them are the user's alone: 0600, folders 0700."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, and have the ones above know it after a power cut."""
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(folder.parent)

    def create(self, path: Path) -> int:
        """A descriptor of a new file, for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, pieces: Sequence[Buffer]) -> None:
        """Write all of it at the end."""
        views = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        while views:
            written = os.writev(descriptor, views[:_AT_ONCE])
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def cut(self, descriptor: int, size: int) -> None:
        """Cut the file off at `size`, and go on writing there."""
        os.ftruncate(descriptor, size)
        os.lseek(descriptor, size, os.SEEK_SET)

    def sync(self, descriptor: int) -> None:
        """Return when everything written is on the disk."""
        os.fsync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Return when the folder's list of names is on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Let go of the file."""
        os.close(descriptor)

    def is_named(self, descriptor: int, path: Path) -> bool:
        """Whether the open file is the one of this name."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(path))
        except FileNotFoundError:
            return False

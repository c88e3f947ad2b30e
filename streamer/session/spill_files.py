"""The files of chunks that are out of sight: one each, never changed once it is there.

Every writing has a number of its own, so that a saved state can name what it needs, and a file goes
once no kept state and no running engine needs it.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streamer.session.folder import SessionFolderError

SPILLED = "spilled"
_SUFFIX = ".safetensors"

Arrays = Mapping[str, NDArray[Any]]


class SpillError(SessionFolderError):
    """A chunk that could not be put on the disk, or is not there as it was written."""


@dataclass(frozen=True, slots=True)
class SpillFile:
    """A file by its number, with its size and CRC-32."""

    number: int
    size: int
    crc32: int

    @property
    def name(self) -> str:
        return f"{self.number}{_SUFFIX}"


class SpillFolder:
    """Chunks' files in a folder that is made when the first comes.

    Args:
        folder: a session's `spilled/`, or any that is nobody else's.
        kept: whether states are saved that may need a file after it was read back; without, such
            a file goes at once.
    """

    def __init__(self, folder: Path, *, kept: bool) -> None:
        self.folder = folder
        self.kept = kept
        self._next = max(numbers(folder), default=-1) + 1

    @property
    def next_number(self) -> int:
        """All files so far lie below."""
        return self._next

    def write(self, arrays: Arrays) -> SpillFile:
        """A new file, whole or not at all; not yet synced, which is the saving thread's to do.

        Raises:
            SpillError: the disk is full, or the folder cannot be written.
        """
        content = save(dict(arrays))
        file = SpillFile(self._next, len(content), zlib.crc32(content))
        path = self.folder / file.name
        aside = path.with_suffix(".writing")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(aside, flags, 0o600), "wb") as target:
                target.write(content)
            aside.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise SpillError(
                f"{path}: a chunk out of sight could not be written ({error.strerror}): free the "
                "disk; until then the map is thinned out instead"
            ) from None
        self._next += 1
        return file

    def read(self, file: SpillFile) -> dict[str, NDArray[Any]]:
        """What was written.

        Raises:
            SpillError: it is not there, or not as it was written.
        """
        return read_spilled(self.folder, file)

    def release(self, file: SpillFile) -> None:
        """The running engine needs it no more."""
        if not self.kept:
            with contextlib.suppress(OSError):
                (self.folder / file.name).unlink()

    def clear(self) -> None:
        """The running engine needs none of them, nor does a state."""
        remove(self.folder, numbers(self.folder))


def read_spilled(folder: Path, file: SpillFile) -> dict[str, NDArray[Any]]:
    """A file of a `spilled/` folder.

    Raises:
        SpillError: it is not there, or not as it was written.
    """
    path = folder / file.name
    try:
        content = path.read_bytes()
        if zlib.crc32(content) != file.crc32:
            raise ValueError("it is not as it was written")
        return load(content)
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpillError(
            f"{path}: a chunk is lost ({reason}): the journal still has its frames; RESET and "
            "send anew, or replay the session, if it is needed"
        ) from None


def numbers(folder: Path) -> list[int]:
    """The files in a `spilled/` folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        stems = (path.stem for path in folder.iterdir() if path.suffix == _SUFFIX)
        return [int(stem) for stem in stems if stem.isdigit()]
    return []


def remove(folder: Path, unused: Collection[int]) -> None:
    """Files that nobody needs; one that will not go stays for the next time."""
    for number in unused:
        with contextlib.suppress(OSError):
            (folder / f"{number}{_SUFFIX}").unlink()

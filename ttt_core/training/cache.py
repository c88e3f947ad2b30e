"""A folder of training sequences: who made it, what it holds, who is making which number."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttt_core.errors import SequenceCacheError
from ttt_core.matching import CELL_CHANNELS
from ttt_core.training.build import StreamSpec
from ttt_core.training.samples import FORMAT, TrainingSequence, load_sequence, save_sequence
from ttt_core.training.sources import SequenceSource

_MANIFEST = "manifest.json"
_CLAIMS = "claims"
_NAME = re.compile(r"(\d{8})\.safetensors")


class SequenceCache:
    """Sequences by number, for any number of processes at a time.

    The manifest says by which specification they were made; a folder of another one is refused,
    so that figures are never a mixture. It knows nothing of code: delete the folder when the
    prior or the generator were changed.

    Args:
        folder: made where there is none.

    Raises:
        SequenceCacheError: made by another specification, or not a folder of sequences.
    """

    def __init__(self, folder: str | Path, spec: StreamSpec, source: SequenceSource) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = _manifest(spec, source)
        if self.folder.exists() and not self.folder.is_dir():
            raise SequenceCacheError(f"{self.folder}: is a file; name a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claims = open(self.folder / _CLAIMS, "ab")  # noqa: SIM115
        # Two that begin at once: one writes, the other compares.
        fcntl.lockf(self._claims, fcntl.LOCK_EX, 1, 0)
        try:
            self._adopt()
        except BaseException:
            self.close()
            raise
        fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, 0)

    def close(self) -> None:
        """Gives all claims back."""
        self._claims.close()

    def path(self, index: int) -> Path:
        """Where number `index` is, or will be."""
        return self.folder / f"{index:08d}.safetensors"

    def made(self) -> list[int]:
        """Numbers of the sequences that are there, ascending."""
        found = (_NAME.fullmatch(entry.name) for entry in os.scandir(self.folder))
        return sorted(int(match.group(1)) for match in found if match)

    def nbytes(self) -> int:
        """Bytes of all sequences that are there."""
        return sum(e.stat().st_size for e in os.scandir(self.folder) if _NAME.fullmatch(e.name))

    def load(self, index: int) -> TrainingSequence:
        """Reads a sequence.

        Raises:
            SequenceError: it cannot be read.
        """
        return load_sequence(self.path(index))

    def save(self, index: int, sequence: TrainingSequence) -> None:
        """Writes a sequence, whole or not at all."""
        save_sequence(sequence, self.path(index))

    @contextlib.contextmanager
    def claim(self, index: int) -> Iterator[bool]:
        """True to one process at a time while `index` is not there: that one is to make it.

        The claim is a lock on one byte of a file, which the system takes back when a process ends
        in whatever way.
        """
        byte = index + 1
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            yield False
            return
        try:
            yield not self.path(index).exists()
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def _adopt(self) -> None:
        path = self.folder / _MANIFEST
        if not path.exists():
            strangers = [e.name for e in os.scandir(self.folder) if e.name != _CLAIMS]
            if strangers:
                raise SequenceCacheError(
                    f"{self.folder}: holds {strangers[0]!r} but no {_MANIFEST}; name an empty or a "
                    "new folder"
                )
            draft = path.with_name(f".{_MANIFEST}.tmp")
            draft.write_text(json.dumps(self.manifest, indent=1) + "\n")
            os.replace(draft, path)
            return
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise SequenceCacheError(f"{path}: is damaged ({error}); delete the folder") from error
        if not isinstance(found, dict) or found.get("hash") != self.manifest["hash"]:
            raise SequenceCacheError(
                f"{self.folder}: was made by another specification "
                f"({_difference(found, self.manifest)}); name another folder, or delete this one"
            )


def _manifest(spec: StreamSpec, source: SequenceSource) -> dict[str, Any]:
    stream = asdict(spec)
    del stream["prior"]["threads"]  # no result depends on it
    content = {
        "format": FORMAT,
        "cells": list(CELL_CHANNELS),
        "stream": stream,
        "source": dict(source.identity()),
    }
    # By way of JSON, as what is read back: tuples become lists.
    plain: dict[str, Any] = json.loads(json.dumps(content, sort_keys=True))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return {"hash": digest, **plain}


def _difference(found: Any, wanted: Mapping[str, Any], name: str = "") -> str:
    """The first field that differs, for people."""
    if not isinstance(found, dict):
        return f"{name or 'manifest'} is {found!r:.60}, wanted {dict(wanted)!r:.60}"
    for key in [*wanted, *(k for k in found if k not in wanted)]:
        if key == "hash":
            continue
        a, b = found.get(key), wanted.get(key)
        if a != b:
            place = f"{name}.{key}" if name else key
            if isinstance(a, dict) and isinstance(b, dict):
                return _difference(a, b, place)
            return f"{place} is {a!r:.60}, wanted {b!r:.60}"
    return "its hash"

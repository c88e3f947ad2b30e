"""The folder of allowed client keys: a public key file in `ingest/`, `watch/` or `control/` gives
its owner that right. What is in the files never says more than the key: rights are given by whoever
can write the folder, by where he puts a file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from streamer.access.keys import PUBLIC, KeyFileError, make_private_folder, read_public

logger = logging.getLogger(__name__)

Right = Literal["ingest", "watch", "control"]
RIGHTS: tuple[Right, ...] = get_args(Right)
Rights = frozenset[Right]
NONE: Rights = frozenset()


@dataclass(frozen=True, slots=True)
class Grant:
    """What an allowed key may do, and how it is called in log lines."""

    name: str
    rights: Rights


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Changes whenever a file does."""

    inode: int
    modified_ns: int
    size: int
    mode: int


@dataclass(slots=True)
class AllowList:
    """Who may do what. `grants` is replaced as a whole, so that any thread may read it.

    Args:
        folder: the one that holds `ingest/`, `watch/` and `control/`.
        always: keys that are allowed whatever the folder says.
    """

    folder: Path
    always: Mapping[bytes, Grant] = field(default_factory=dict)
    grants: Mapping[bytes, Grant] = field(default_factory=dict)
    _seen: dict[tuple[Right, Path], _Stamp] | None = None
    _keys: dict[tuple[Right, Path], bytes | None] = field(default_factory=dict)

    def refresh(self) -> bool:
        """Look at the folder again; whether a grant changed. A file that is no key, or that others
        can write, allows nobody and is logged once; so does a folder that is gone."""
        found = dict(self._files())
        if found == self._seen:
            return False
        seen, keys = self._seen or {}, {}
        for place, stamp in found.items():
            if seen.get(place) == stamp:
                keys[place] = self._keys[place]
            else:
                keys[place] = _read_or_none(place[1], stamp.mode)
        self._seen, self._keys = found, keys
        before, self.grants = self.grants, self._granted()
        return before != self.grants

    def rights(self, public: bytes) -> Rights:
        """Of a key, none for one that is not known."""
        grant = self.grants.get(public)
        return NONE if grant is None else grant.rights

    def _granted(self) -> dict[bytes, Grant]:
        grants = dict(self.always)
        for (right, path), public in sorted(self._keys.items(), key=lambda item: item[0]):
            if public is None:
                continue
            known = grants.get(public, Grant(path.name.removesuffix(PUBLIC), NONE))
            grants[public] = Grant(known.name, known.rights | {right})
        return grants

    def _files(self) -> Iterator[tuple[tuple[Right, Path], _Stamp]]:
        for right in RIGHTS:
            try:
                entries = list(os.scandir(self.folder / right))
            except OSError:
                continue
            for entry in entries:
                if not entry.name.endswith(PUBLIC) or entry.name.startswith("."):
                    continue
                try:
                    stat = entry.stat()
                except OSError:
                    continue
                stamp = _Stamp(stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode)
                yield (right, Path(entry.path)), stamp


def make_allow_folder(folder: Path) -> None:
    """An allow-list's folders, where they are missing; raises KeyFileError."""
    make_private_folder(folder)
    for right in RIGHTS:
        make_private_folder(folder / right)


def _read_or_none(path: Path, mode: int) -> bytes | None:
    try:
        if mode & 0o022:
            raise KeyFileError(
                f"{path}: others can write it, so they could allow themselves: chmod go-w {path}"
            )
        return read_public(path)
    except KeyFileError as error:
        logger.warning("allowed key passed over: %s", error)
        return None

"""The folder of allowed client keys: a public key file in `ingest/`, `watch/` or `control/` gives
its owner that right, one in `ingest/NAME/` or `control/NAME/` in sessions of that name alone. What
is in the files never says more than the key: rights are given by whoever can write the folder, by
where he puts a file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR

from streamer.access.keys import PUBLIC, KeyFileError, make_private_folder, read_public
from streamer.access.rights import (
    BY_SESSION,
    EVERY_SESSION,
    NONE,
    RIGHTS,
    Right,
    Rights,
    is_pattern,
)

logger = logging.getLogger(__name__)

_Place = tuple[Right, str, Path]
"""A key file: the right that it gives, in which sessions."""


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
    _seen: dict[_Place, _Stamp] | None = None
    _keys: dict[_Place, bytes | None] = field(default_factory=dict)
    _passed_over: dict[Path, str] = field(default_factory=dict)

    def refresh(self) -> bool:
        """Look at the folder again; whether a grant changed. A file that is no key, or a place
        that others can write, allows nobody and is logged once; so does a folder that is gone."""
        found = dict(self._files())
        if found == self._seen:
            return False
        seen, keys = self._seen or {}, {}
        for place, stamp in found.items():
            if seen.get(place) == stamp:
                keys[place] = self._keys[place]
            else:
                keys[place] = _read_or_none(place[-1], stamp.mode)
        self._seen, self._keys = found, keys
        before, self.grants = self.grants, self._granted()
        return before != self.grants

    def rights(self, public: bytes) -> Rights:
        """Of a key, none for one that is not known."""
        grant = self.grants.get(public)
        return NONE if grant is None else grant.rights

    def _granted(self) -> dict[bytes, Grant]:
        grants = dict(self.always)
        for (right, sessions, path), public in sorted(self._keys.items(), key=lambda item: item[0]):
            if public is None:
                continue
            known = grants.get(public, Grant(path.name.removesuffix(PUBLIC), NONE))
            given = Rights(frozenset({(right, sessions)}))
            grants[public] = Grant(known.name, known.rights | given)
        return grants

    def _files(self) -> Iterator[tuple[_Place, _Stamp]]:
        passed_over: dict[Path, str] = {}
        for right in RIGHTS:
            for entry, stat in _entries(self.folder / right):
                if not S_ISDIR(stat.st_mode):
                    yield from _key_file((right, EVERY_SESSION, Path(entry.path)), stat)
                elif fault := _fault(right, entry, stat):
                    passed_over[Path(entry.path)] = fault
                else:
                    for inner, inner_stat in _entries(Path(entry.path)):
                        yield from _key_file((right, entry.name, Path(inner.path)), inner_stat)
        for path, fault in passed_over.items():
            if self._passed_over.get(path) != fault:
                logger.warning("folder of allowed keys passed over: %s: %s", path, fault)
        self._passed_over = passed_over


def make_allow_folder(folder: Path) -> None:
    """An allow-list's folders, where they are missing; raises KeyFileError."""
    make_private_folder(folder)
    for right in RIGHTS:
        make_private_folder(folder / right)


def _entries(folder: Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """What lies in a folder, hidden ones and those that are gone meanwhile left out."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            stat = entry.stat()
        except OSError:
            continue
        yield entry, stat


def _key_file(place: _Place, stat: os.stat_result) -> Iterator[tuple[_Place, _Stamp]]:
    if place[-1].name.endswith(PUBLIC) and not S_ISDIR(stat.st_mode):
        yield place, _Stamp(stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode)


def _fault(right: Right, entry: os.DirEntry[str], stat: os.stat_result) -> str | None:
    """Why nobody is allowed by what lies in a folder of a right; None where its name is that of
    sessions."""
    if right not in BY_SESSION:
        return f"who may {right} sees all sessions: put keys into {Path(entry.path).parent} itself"
    if not is_pattern(entry.name):
        return "its name is none of a session (A-Za-z0-9_.-, and * for any characters)"
    if stat.st_mode & 0o022:
        return f"others can write it, so they could allow themselves: chmod go-w {entry.path}"
    return None


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

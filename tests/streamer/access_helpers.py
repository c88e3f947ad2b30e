"""A daemon's folder of keys, clients with and without a place in it, and patience."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from streamer.access.daemon import ALLOWED, DAEMON, hand_out_own_keys, make_keys_folder
from streamer.access.keys import (
    PUBLIC,
    ClientKeys,
    Keypair,
    make_private_folder,
    new_keypair,
    read_public,
    write_public,
)

LIMIT_S = 30.0


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until ``condition()``, or fail after :data:`LIMIT_S`."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S} s for: {what}"
        time.sleep(0.01)


class KeyFolder:
    """What `splatstream keygen` leaves on the daemon's side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_keys_folder(folder)

    @property
    def daemon(self) -> bytes:
        """The daemon's public key."""
        return read_public(self.folder / f"{DAEMON}{PUBLIC}")

    def serve(self, run_dir: Path) -> None:
        """What the supervisor does before its processes start."""
        hand_out_own_keys(self.folder, run_dir)

    def allow(self, name: str, pair: Keypair, *rights: str) -> None:
        """Put a key on the list; a right may be for some sessions, `ingest/kitchen`."""
        for right in rights:
            path = self._path(name, right)
            make_private_folder(path.parent)
            write_public(path, pair.public)

    def revoke(self, name: str, *rights: str) -> None:
        """Take it off."""
        for right in rights:
            self._path(name, right).unlink()

    def client(self, name: str, *rights: str) -> ClientKeys:
        """A new client with these rights."""
        pair = new_keypair()
        self.allow(name, pair, *rights)
        return ClientKeys(pair, self.daemon)

    def stranger(self) -> ClientKeys:
        """Knows the daemon's public key, and nobody knows it."""
        return ClientKeys(new_keypair(), self.daemon)

    def deceived(self) -> ClientKeys:
        """Believes that another key is the daemon's."""
        return ClientKeys(new_keypair(), new_keypair().public)

    def _path(self, name: str, right: str) -> Path:
        return self.folder / ALLOWED / right / f"{name}{PUBLIC}"


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

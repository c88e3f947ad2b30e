"""What of keys and rights belongs to the daemon: its folder, its gates, its own two readers."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import zmq

from streamer.access.allowlist import AllowList, Grant, make_allow_folder
from streamer.access.gate import Gate
from streamer.access.keys import (
    PUBLIC,
    SECRET,
    ClientKeys,
    KeyFileError,
    new_keypair,
    read_public,
    read_secret,
    write_keypair,
    write_public,
)
from streamer.access.rights import RIGHTS, Rights

DAEMON = "daemon"
"""The name of the daemon's own key in its folder."""
ALLOWED = "allowed"
_OURSELVES = "ourselves"


def make_keys_folder(folder: Path, *, force: bool = False) -> None:
    """A daemon's folder: its key and an empty allow-list. Raises KeyFileError."""
    write_keypair(folder, DAEMON, new_keypair(), force=force)
    make_allow_folder(folder / ALLOWED)


def check_keys_folder(folder: Path) -> list[str]:
    """Warnings about a daemon's folder; raises KeyFileError where it cannot be used."""
    secret = folder / f"{DAEMON}{SECRET}"
    if not secret.exists():
        raise KeyFileError(
            f"keys: {folder} holds no {secret.name}: `splatstream keygen {DAEMON} --dir {folder}` "
            "makes the daemon's key"
        )
    read_secret(secret)
    allowed = folder / ALLOWED
    if not any((allowed / right).is_dir() for right in RIGHTS):
        raise KeyFileError(
            f"keys: {allowed} has no folder {', '.join(RIGHTS)}: make those and put the public "
            "keys of clients there"
        )
    for place in (folder, allowed, *(allowed / right for right in RIGHTS)):
        if place.exists() and place.stat().st_mode & 0o022:
            raise KeyFileError(
                f"keys: others can write into {place}, so they could allow themselves: "
                f"chmod go-w {place}"
            )
    listed = AllowList(allowed)
    listed.refresh()
    if not listed.grants:
        return [f"keys: {allowed} allows nobody yet; keys put there are taken without a restart"]
    return []


def hand_out_own_keys(folder: Path, run_dir: Path) -> None:
    """Give the daemon's own readers, its page and its status line, a key for this run."""
    secret = read_secret(folder / f"{DAEMON}{SECRET}")
    write_public(run_dir / f"{DAEMON}{PUBLIC}", secret.public)
    write_keypair(run_dir, _OURSELVES, new_keypair(), force=True)


def own_key_files(run_dir: Path) -> tuple[Path, Path]:
    """The files of `hand_out_own_keys`: (--key, --server-key)."""
    return run_dir / f"{_OURSELVES}{SECRET}", run_dir / f"{DAEMON}{PUBLIC}"


def own_keys(folder: Path | None, run_dir: Path) -> ClientKeys | None:
    """The same, read; None where the daemon has no keys."""
    return None if folder is None else ClientKeys.load(*own_key_files(run_dir))


def open_gate(
    context: zmq.Context[zmq.Socket[bytes]], folder: Path | None, run_dir: Path
) -> Gate | None:
    """The gate of a process that owns public sockets; None where the daemon has no keys."""
    if folder is None:
        return None
    ours = Grant("the daemon's own", Rights.everywhere("watch", "control"))
    always = {read_public(run_dir / f"{_OURSELVES}{PUBLIC}"): ours}
    key = read_secret(folder / f"{DAEMON}{SECRET}")
    _raise_descriptor_limit()
    return Gate(context, key, AllowList(folder / ALLOWED, always))


def _raise_descriptor_limit() -> None:
    # The usual 1024 would let a thousand strangers in their handshakes keep everybody else out.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))

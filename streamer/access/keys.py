"""CURVE keys as files, in the form of ZeroMQ certificates (czmq, `zmq.auth`).

A key is two files: NAME.key, the public half, which is handed round, and NAME.key_secret with both
halves, which stays where it was made.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from streamer.protocol.fields import SESSION_PATTERN

PUBLIC, SECRET = ".key", ".key_secret"


class KeyFileError(ValueError):
    """A key file that cannot be made or used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Keypair:
    """Both halves of a key, 40 characters of Z85 each."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Keypair(public={self.public!r})"


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs for a daemon that has keys: its own key and the daemon's public one."""

    own: Keypair
    daemon: bytes

    @classmethod
    def load(cls, key: str | Path, server_key: str | Path) -> ClientKeys:
        """From this client's secret file (NAME.key_secret) and the daemon's public one.

        Raises KeyFileError for a file that is not there, is no such key, or a secret one that
        others can read.
        """
        return cls(read_secret(Path(key)), read_public(Path(server_key)))

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket a CURVE client; before it connects."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.daemon)


def load_keys(key: Path | None, server_key: Path | None) -> ClientKeys | None:
    """`ClientKeys.load` of two options that go together; None where neither is given."""
    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        missing = "--key" if key is None else "--server-key"
        raise KeyFileError(
            f"{missing}: missing: --key (your NAME{SECRET}) and --server-key (the daemon's "
            f"daemon{PUBLIC}) go together"
        )
    return ClientKeys.load(key, server_key)


def new_keypair() -> Keypair:
    """A new key, from the system's random numbers."""
    if not zmq.has("curve"):
        raise KeyFileError(
            "this machine's pyzmq was built without CURVE: install its wheel from PyPI"
        )
    return Keypair(*zmq.curve_keypair())


def default_keys_dir() -> Path:
    """The user's folder for keys."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "splatstream" / "keys"


def write_keypair(folder: Path, name: str, pair: Keypair, *, force: bool = False) -> None:
    """Write NAME.key_secret (0600) and NAME.key into a folder (0700, made where it is missing).

    Raises KeyFileError for a name that cannot be one, a folder that cannot be written, and, unless
    ``force``, for a key of that name that is there: who replaces a key locks its owner out.
    """
    check_name(name)
    secret, public = folder / f"{name}{SECRET}", folder / f"{name}{PUBLIC}"
    for path in (secret, public):
        if path.exists() and not force:
            raise KeyFileError(
                f"{path} is there already: take another name, or --force to replace the key"
            )
    make_private_folder(folder)
    halves = f'    public-key = "{pair.public.decode()}"\n'
    _write(secret, f'{halves}    secret-key = "{pair.secret.decode()}"\n', 0o600)
    _write(public, halves, 0o644)


def write_public(path: Path, public: bytes) -> None:
    """Write a public key; raises KeyFileError."""
    _write(path, f'    public-key = "{public.decode()}"\n', 0o644)


def make_private_folder(folder: Path) -> None:
    """Make a folder (0700) where it is missing; raises KeyFileError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KeyFileError(f"{folder}: cannot be made ({error.strerror})") from None


def read_public(path: Path) -> bytes:
    """The public key in a file; raises KeyFileError."""
    return _read(path)[0]


def read_secret(path: Path) -> Keypair:
    """Both halves from a secret file; raises KeyFileError."""
    public, secret = _read(path)
    if secret is None:
        raise KeyFileError(f"{path}: holds no secret key: give the file NAME{SECRET}")
    if path.stat().st_mode & 0o077:
        raise KeyFileError(f"{path}: others on this machine can read it: chmod 600 {path}")
    if zmq.curve_public(secret) != public:
        raise KeyFileError(f"{path}: its two halves do not belong together: make a new key")
    return Keypair(public, secret)


def check_name(name: str) -> None:
    """Raises KeyFileError for what cannot be the name of a key."""
    if not re.match(SESSION_PATTERN, name):
        raise KeyFileError(
            f"name: {name!r} is none: 1 to 64 characters A-Za-z0-9_.-, the first a letter or digit"
        )


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        if not path.is_file():
            raise KeyFileError(f"{path}: there is no such key file (splatstream keygen makes one)")
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        if isinstance(error, KeyFileError):
            raise
        reason = getattr(error, "strerror", None) or "it is no ZeroMQ certificate"
        raise KeyFileError(f"{path}: cannot be read as a key ({reason})") from None
    for half in (public, secret):
        if half is not None and not _is_key(half):
            raise KeyFileError(f"{path}: {half[:60]!r} is no key of 40 characters")
    return public, secret


def _is_key(text: bytes) -> bool:
    try:
        return len(text) == 40 and len(z85.decode(text)) == 32
    except (KeyError, struct.error):
        return False


def _write(path: Path, halves: str, mode: int) -> None:
    # Made aside with its mode and renamed: nobody ever sees half a key, or a secret with wide
    # permissions.
    try:
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            os.fchmod(handle, mode)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(f"# ZeroMQ CURVE key of splatstream\nmetadata\ncurve\n{halves}")
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written ({error.strerror})") from None

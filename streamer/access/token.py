"""The token that the live page asks for: a file with a long random word."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from streamer.access.keys import KeyFileError, make_private_folder

MIN_CHARACTERS = 16


def page_token(path: Path) -> str:
    """The token in a file; a new one, in a file of its owner's only, where there is no file.

    Raises KeyFileError for a file that cannot be made or read, that others can read, or whose word
    is too short to be safe or has characters that an address cannot carry.
    """
    make_private_folder(path.parent)
    try:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read(path)
        token = secrets.token_urlsafe(32)
        with open(handle, "w", encoding="ascii") as file:
            file.write(token + "\n")
        return token
    except OSError as error:
        raise KeyFileError(f"{path}: no token there ({error.strerror})") from None


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise KeyFileError(f"{path}: others on this machine can read it: chmod 600 {path}")
    token = path.read_bytes().decode("ascii", "replace").strip()
    if len(token) < MIN_CHARACTERS or not token.replace("-", "").replace("_", "").isalnum():
        raise KeyFileError(
            f"{path}: holds no token of {MIN_CHARACTERS} or more characters A-Za-z0-9_-: remove "
            "it, and a new one is made"
        )
    return token

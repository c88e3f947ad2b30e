"""The options that every command has which connects to a daemon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.access import ClientKeys


@dataclass(kw_only=True, slots=True)
class KeyOptions:
    """For a daemon that has keys; base of a command's options."""

    key: Path | None = None
    """Your secret key file (NAME.key_secret of splatstream keygen), where the daemon has keys."""
    server_key: Path | None = None
    """The daemon's public key file (daemon.key)."""

    def keys(self) -> ClientKeys | None:
        """The keys, read; raises KeyFileError."""
        from streamer.access.keys import load_keys

        return load_keys(self.key, self.server_key)

"""What can be wrong with a journal; every message says what to do next."""

from __future__ import annotations

import errno
from pathlib import Path


class JournalError(ValueError):
    """A journal that cannot be written or read."""


class JournalFull(JournalError):
    """The disk, or the user's share of it, is full."""


class JournalReadOnly(JournalError):
    """The folder may not be written."""


class JournalGone(JournalError):
    """The folder or a file of it vanished."""


class JournalCorrupt(JournalError):
    """A file is damaged where a crash cannot have torn it."""


class JournalVersion(JournalError):
    """A file of another version of the format."""


class JournalBusy(JournalError):
    """Another daemon holds the session's folder."""


_REMEDIES: dict[int, tuple[type[JournalError], str]] = {
    errno.ENOSPC: (JournalFull, "free some of the disk, or choose another --session-dir"),
    errno.EDQUOT: (JournalFull, "free some of your quota, or choose another --session-dir"),
    errno.EFBIG: (JournalFull, "raise the limit of file sizes, or choose another --session-dir"),
    errno.EROFS: (JournalReadOnly, "mount it writable, or choose another --session-dir"),
    errno.EACCES: (JournalReadOnly, "let this user write there, or choose another --session-dir"),
    errno.EPERM: (JournalReadOnly, "let this user write there, or choose another --session-dir"),
    errno.ENOENT: (JournalGone, "bring the folder back, or restart the daemon to begin anew"),
    errno.ENOTDIR: (JournalGone, "a folder is needed there: move the file away"),
    errno.ESTALE: (JournalGone, "bring the network drive back"),
}


def journal_error(error: OSError, path: Path) -> JournalError:
    """The named error of a failed call on `path`."""
    kind, remedy = _REMEDIES.get(
        error.errno or 0, (JournalError, "look at the disk, or choose another --session-dir")
    )
    return kind(f"{path}: {error.strerror or error}: {remedy}")

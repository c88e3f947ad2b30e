"""Which files of a journal may go, where it is told to stay small."""

from __future__ import annotations

import logging
from pathlib import Path

from streamer.journal.journal import segments
from streamer.journal.reader import files_from
from streamer.keep import Keep

logger = logging.getLogger(__name__)


def remove_spare(folder: Path, epoch: int, needed_from: int, keep: Keep, now: float) -> list[Path]:
    """Remove the oldest files while there is more than is to be kept, and none that
    ``read_journal(folder, epoch, from_seq=needed_from)`` reads; a file under way is always one of
    these.

    Args:
        folder: the session's.
        needed_from: the least frame that anybody may go on from.
        now: seconds since 1970.

    Returns:
        those that are gone, the oldest first.
    """
    found = segments(folder, epoch)
    needed = files_from(found, needed_from)
    sizes = [(segment.path, segment.path.stat()) for segment in found]
    total = sum(stat.st_size for _, stat in sizes)
    gone: list[Path] = []
    for path, stat in sizes[: len(found) - len(needed)]:
        too_much = keep.max_bytes is not None and total > keep.max_bytes
        too_old = keep.max_age_s is not None and now - stat.st_mtime > keep.max_age_s
        if not (too_much or too_old):
            break
        path.unlink()
        total -= stat.st_size
        gone.append(path)
    if gone:
        logger.info(
            "%s: %d files of the journal removed, up to %s (journal.keep); %.1f MB stay",
            folder, len(gone), gone[-1].name, total / 1e6,
        )  # fmt: skip
    return gone

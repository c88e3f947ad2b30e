"""Reading a journal from any frame on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamer.journal.entries import Begin, FrameEntry, Rejected
from streamer.journal.errors import JournalCorrupt
from streamer.journal.journal import Segment, segments
from streamer.journal.scan import Recorded, Tail, corrupt, scan


def read_journal(
    folder: Path,
    epoch: int | None = None,
    *,
    from_seq: int = 0,
    durable_end: tuple[Path, int] | None = None,
    parts: bool = True,
) -> Iterator[Recorded]:
    """The entries of a session's journal, in order, every frame once.

    Args:
        folder: the session's.
        epoch: None is the newest.
        from_seq: begin early enough for this frame, and for all that was decided after the frame
            before it.
        durable_end: of a journal under way, `Journal.durable_end`.
        parts: whether frames come with their pictures; without, checksums are not looked at.

    Raises:
        JournalError: a file cannot be read, is damaged, or of another version.
    """
    found = segments(folder)
    if found and epoch is None:
        epoch = found[-1].epoch
    found = [segment for segment in found if segment.epoch == epoch]
    if durable_end is not None:
        names = [segment.path for segment in found]
        if durable_end[0] in names:
            found = found[: names.index(durable_end[0]) + 1]
    yield from _read(files_from(found, from_seq), durable_end, parts=parts)


def read_file(path: Path) -> Iterator[Recorded]:
    """The entries of one file, wherever it lies; a torn end is passed over.

    Raises:
        JournalError: it cannot be read, is no journal, or of another version.
    """
    yield from _read([Segment(path, 0, 0)], None, parts=True)


def files_from(found: list[Segment], from_seq: int) -> list[Segment]:
    """Of the files of an epoch, in order, those that `read_journal` reads from this frame on."""
    for place in range(len(found) - 1, 0, -1):
        # A file that begins with this very frame may follow a correction that came before it.
        if first_seq(found[place].path) < from_seq:
            return found[place:]
    return found


def first_seq(path: Path) -> int:
    """The first seq that may be in a file; all of them where its beginning is not whole."""
    for recorded in scan(path, Tail(), parts=False, verify=False):
        if isinstance(recorded.entry, Begin):
            return recorded.entry.next_seq
        break
    return 2**63


def _read(
    found: list[Segment], durable_end: tuple[Path, int] | None, *, parts: bool
) -> Iterator[Recorded]:
    next_seq = 0
    torn: tuple[Path, Tail] | None = None
    for segment in found:
        limit = durable_end[1] if durable_end and durable_end[0] == segment.path else None
        tail = Tail()
        for recorded in scan(segment.path, tail, limit=limit, verify=parts, parts=parts):
            entry = recorded.entry
            if isinstance(entry, Begin):
                if torn is not None and entry.next_seq > next_seq:
                    raise corrupt(*torn)
                torn = None
                next_seq = max(next_seq, entry.next_seq)
            elif isinstance(entry, FrameEntry | Rejected):
                seq = entry.header.seq if isinstance(entry, FrameEntry) else entry.seq
                if seq < next_seq:
                    # Written again after a write that failed half-way.
                    continue
                next_seq = seq + 1
            yield recorded
        if tail.damage and tail.whole == 0 and len(found) == 1:
            raise JournalCorrupt(
                f"{segment.path}: not a journal ({tail.damage}): give a session's name, or an "
                ".mcap file from a session's journal folder"
            )
        if tail.damage:
            torn = (segment.path, tail)

"""What a session was sent, on disk: MCAP files that any robotics tool opens.

`Journal` writes, `Committer` does so in a thread of its own, `read_journal` reads back.
"""

from streamer.journal.committer import Committer, JournalQueue, Report
from streamer.journal.entries import (
    AnyEntry,
    BatchSent,
    Begin,
    Corrected,
    Dropped,
    FrameEntry,
    History,
    Opened,
    Overtook,
    Rejected,
)
from streamer.journal.errors import (
    JournalBusy,
    JournalCorrupt,
    JournalError,
    JournalFull,
    JournalGone,
    JournalReadOnly,
    JournalVersion,
)
from streamer.journal.files import Files
from streamer.journal.journal import SEGMENT_BYTES, Item, Journal, segments
from streamer.journal.reader import first_seq, read_file, read_journal
from streamer.journal.retention import remove_spare
from streamer.journal.scan import Recorded

__all__ = [
    "SEGMENT_BYTES",
    "AnyEntry",
    "BatchSent",
    "Begin",
    "Committer",
    "Corrected",
    "Dropped",
    "Files",
    "FrameEntry",
    "History",
    "Item",
    "Journal",
    "JournalBusy",
    "JournalCorrupt",
    "JournalError",
    "JournalFull",
    "JournalGone",
    "JournalQueue",
    "JournalReadOnly",
    "JournalVersion",
    "Opened",
    "Overtook",
    "Recorded",
    "Rejected",
    "Report",
    "first_seq",
    "read_file",
    "read_journal",
    "remove_spare",
    "segments",
]

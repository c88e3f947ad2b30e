"""What the ingest writes down for its successor, should it be killed: a few bytes a session.

Two files in the daemon's run folder, which lives in memory or in the temp folder and goes with the
daemon. The counts are rewritten in place through a memory map: the kernel keeps them whatever
happens to this process, and no frame waits for a disk. This is no journal: frames are lost.

Where the run folder's disk is full a successor has the journal alone to go by; nobody is refused.
"""

from __future__ import annotations

import logging
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from streamer.protocol import ProtocolError, pack_header, read_header
from streamer.protocol.internal import Counts
from streamer.protocol.messages import Hello

logger = logging.getLogger(__name__)

_LAYOUT = struct.Struct("<5q")


@dataclass(frozen=True, slots=True)
class Note:
    """A session as it stood: its sender's HELLO with all cameras, and its counts."""

    hello: Hello
    next_seq: int
    counts: Counts


class SessionNotes:
    """The two files of one session."""

    def __init__(self, folder: Path, session: str) -> None:
        self._hello = folder / f"{session}.hello"
        self._counts_path = folder / f"{session}.counts"
        try:
            self._counts = self._map_counts()
        except OSError as error:
            self._lack(error)
            self._counts = mmap.mmap(-1, _LAYOUT.size)

    def _map_counts(self) -> mmap.mmap:
        self._hello.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._counts_path, "a+b") as file:
            if file.tell() < _LAYOUT.size:
                file.write(bytes(_LAYOUT.size))
                file.flush()
            return mmap.mmap(file.fileno(), _LAYOUT.size)

    def write_hello(self, hello: Hello) -> None:
        """Replace the sender's HELLO; a reader sees the old or the new one."""
        aside = self._hello.with_suffix(".new")
        try:
            aside.write_bytes(pack_header(hello, hello.KIND))
            aside.replace(self._hello)
        except OSError as error:
            self._lack(error)

    def _lack(self, error: OSError) -> None:
        logger.warning(
            "%s: %s: free some of the disk, or set TMPDIR elsewhere; should the ingest die, it "
            "goes on from the journal alone",
            self._hello.parent, error.strerror or error,
        )  # fmt: skip

    def write_counts(self, next_seq: int, counts: Counts) -> None:
        """Replace the counts."""
        _LAYOUT.pack_into(
            self._counts,
            0,
            next_seq,
            counts.frames_in,
            counts.waiting,
            counts.dropped,
            counts.rejected,
        )

    def close(self) -> None:
        """Let go of the map; the files stay."""
        self._counts.close()

    def remove(self) -> None:
        """Forget the session."""
        self.close()
        self._hello.unlink(missing_ok=True)
        self._counts_path.unlink(missing_ok=True)


def read_notes(folder: Path) -> dict[str, Note]:
    """The sessions that an ingest of this run folder has known."""
    notes = {}
    for path in sorted(folder.glob("*.hello")):
        counts_path = path.with_suffix(".counts")
        try:
            hello = read_header(path.read_bytes(), Hello.KIND, Hello)
            values = _LAYOUT.unpack(counts_path.read_bytes())
        except (OSError, struct.error, ProtocolError):
            continue
        next_seq, frames_in, waiting, dropped, rejected = values
        notes[hello.session] = Note(
            hello,
            next_seq,
            Counts(frames_in=frames_in, waiting=waiting, dropped=dropped, rejected=rejected),
        )
    return notes

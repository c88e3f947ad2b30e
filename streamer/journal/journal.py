"""The journal of one session: numbered files in a folder, written in durable groups."""

from __future__ import annotations

import copy
import fcntl
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.camera import CameraModel
from streamer.conventions import wxyz_from_matrix
from streamer.journal import foxglove
from streamer.journal.entries import AnyEntry, FrameEntry, History
from streamer.journal.errors import JournalBusy, JournalError, JournalGone, journal_error
from streamer.journal.files import Files
from streamer.journal.scan import Tail, corrupt, scan
from streamer.journal.segment import MAGIC, Attached, SegmentWriter
from streamer.protocol import Buffer

logger = logging.getLogger(__name__)

FOLDER = "journal"
SEGMENT_BYTES = 64 << 20
"""A restart reads the last file whole: so many bytes take some tens of milliseconds."""
_NAME = re.compile(r"^(\d{6,})-(\d{6,})\.mcap$")


def program_version() -> str:
    """Of this program, as it is installed."""
    with suppress(PackageNotFoundError):
        return version("splatstream")
    return "unknown"


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of a journal, by its name."""

    path: Path
    epoch: int
    index: int


@dataclass(frozen=True, slots=True)
class Item:
    """An entry to be written; a frame with the parts of its message and its pose.

    Args:
        c2w: (4, 4) camera to world with OpenCV axes, for those who look at the file.
    """

    entry: AnyEntry
    parts: tuple[Buffer, ...] = ()
    camera: CameraModel | None = None
    c2w: NDArray[np.float64] | None = None


def segments(folder: Path, epoch: int | None = None) -> list[Segment]:
    """The files of a session's journal in order, of one epoch or of all.

    Args:
        folder: the session's.
    """
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in (folder / FOLDER).iterdir():
            match = _NAME.match(path.name)
            if match is not None and epoch in (None, int(match[1])):
                found.append(Segment(path, int(match[1]), int(match[2])))
    return sorted(found, key=lambda segment: (segment.epoch, segment.index))


class Journal:
    """Appends to a session's history. One thread writes.

    Raises:
        JournalError: a subclass names what is wrong.
    """

    def __init__(
        self,
        folder: Path,
        history: History,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
    ) -> None:
        self.folder = folder
        self.history = history
        """As of the last durable entry."""
        self._files = files or Files()
        self._segment_bytes = segment_bytes
        self._segment: SegmentWriter | None = None
        self._durable_size = 0
        self._known_cameras: dict[str, CameraModel] = {}
        self.durable_end: tuple[Path, int] | None = None
        """The last file and its durable bytes: a reader in another thread goes no further."""
        try:
            self._files.make_folder(folder / FOLDER)
            self._lock = _lock(folder)
        except OSError as error:
            raise journal_error(error, folder) from None

    @classmethod
    def open(
        cls,
        folder: Path,
        session: str,
        epoch: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
    ) -> Journal:
        """Go on where the files of this epoch end. What a crash tore off the last of them is cut
        away and reported in the log; files of earlier epochs are removed.

        Raises:
            JournalCorrupt: a file is damaged where no crash can have torn it.
            JournalVersion: a file is of another version.
            JournalBusy: another daemon holds the folder.
        """
        journal = cls(folder, History(session, epoch), segment_bytes=segment_bytes, files=files)
        try:
            journal._recover()
        except OSError as error:
            journal.close()
            raise journal_error(error, folder) from None
        except JournalError:
            journal.close()
            raise
        return journal

    def write(self, items: Sequence[Item]) -> None:
        """Append all of these; they are durable when this returns, and none is when it raises.

        Raises:
            JournalError: nothing was written; the same items may be written again.
        """
        history = copy.copy(self.history)
        known = dict(self._known_cameras)
        path = self.folder
        try:
            if self._segment is None:
                path = self._next_path()
                known = {}
                self._durable_size = 0
                library = f"splatstream {program_version()}"
                self._segment = SegmentWriter(self._files, path, history.session, library)
                self._segment.append(history.begin(program_version()))
            for item in items:
                self._append(item, known)
                history.take(item.entry)
            path = self._segment.path
            self._segment.sync()
            if self._durable_size == 0:
                self._files.sync_folder(path.parent)
            if not self._segment.is_in_place():
                raise JournalGone(
                    f"{path}: the file was moved or deleted while the daemon wrote it: bring the "
                    "folder back, or RESET the session to begin anew"
                )
        except (OSError, JournalError) as error:
            self._undo()
            raise journal_error(error, path) if isinstance(error, OSError) else error from None
        self._durable_size = self._segment.size
        self.durable_end = (path, self._durable_size)
        self.history, self._known_cameras = history, known
        if self._segment.size >= self._segment_bytes:
            self._finish()

    def close(self) -> None:
        """Close the file under way with its footer, and let go of the folder."""
        self._finish()
        os.close(self._lock)

    def begin_epoch(self, epoch: int) -> None:
        """Forget everything: the session was reset. Its files go."""
        self._finish()
        self.history = History(self.history.session, epoch, hello=self.history.hello)
        self.durable_end = None
        with suppress(OSError):
            self._remove_older()

    def _append(self, item: Item, known: dict[str, CameraModel]) -> None:
        assert self._segment is not None
        entry = item.entry
        if not isinstance(entry, FrameEntry):
            self._segment.append(entry)
            return
        assert item.camera is not None, "a frame comes with its camera"
        header, name = entry.header, entry.header.camera
        attached = []
        if known.get(name) != item.camera:
            known[name] = item.camera
            message = foxglove.calibration(header.stamp_ns, name, item.camera)
            attached.append(Attached(name, "calibration", "CameraCalibration", "", [message]))
        attached.append(_image(entry, item.parts[0]))
        rest = list(item.parts[1:])
        if header.depth is not None:
            attached.append(Attached(name, "depth", "", header.depth.encoding, [rest.pop(0)]))
        if header.mask is not None:
            attached.append(Attached(name, "mask", "", header.mask.encoding, [rest.pop(0)]))
        if item.c2w is not None:
            quaternion = wxyz_from_matrix(item.c2w[:3, :3]).tolist()
            pose = foxglove.pose_in_frame(header.stamp_ns, item.c2w, quaternion)
            attached.append(Attached(name, "pose", "PoseInFrame", "", [pose]))
        self._segment.append(entry, attached, header.seq, header.stamp_ns)

    def _undo(self) -> None:
        """After a failure: the file ends where it was durable, and another one will follow it.
        What a failed fsync left behind cannot be known, so nothing is written behind it."""
        segment, self._segment = self._segment, None
        if segment is None:
            return
        with suppress(OSError):
            segment.abandon(self._durable_size)
        if self._durable_size == 0:
            with suppress(OSError):
                segment.path.unlink()

    def _finish(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            segment.finish()
        except OSError as error:
            # Whole without its footer: readers take it as it is.
            logger.warning("%s", journal_error(error, segment.path))
            with suppress(OSError):
                segment.abandon(self._durable_size)

    def _next_path(self) -> Path:
        epoch = self.history.epoch
        last = segments(self.folder, epoch)
        index = last[-1].index + 1 if last else 0
        return self.folder / FOLDER / f"{epoch:06d}-{index:06d}.mcap"

    def _recover(self) -> None:
        self._remove_older()
        found = segments(self.folder, self.history.epoch)
        while found:
            last = found.pop().path
            tail = Tail()
            self.durable_end = (last, last.stat().st_size)
            for recorded in scan(last, tail, parts=False):
                self.history.take(recorded.entry)
            if tail.closed:
                return
            if tail.whole or (tail.damage and _is_closed(last)):
                self._repair(last, tail)
                return
            # Torn before its first entry was whole: nothing in it was ever acknowledged.
            self.durable_end = None
            logger.warning("%s: %d bytes without a whole entry are removed", last, tail.size)
            last.unlink()

    def _repair(self, path: Path, tail: Tail) -> None:
        """Cut a torn file off and close it."""
        if tail.damage and _is_closed(path):
            raise corrupt(path, tail)
        if tail.whole < tail.size:
            logger.warning(
                "%s: torn off at byte %d of %d (%s): nothing behind it had been acknowledged; cut",
                path, tail.whole, tail.size, tail.damage or "an entry is not whole",
            )  # fmt: skip
        whole = Tail()
        for _ in scan(path, whole, limit=tail.whole, verify=False, parts=False):
            pass
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._files.cut(descriptor, tail.whole)
            self._files.write(descriptor, [whole.contents.end(tail.whole)])
            self._files.sync(descriptor)
        finally:
            os.close(descriptor)

    def _remove_older(self) -> None:
        for segment in segments(self.folder):
            if segment.epoch < self.history.epoch:
                segment.path.unlink()


def _image(entry: FrameEntry, part: Buffer) -> Attached:
    header = entry.header
    if header.encoding in ("jpeg", "png"):
        pieces = foxglove.compressed_image(header.stamp_ns, header.camera, header.encoding, part)
        return Attached(header.camera, "image", "CompressedImage", "", pieces)
    pieces = foxglove.raw_image(
        header.stamp_ns, header.camera, header.encoding, header.width, header.height, part
    )
    return Attached(header.camera, "image", "RawImage", "", pieces)


def _is_closed(path: Path) -> bool:
    """Whether a file ends as a closed one does, whatever is wrong before that."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - len(MAGIC)))
        # A file of nothing but its first bytes is an opened one.
        return end > 2 * len(MAGIC) and file.read() == MAGIC


def _lock(folder: Path) -> int:
    """Hold the folder; the kernel lets go when this process ends, however it does."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise JournalBusy(
            f"{folder}: another daemon writes there: give this one its own --session-dir, or use "
            "another session name"
        ) from None
    return descriptor

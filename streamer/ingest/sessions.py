"""A session as the ingest sees it: who sends, what it has sent, and the process behind it."""

from __future__ import annotations

import enum
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.camera import CameraModel
from streamer.frames import Frame
from streamer.ingest.cameras import camera_model, expected_bytes
from streamer.ingest.decoder import Job
from streamer.ingest.notes import Note, SessionNotes
from streamer.ingest.poses import axes_from_opencv
from streamer.ingest.recorder import Recorder
from streamer.ingest.stream import Stream, StreamLimits
from streamer.journal import BatchSent, History, Opened
from streamer.protocol.internal import State
from streamer.protocol.messages import CameraHeader, Hello

if TYPE_CHECKING:
    from streamer.ingest.catchup import CatchUp


class Process(enum.Enum):
    """What is known of the process of a session."""

    NONE = enum.auto()
    ASKED = enum.auto()
    STARTED = enum.auto()
    LOST = enum.auto()
    ENDING = enum.auto()
    """It was told to end, and takes nothing more."""


@dataclass(slots=True)
class Sender:
    """The one client that may send frames into a session."""

    hello: Hello
    cameras: dict[str, CameraModel]
    identity: bytes | None
    heard: float
    said_bye: bool = False

    @property
    def convention(self) -> str:
        """Of its poses."""
        assert self.hello.convention is not None
        return self.hello.convention


@dataclass(slots=True)
class Link:
    """The session's process, by its own word."""

    process: Process = Process.NONE
    asked_at: float = 0.0
    epoch: int = 0
    life: int = 0
    want: int = 0
    batch: int = 0
    """Frames that it takes at a time; 0 until it has spoken."""
    busy: bool = True
    """Whether it has something to do; until it has spoken it may have."""
    sent_next: int = 0
    """Last seq handed over + 1: a STATE that does not know it yet was written before."""
    lacks: State | None = None
    """What a new process said of itself; whether it lacks frames is yet to be looked at."""
    catch_up: CatchUp | None = None
    """What it lacks, on its way from the journal; nothing else goes to it before."""


@dataclass(slots=True)
class FrameLog:
    """Stamp and camera of every frame, 10 bytes each; kept only where a correction needs them:
    for poses of a body that carries cameras in several places."""

    cameras: list[str] = field(default_factory=list)
    seqs: array[int] = field(default_factory=lambda: array("q"))
    stamps: array[int] = field(default_factory=lambda: array("q"))
    indices: array[int] = field(default_factory=lambda: array("H"))

    def append(self, seq: int, stamp_ns: int, camera: str) -> None:
        """Note a received frame."""
        if camera not in self.cameras:
            self.cameras.append(camera)
        self.seqs.append(seq)
        self.stamps.append(stamp_ns)
        self.indices.append(self.cameras.index(camera))

    def find(self, keys: Iterable[int], by: str) -> dict[int, str]:
        """Camera of each of the frames named by seq or stamp, those that are known."""
        table = np.frombuffer(self.seqs if by == "seq" else self.stamps, np.int64)
        indices = np.frombuffer(self.indices, np.uint16)
        wanted = np.array(list(keys), np.int64)
        rows = np.flatnonzero(np.isin(table, wanted)).tolist()
        return {int(table[row]): self.cameras[indices[row]] for row in rows}


class Session:
    """Everything that the ingest holds of one session."""

    def __init__(
        self, name: str, limits: StreamLimits, folder: Path, recorder: Recorder | None
    ) -> None:
        self.name = name
        self.stream = Stream(limits=limits, recording=recorder is not None)
        self.recorder = recorder
        self.link = Link()
        self.sender: Sender | None = None
        self.notes = SessionNotes(folder, name)
        self.flush_upto: int | None = None
        self.last_frame_at = 0.0
        self.last_counts_at = 0.0
        self.generation = 0
        self.frame_log: FrameLog | None = None
        self.active_at = time.monotonic()
        """When it was last sent into, worked, or was asked for."""
        self.wanted = False
        """Whether a reader asked for it: it comes back should it be on its way out."""

    def restore(self, note: Note | None, history: History | None, now: float) -> None:
        """Go on as a killed ingest, or a daemon before this one, left the session.

        Args:
            note: what an ingest of this daemon knew of it.
            history: what its journal holds.
        """
        hello = note.hello if note is not None else None
        if history is not None:
            hello = hello or history.hello
            counts, next_seq = history.counts, history.next_seq
            if note is not None and note.next_seq > next_seq:
                # Acknowledged while the journal could not be written; gone with the ingest.
                lost = note.next_seq - next_seq
                counts = msgspec.structs.replace(
                    counts, frames_in=counts.frames_in + lost, dropped=counts.dropped + lost
                )
                next_seq = note.next_seq
                self.stream.drop_reasons["lost"] += lost
            self.stream.restore(counts, next_seq)
        elif note is not None:
            self.stream.restore(note.counts, note.next_seq)
        if hello is not None:
            cameras = {name: camera_model(c) for name, c in (hello.cameras or {}).items()}
            self.sender = Sender(hello, cameras, None, now, said_bye=note is None)
            self.stream.open(hello.policy, expected_bytes(cameras))
            self._keep_log_if_needed()
        self.last_frame_at = now
        self.save_counts()

    @property
    def holds_frames(self) -> bool:
        """Whether a HELLO without `resume` would mix two streams."""
        return self.stream.received >= 0

    def open(self, hello: Hello, cameras: dict[str, CameraModel], peer: bytes, now: float) -> None:
        """`peer` sends from now on."""
        self.sender = Sender(hello, cameras, peer, now)
        self.stream.open(hello.policy, expected_bytes(cameras))
        self._note_sender()

    def add_cameras(self, headers: dict[str, CameraHeader], models: dict[str, CameraModel]) -> None:
        """More cameras of the present sender."""
        assert self.sender is not None
        self.sender.cameras.update(models)
        known = self.sender.hello.cameras or {}
        self.sender.hello = msgspec.structs.replace(self.sender.hello, cameras={**known, **headers})
        self._note_sender()

    def _note_sender(self) -> None:
        assert self.sender is not None
        self.notes.write_hello(self.sender.hello)
        if self.recorder is not None:
            self.recorder.put(Opened(hello=self.sender.hello))
        self._keep_log_if_needed()

    def note_batch(self, frames: list[Frame]) -> None:
        """These went to the session's process together."""
        if self.recorder is not None:
            self.recorder.put(BatchSent(seqs=[frame.seq for frame in frames]))

    def forget_frames(self) -> None:
        """The map was reset: the next frame is the first one."""
        old = self.stream
        self.stream = Stream(limits=old.limits, recording=old.recording, stalled=old.stalled)
        self.link.sent_next = 0
        self.flush_upto = None
        self.generation += 1
        if self.frame_log is not None:
            self.frame_log = FrameLog()
        self.save_counts()

    def to_decode(self) -> list[Job]:
        """What the decoder is to be handed now."""
        ahead = self.link.batch or self.stream.most_waiting
        return self.stream.to_decode(time.monotonic_ns(), ahead)

    @property
    def flushes(self) -> bool:
        """Whether all frames before a FLUSH have their verdict: a partial batch is to go out."""
        pending = self.stream.pending
        return self.flush_upto is not None and (not pending or pending[0].seq > self.flush_upto)

    def coming(self) -> list[tuple[int, int]] | None:
        """(seq, stamp) of the frames that the process is still to be sent; None while it is to be
        sent corrections too."""
        here = [(frame.seq, frame.stamp_ns) for frame in self.stream.waiting]
        if self.link.lacks is not None:
            return None
        if self.link.catch_up is None:
            return here
        before = self.link.catch_up.waiting()
        return None if before is None else before + here

    @property
    def recorded(self) -> bool:
        """Whether it holds frames, and all of them are in its journal."""
        return bool(self.stream.accepted and self.recorder is not None and self.recorder.queue)

    def leave(self) -> None:
        """Forget it here; what is on the disk stays."""
        if self.recorder is not None:
            self.recorder.close()
        self.notes.remove()

    @property
    def epoch(self) -> int:
        """As far as it is known; 0 before the session has one."""
        recorded = self.recorder is not None and self.recorder.queue is not None
        return max(self.link.epoch, self.recorder.epoch if recorded and self.recorder else 0)

    def save_counts(self) -> None:
        """For a successor of this process."""
        self.notes.write_counts(self.stream.settled + 1, self.stream.counts)

    def axes(
        self, keys: list[int], by: str, convention: str | None
    ) -> dict[int, NDArray[np.float64]] | NDArray[np.float64]:
        """What turns poses of these frames into poses with OpenCV axes: one matrix for all, or
        one a frame where the cameras sit in several places of the body.

        Args:
            convention: of the poses; None is the sender's of the frames.

        Raises:
            ConventionError: ros_body for cameras whose place on the body was never said.
        """
        if self.sender is None:
            return np.eye(4)
        convention = convention or self.sender.convention
        cameras = self.sender.cameras
        if convention != "ros_body" or self.frame_log is None:
            return axes_from_opencv(convention, next(iter(cameras.values()), None))
        return {
            key: axes_from_opencv(convention, cameras[name])
            for key, name in self.frame_log.find(keys, by).items()
            if name in cameras
        }

    def _keep_log_if_needed(self) -> None:
        assert self.sender is not None
        places = {camera.T_body_camera for camera in self.sender.cameras.values()}
        if len(places) > 1 and self.frame_log is None:
            self.frame_log = FrameLog()

"""A session as the ingest sees it: who sends, what it has sent, and the process behind it."""

from __future__ import annotations

import enum
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.camera import CameraModel
from streamer.ingest.notes import Note, SessionNotes
from streamer.ingest.poses import axes_from_opencv
from streamer.ingest.stream import Stream, StreamLimits
from streamer.protocol.limits import MAX_PART_BYTES
from streamer.protocol.messages import CameraHeader, Hello


class Process(enum.Enum):
    """What is known of the process of a session."""

    NONE = enum.auto()
    ASKED = enum.auto()
    STARTED = enum.auto()
    LOST = enum.auto()


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
    want: int = 0
    sent_next: int = 0
    """Last seq handed over + 1: a STATE that does not know it yet was written before."""


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

    def __init__(self, name: str, limits: StreamLimits, folder: Path) -> None:
        self.name = name
        self.stream = Stream(limits=limits)
        self.link = Link()
        self.sender: Sender | None = None
        self.notes = SessionNotes(folder, name)
        self.flush_upto: int | None = None
        self.last_frame_at = 0.0
        self.last_counts_at = 0.0
        self.generation = 0
        self.frame_log: FrameLog | None = None

    @classmethod
    def from_note(cls, note: Note, limits: StreamLimits, folder: Path, now: float) -> Session:
        """The session as a killed ingest left it."""
        session = cls(note.hello.session, limits, folder)
        cameras = {name: camera_model(c) for name, c in (note.hello.cameras or {}).items()}
        session.sender = Sender(note.hello, cameras, None, now)
        session.stream.restore(note.counts, note.next_seq)
        session.stream.open(note.hello.policy, expected_bytes(cameras))
        if note.counts.frames_in:
            # It has a process, which will say so itself.
            session.link.process = Process.LOST
        session.save_counts()
        return session

    @property
    def holds_frames(self) -> bool:
        """Whether a HELLO without `resume` would mix two streams."""
        return self.stream.received >= 0

    def open(self, hello: Hello, cameras: dict[str, CameraModel], peer: bytes, now: float) -> None:
        """`peer` sends from now on."""
        self.sender = Sender(hello, cameras, peer, now)
        self.stream.open(hello.policy, expected_bytes(cameras))
        self.notes.write_hello(hello)
        self._keep_log_if_needed()

    def add_cameras(self, headers: dict[str, CameraHeader], models: dict[str, CameraModel]) -> None:
        """More cameras of the present sender."""
        assert self.sender is not None
        self.sender.cameras.update(models)
        known = self.sender.hello.cameras or {}
        self.sender.hello = msgspec.structs.replace(self.sender.hello, cameras={**known, **headers})
        self.notes.write_hello(self.sender.hello)
        self._keep_log_if_needed()

    def forget_frames(self) -> None:
        """The map was reset: the next frame is the first one."""
        self.stream = Stream(limits=self.stream.limits)
        self.link.sent_next = 0
        self.flush_upto = None
        self.generation += 1
        if self.frame_log is not None:
            self.frame_log = FrameLog()
        self.save_counts()

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


def camera_model(header: CameraHeader) -> CameraModel:
    """The camera of a header.

    Raises:
        CameraError, PoseError: parameters that no camera has.
    """
    body = None if header.T_body_camera is None else tuple(header.T_body_camera)
    return CameraModel(header.model, header.width, header.height, tuple(header.params), body)


def expected_bytes(cameras: dict[str, CameraModel]) -> int:
    """What a frame may take before any was seen."""
    largest = max((c.width * c.height * 3 for c in cameras.values()), default=1)
    return min(largest, MAX_PART_BYTES)

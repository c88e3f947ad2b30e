"""Questions to a daemon: what it holds, snapshots, pictures, files, and the five orders."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from gs_decoder import Have, Update
from streamer.access import ClientKeys
from streamer.access.handshakes import HandshakeWatch
from streamer.addresses import connect
from streamer.protocol import Header, Message, ProtocolError, decode, encode
from streamer.protocol.messages import CameraHeader
from streamer.protocol.requests import (
    CloseRequest,
    ExportRequest,
    KeyframeEntry,
    KeyframesAnswer,
    KeyframesRequest,
    ManifestAnswer,
    ManifestRequest,
    PauseRequest,
    RenderAnswer,
    RenderRequest,
    Request,
    RequestError,
    ResetRequest,
    ResumeRequest,
    SaveRequest,
    SessionEntry,
    SessionsAnswer,
    SessionsRequest,
    SnapshotDone,
    SnapshotRequest,
    StatusAnswer,
    StatusRequest,
)
from streamer.protocol.update_headers import UPDATE_HEADERS
from streamer.protocol.updates import read_update

DEFAULT_REQUESTS = "tcp://127.0.0.1:5557"
_SLOW, _SLOWEST = 12, 70
"""How often the usual time some answers may take: pictures and orders; meshes."""
_ASK_AGAIN_S = 0.5
MAX_ANSWER_PARTS = 1 << 20
"""A thumbnail per key frame: the daemon is trusted not to flood its reader."""


class RequestRefused(ValueError):
    """The daemon answered with an ERROR.

    Args:
        code: one of the protocol's codes, for programs.
        reason: field, value and remedy, for people.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class DaemonSilent(TimeoutError):
    """The daemon did not answer in time."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What brings a reader to the map's state at ``seq`` of ``epoch``."""

    epoch: int
    seq: int
    updates: list[Update]


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A frame that the map was built from."""

    seq: int
    stamp_ns: int
    camera: str
    chunk: int | None
    c2w: np.ndarray
    """(4, 4) float64, the sender's world, OpenCV camera axes."""
    thumbnail: bytes | None
    """JPEG, where it was asked for."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered view of a map."""

    png: bytes
    alpha_mean: float
    """How much of it the map covers, 0..1."""
    depth_png: bytes | None = None
    """16-bit PNG of z-depth, where it was asked for."""
    depth_unit_m: float | None = None
    """Metres a step of it stands for."""

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8; of a picture with alpha its colours alone."""
        return self._read(self.png, "IMREAD_COLOR_RGB")

    def rgba(self) -> np.ndarray:
        """(H, W, 4) uint8, colours not multiplied by alpha; for a picture asked for with it."""
        return self._read(self.png, "IMREAD_UNCHANGED")[..., [2, 1, 0, 3]]

    def depth(self) -> np.ndarray:
        """(H, W) float32 z-depth in metres; 0 where the map covers less than half of the pixel."""
        if self.depth_png is None or self.depth_unit_m is None:
            raise ValueError("this picture came without depth: ask with render(..., depth=True)")
        steps = self._read(self.depth_png, "IMREAD_UNCHANGED")
        return steps.astype(np.float32) * np.float32(self.depth_unit_m)

    @staticmethod
    def _read(png: bytes, how: str) -> np.ndarray:
        import cv2

        image = cv2.imdecode(np.frombuffer(png, np.uint8), getattr(cv2, how))
        assert image is not None
        return image


class Requests:
    """A connection to a daemon's requests address. One thread at a time; a context manager.

    Every method raises RequestRefused where the daemon says no, and DaemonSilent where it says
    nothing for ``timeout`` seconds.
    """

    def __init__(
        self,
        address: str = DEFAULT_REQUESTS,
        *,
        timeout: float = 10.0,
        keys: ClientKeys | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._keys = keys
        self._context = context or zmq.Context.instance()
        self._numbers = itertools.count(1)
        self._socket = self._connect()

    def sessions(self) -> list[SessionEntry]:
        """The sessions that run; of those that have ended the folder knows."""
        return self._ask(SessionsRequest(id=next(self._numbers))).read(SessionsAnswer).sessions

    def manifest(self, session: str) -> ManifestAnswer:
        """Epoch, seq and (chunk, content, revision, count) of every chunk."""
        request = ManifestRequest(session=session, id=next(self._numbers))
        return self._ask(request).read(ManifestAnswer)

    def snapshot(
        self,
        session: str,
        have: Iterable[Have] = (),
        epoch: int = 0,
        *,
        codec: str = "f32",
        max_splats: int | None = None,
    ) -> Snapshot:
        """What differs from ``have`` (of ``epoch``), exact at the seq it names."""
        request = SnapshotRequest(
            id=next(self._numbers),
            session=session,
            have=list(have),
            epoch=epoch,
            codec=codec,
            max_splats=max_splats,
        )
        self._send(request)
        updates: list[Update] = []
        while True:
            message = self._receive()
            if message.kind in UPDATE_HEADERS:
                update = read_update(message).update
                if update is not None:
                    updates.append(update)
                continue
            done = self._checked(message, request).read(SnapshotDone)
            if done.messages != len(updates):
                self._reconnect()
                raise ProtocolError(
                    "bad_part", f"{len(updates)} messages came of a snapshot of {done.messages}"
                )
            return Snapshot(done.epoch, done.seq, updates)

    def keyframes(
        self, session: str, *, thumbnails: bool = False, newest: int | None = None
    ) -> list[KeyFrame]:
        """The key frames in order, with their JPEG thumbnails where asked for.

        Args:
            newest: only so many of the last ones.
        """
        request = KeyframesRequest(
            id=next(self._numbers), session=session, thumbnails=thumbnails, newest=newest
        )
        message = self._ask(request)
        entries = message.read(KeyframesAnswer).keyframes
        pictures: Sequence[Any] = message.parts if thumbnails else [None] * len(entries)
        if len(pictures) != len(entries):
            raise ProtocolError(
                "bad_part", f"{len(pictures)} thumbnails came for {len(entries)} key frames"
            )
        return [_key_frame(e, p) for e, p in zip(entries, pictures, strict=True)]

    def status(self, session: str) -> StatusAnswer:
        """The session's counters and state."""
        request = StatusRequest(session=session, id=next(self._numbers))
        return self._ask(request).read(StatusAnswer)

    def save(self, session: str) -> None:
        """Save the session's state into its folder on the daemon's machine."""
        self._ask(SaveRequest(session=session, id=next(self._numbers)), patience=_SLOW)

    def reset(self, session: str) -> None:
        """Forget the session's map and frames; a new epoch begins."""
        self._ask(ResetRequest(session=session, id=next(self._numbers)), patience=_SLOW)

    def pause(self, session: str) -> None:
        """Stop changing the map until :meth:`resume`; frames are accepted within the credit."""
        self._ask(PauseRequest(session=session, id=next(self._numbers)), patience=_SLOW)

    def resume(self, session: str) -> None:
        """Go on after :meth:`pause`."""
        self._ask(ResumeRequest(session=session, id=next(self._numbers)), patience=_SLOW)

    def close_session(self, session: str) -> None:
        """Have the session save its state and end; what asks for its map brings it back."""
        self._ask(CloseRequest(session=session, id=next(self._numbers)), patience=_SLOW)

    def wake(self, session: str, timeout: float = 60.0) -> None:
        """Bring a session back where it has ended, and wait until map and status are here.

        Raises:
            RequestRefused: there is none; or it is not here within ``timeout`` seconds, and why.
        """
        until = time.monotonic() + timeout
        while True:
            try:
                self.manifest(session)
                self.status(session)
                return
            except RequestRefused as refused:
                if refused.code != "busy" or time.monotonic() >= until:
                    raise
            time.sleep(_ASK_AGAIN_S)

    def export(self, session: str, format: str = "ply") -> bytes:
        """The map as a file's bytes: `ply`, its splats; `mesh` or `glb`, its surfaces as a mesh, a
        PLY or a binary glTF, which takes the daemon's machine up to some minutes."""
        request = ExportRequest(session=session, format=format, id=next(self._numbers))
        patience = _SLOW if format == "ply" else _SLOWEST
        return bytes(self._one_part(self._ask(request, patience=patience)))

    def render(
        self,
        session: str,
        c2w: npt.ArrayLike,
        camera: CameraHeader,
        *,
        background: tuple[float, float, float] | None = None,
        rgba: bool = False,
        depth: bool = False,
    ) -> Picture:
        """The map seen from ``c2w`` (4, 4), OpenCV axes, through a pinhole camera.

        Args:
            background: rgb, 0..1, behind the map; None: black.
            rgba: a picture with alpha in the place of a background.
            depth: z-depth too.
        """
        pose = np.asarray(c2w, np.float64).reshape(16).tolist()
        request = RenderRequest(
            session=session,
            c2w=pose,
            camera=camera,
            background=background,
            rgba=rgba,
            depth=depth,
            id=next(self._numbers),
        )
        message = self._ask(request, patience=_SLOW)
        answer = message.read(RenderAnswer)
        if not depth:
            return Picture(bytes(self._one_part(message)), answer.alpha_mean)
        if len(message.parts) != 2 or answer.depth_unit_m is None:
            raise ProtocolError("bad_part", f"{len(message.parts)} parts came, expected two")
        png, depth_png = (bytes(part) for part in message.parts)
        return Picture(png, answer.alpha_mean, depth_png, answer.depth_unit_m)

    def close(self) -> None:
        """Disconnect."""
        self._watch.close()
        self._socket.close()

    def __enter__(self) -> Requests:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        self._watch = HandshakeWatch(socket, self._keys)
        connect(socket, self.address, self._keys)
        return socket

    def _reconnect(self) -> None:
        # What was asked before may still be answered: a new socket never sees it.
        self.close()
        self._socket = self._connect()

    def _ask(self, request: Request, *, patience: int = 1) -> Message:
        self._send(request)
        return self._checked(self._receive(patience=patience), request)

    def _send(self, request: Header) -> None:
        if not self._watch.send(encode(request)):
            raise self._silent(0.0)

    def _receive(self, *, patience: int = 1) -> Message:
        # A first picture waits for the daemon's kernels to compile, a save for a running batch.
        timeout = self.timeout * patience
        if not self._watch.readable(timeout):
            raise self._silent(timeout)
        return decode(self._socket.recv_multipart(), max_parts=MAX_ANSWER_PARTS)

    def _silent(self, timeout: float) -> DaemonSilent:
        trouble = self._watch.trouble()
        self._reconnect()
        if trouble is not None:
            return DaemonSilent(f"{self.address} cannot be talked to: {trouble}")
        return DaemonSilent(
            f"{self.address} did not answer in {timeout:g} s: is the daemon running?"
        )

    def _checked(self, message: Message, request: Request) -> Message:
        if message.kind == RequestError.KIND:
            error = message.read(RequestError)
            raise RequestRefused(error.code, error.reason)
        if message.kind != request.KIND:
            self._reconnect()
            raise ProtocolError(
                "bad_header", f"{request.KIND!r} was answered with {message.kind!r}"
            )
        return message

    @staticmethod
    def _one_part(message: Message) -> Any:
        if len(message.parts) != 1:
            raise ProtocolError("bad_part", f"{len(message.parts)} parts came, expected one")
        return message.parts[0]


def _key_frame(entry: KeyframeEntry, thumbnail: Any) -> KeyFrame:
    return KeyFrame(
        seq=entry.seq,
        stamp_ns=entry.stamp_ns,
        camera=entry.camera,
        chunk=entry.chunk,
        c2w=np.array(entry.c2w, np.float64).reshape(4, 4),
        thumbnail=None if thumbnail is None else bytes(thumbnail),
    )

"""`Client`: a program that has frames."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from streamer.access import ClientKeys
from streamer.camera import CameraModel
from streamer.client.connection import SenderConnection, Stage
from streamer.client.encoding import Encoding, encode_depth, encode_image, encode_mask
from streamer.client.errors import (
    ArgumentError,
    ClientClosedError,
    ConnectionLostError,
    FrameRejectedError,
    Rejection,
)
from streamer.client.window import Window
from streamer.protocol import PROTO_VERSION, Buffer
from streamer.protocol.messages import CameraHeader, FrameHeader, Hello, Policy

BACKLOG = 4
"""Frames that wait here for credit before `send` blocks (lossless) or drops one (live)."""


class Client:
    """Sends frames into one session of a daemon.

    Use it as a context manager: leaving it waits until everything sent is settled, then says BYE.
    The connection lives in a thread of its own, comes back by itself when the daemon was away, and
    sends again what had not been settled.

    Args:
        address: of the daemon's ingest, such as ``tcp://127.0.0.1:5555``.
        session: name of the stream and its map.
        cameras: intrinsics by camera name.
        convention: camera axes of the poses: opencv, opengl, arkit, ros_optical or ros_body.
        policy: ``lossless``: `send` waits until the daemon takes more. ``live``: nothing waits,
            the oldest frames are dropped, here and in the daemon, and counted.
        client: this program's name, by default one of this process alone. Who may be killed and
            come back states one: the same name may resume its stream at once.
        clock: name of the clock of the stamps.
        resume: go on in a session that holds frames already.
        encoding, quality: of images given as arrays.
        strict: `send` and `wait` raise `FrameRejectedError` once a frame was rejected.
        connect_timeout_s: how long the constructor waits for a daemon.
        lost_after_s: how long the daemon may be away, or have no room for the session, before
            `send` and `wait` raise.
        keys: for a daemon that has keys.

    Raises:
        AddressError: the address is none.
        ConnectionLostError: no daemon answers at it.
        SessionBusyError, SessionHoldsFramesError, VersionMismatchError, RefusedError: it refuses.
    """

    def __init__(
        self,
        address: str,
        *,
        session: str,
        cameras: Mapping[str, CameraModel],
        convention: str,
        policy: Policy = "lossless",
        client: str | None = None,
        clock: str = "unix",
        resume: bool = False,
        encoding: Encoding = "jpeg",
        quality: int = 90,
        strict: bool = False,
        connect_timeout_s: float = 5.0,
        lost_after_s: float = 60.0,
        keys: ClientKeys | None = None,
    ) -> None:
        self.address = address
        self.session = session
        self.policy = policy
        self._cameras = dict(cameras)
        self._encoding = encoding
        self._quality = quality
        self._strict = strict
        self._lost_after_s = lost_after_s
        self._window = Window()
        hello = Hello(
            proto=PROTO_VERSION,
            session=session,
            client=client or f"{socket.gethostname()}-{os.getpid()}",
            cameras={name: _camera_header(camera) for name, camera in cameras.items()},
            convention=convention,
            policy=policy,
            clock=clock,
            resume=resume,
        )
        self._connection = SenderConnection(address, hello, self._window, lost_after_s, keys)
        self._connection.start()
        self._closed = False
        try:
            self._wait_for_welcome(connect_timeout_s)
        except BaseException:
            self._connection.close()
            self._closed = True
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            # Whoever is in trouble already does not want to wait for a daemon.
            self._close()

    # ---- sending ----

    def send(
        self,
        image: npt.NDArray[np.uint8] | bytes,
        pose: npt.ArrayLike | None,
        *,
        camera: str | None = None,
        stamp_ns: int | None = None,
        params: Sequence[float] | None = None,
        depth: npt.NDArray[np.generic] | bytes | None = None,
        depth_unit_m: float | None = None,
        mask: npt.NDArray[np.generic] | bytes | None = None,
        timeout_s: float | None = None,
    ) -> int | None:
        """Send one frame.

        Args:
            image: (H, W, 3) uint8 RGB, (H, W) uint8 grey, or the bytes of a JPEG or PNG file.
            pose: (4, 4) camera-to-world, metres, in the client's convention.
            camera: which one; may be left out where there is one only.
            stamp_ns: time of capture, nanoseconds; now, where left out.
            params: this frame's intrinsics in the place of the camera's.
            depth: (H, W) z-depth, registered to the image: uint16 or float, or the bytes of a
                16-bit PNG; 0 and NaN mean none.
            depth_unit_m: metres per step; floats are metres already.
            mask: (H, W), non-zero where the image is to be ignored, or the bytes of a PNG.
            timeout_s: how long to wait for credit; None waits as long as the daemon is there.

        Returns:
            Its number in the session. None under the live policy, where frames may be dropped
            before they get one: name them by stamp.

        Raises:
            ArgumentError: an argument that cannot be sent.
            ConnectionLostError: the daemon has been away too long.
            SessionBusyError: it has had no room for the session for too long.
            TimeoutError: no credit within `timeout_s`.
            FrameRejectedError: an earlier frame was rejected and the client is strict.
        """
        picture = encode_image(image, self._encoding, self._quality)
        parts: list[Buffer] = [picture.data]
        depth_header = mask_header = None
        if depth is not None:
            depth_header, part = encode_depth(depth, depth_unit_m)
            parts.append(part)
        if mask is not None:
            mask_header, part = encode_mask(mask)
            parts.append(part)
        header = FrameHeader(
            seq=0,
            stamp_ns=time.time_ns() if stamp_ns is None else int(stamp_ns),
            camera=self._camera_name(camera),
            encoding=picture.encoding,
            width=picture.width,
            height=picture.height,
            pose=None if pose is None else _sixteen(pose),
            params=None if params is None else [float(value) for value in params],
            depth=depth_header,
            mask=mask_header,
        )
        with self._connection.changed:
            self._make_room(timeout_s)
            seq = self._window.add(header, tuple(parts))
        self._connection.wake()
        return None if self.policy == "live" else seq

    def flush(self) -> None:
        """Have the daemon process a partial batch now."""
        self._check()
        self._connection.flush()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything sent is settled; whether it is, after at most `timeout` seconds.

        Raises:
            ConnectionLostError: the daemon has been away too long.
            FrameRejectedError: a frame was rejected and the client is strict.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._connection.changed:
            while True:
                self._check()
                if self._window.empty:
                    return True
                if until is not None and time.monotonic() >= until:
                    return False
                self._connection.changed.wait(_within(until))

    def close(self, timeout: float | None = 30.0) -> None:
        """Wait until everything is settled, say BYE and stop. May be called twice.

        Raises:
            ConnectionLostError: frames are unsettled and the daemon has been away too long.
            TimeoutError: it did not settle everything within `timeout` seconds.
        """
        if self._closed:
            return
        try:
            if not self.wait(timeout):
                raise TimeoutError(
                    f"{self.unsettled} frames were not settled within {timeout} s: the daemon at "
                    f"{self.address} is slower than that"
                )
        finally:
            self._close()

    # ---- what became of it ----

    @property
    def acked(self) -> int:
        """Number of the last settled frame, -1 before the first."""
        with self._connection.changed:
            return self._window.acked

    @property
    def unsettled(self) -> int:
        """Frames sent or queued without a verdict."""
        with self._connection.changed:
            return len(self._window.sent) + len(self._window.unsent)

    @property
    def dropped(self) -> int:
        """Frames that the live policy discarded, here and in the daemon."""
        with self._connection.changed:
            return self._window.dropped_by_daemon + self._window.dropped_here

    @property
    def rejected(self) -> list[Rejection]:
        """Frames that the daemon did not take, with the reasons; the latest 4096."""
        with self._connection.changed:
            return list(self._window.rejected)

    @property
    def connected(self) -> bool:
        """Whether the daemon is there now."""
        with self._connection.changed:
            return self._connection.stage is Stage.OPEN

    @property
    def connects(self) -> int:
        """How often it was reached: 1, and once more each time it had been away."""
        with self._connection.changed:
            return self._connection.connects

    # ---- inside; callers of these hold `changed` ----

    def _wait_for_welcome(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        connection = self._connection
        with connection.changed:
            while connection.welcome is None:
                if connection.failure is not None:
                    raise connection.failure
                if connection.refused:
                    raise ConnectionLostError(
                        f"{self.address} cannot be talked to: {connection.trouble}"
                    )
                if time.monotonic() >= until:
                    raise ConnectionLostError(
                        f"no daemon answers at {self.address} within {timeout_s:g} s: start one "
                        "with `splatstream serve`, or give the address it prints"
                        + ("" if connection.trouble is None else f" ({connection.trouble})")
                    )
                connection.changed.wait(_within(until))

    def _make_room(self, timeout_s: float | None) -> None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self._check()
        window = self._window
        if self.policy == "live":
            while window.unsent and (len(window.unsent) >= BACKLOG or window.full):
                window.drop_oldest_unsent()
            return
        while len(window.unsent) >= BACKLOG or window.full:
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"the daemon at {self.address} gave no credit in {timeout_s} s")
            self._connection.changed.wait(_within(until))
            self._check()

    def _check(self) -> None:
        connection = self._connection
        with connection.changed:
            if self._closed:
                raise ClientClosedError("the client is closed: make a new one")
            if connection.failure is not None:
                raise connection.failure
            if connection.stage is not Stage.OPEN:
                away = time.monotonic() - connection.away_since
                if away > self._lost_after_s:
                    trouble = "" if connection.trouble is None else f" ({connection.trouble})"
                    raise ConnectionLostError(
                        f"the daemon at {self.address} has been away for {away:.0f} s{trouble}; "
                        f"{len(self._window.sent) + len(self._window.unsent)} frames are unsettled"
                    )
            if self._strict and self._window.rejected:
                first = self._window.rejected[0]
                raise FrameRejectedError(first.code, f"frame {first.seq}: {first.reason}")

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.close()

    def _camera_name(self, camera: str | None) -> str:
        if camera is not None:
            return camera
        if len(self._cameras) != 1:
            raise ArgumentError(f"camera: missing; one of {', '.join(self._cameras)} is needed")
        return next(iter(self._cameras))


def _camera_header(camera: CameraModel) -> CameraHeader:
    body = camera.T_body_camera
    return CameraHeader(
        model=camera.model,
        width=camera.width,
        height=camera.height,
        params=list(camera.params),
        T_body_camera=None if body is None else list(body),
    )


def _sixteen(pose: npt.ArrayLike) -> list[float]:
    matrix = np.asarray(pose, np.float64)
    if matrix.shape not in ((4, 4), (16,)):
        raise ArgumentError(f"pose: shape {matrix.shape} was given, (4, 4) is needed")
    return matrix.reshape(-1).tolist()


def _within(until: float | None) -> float:
    # Woken at least so often: being away too long is announced by nobody.
    return 0.25 if until is None else max(0.0, min(0.25, until - time.monotonic()))

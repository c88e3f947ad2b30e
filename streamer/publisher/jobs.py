"""Pictures and files of a map: the publisher's slow work, done beside its loop by one thread.

What needs torch is imported here at first use, so that a publisher starts in a moment.
"""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from streamer.protocol import Buffer, ProtocolError, encode
from streamer.protocol.messages import CameraHeader
from streamer.protocol.requests import RenderAnswer, RenderRequest
from streamer.publisher.table import ChunkRecord

if TYPE_CHECKING:
    from gs_decoder import Chunk

logger = logging.getLogger(__name__)

MAX_PIXELS = 4096 * 4096
MAX_WAITING = 8
MAX_SLOW_WAITING = 2
_POSE_TOLERANCE = 1e-3

Answer = list[Buffer]
Job = Callable[[], Answer]
Done = Callable[[Answer | ProtocolError], None]


class Workers:
    """Runs jobs one after the other; ``finish`` hands their results over on the loop's thread.

    Jobs of minutes have a queue of their own, so that pictures do not wait for them.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "publisher-job")
        self._slow_pool = ThreadPoolExecutor(1, "publisher-slow-job")
        self._results: queue.SimpleQueue[tuple[Done, Answer | ProtocolError]] = queue.SimpleQueue()
        self._waiting = 0
        self._slow_waiting = 0
        self.wake_fd, self._signal_fd = os.pipe()

    def submit(self, job: Job, done: Done) -> None:
        """Queue a job; raises ProtocolError ``busy`` where too many wait already."""
        if self._waiting >= MAX_WAITING:
            raise ProtocolError("busy", f"{MAX_WAITING} pictures and files wait: ask again later")
        self._waiting += 1

        def counted(result: Answer | ProtocolError) -> None:
            self._waiting -= 1
            done(result)

        self._pool.submit(self._run, job, counted)

    def submit_slow(self, job: Job, done: Done) -> None:
        """Queue a job of minutes; raises ProtocolError ``busy`` where too many wait already."""
        if self._slow_waiting >= MAX_SLOW_WAITING:
            raise ProtocolError("busy", f"{MAX_SLOW_WAITING} meshes wait already: ask again later")
        self._slow_waiting += 1

        def counted(result: Answer | ProtocolError) -> None:
            self._slow_waiting -= 1
            done(result)

        self._slow_pool.submit(self._run, job, counted)

    def finish(self) -> None:
        """Hand over what is done; call when ``wake_fd`` is readable."""
        os.read(self.wake_fd, 4096)
        while not self._results.empty():
            done, result = self._results.get()
            done(result)

    def close(self) -> None:
        """Forget what waits; a running job ends with the process."""
        for pool in (self._pool, self._slow_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: Job, done: Done) -> None:
        result: Answer | ProtocolError
        try:
            result = job()
        except ProtocolError as error:
            result = error
        except Exception as error:
            logger.exception("a request failed")
            result = ProtocolError("internal", f"{type(error).__name__}: {error}")
        self._results.put((done, result))
        os.write(self._signal_fd, b"x")


def export_ply(records: Sequence[ChunkRecord]) -> bytes:
    """The map as a 3DGS PLY file in the sender's world."""
    from gs_decoder import encode_ply, to_world, world_origin

    chunks = _chunks(records)
    origin = world_origin(chunks)
    return encode_ply(to_world(chunks, origin=origin), offset=origin)


def render_picture(records: Sequence[ChunkRecord], request: RenderRequest) -> Answer:
    """The answer to RENDER: PNG of the map seen from a pinhole camera, and its depth if asked for.

    Raises ProtocolError ``bad_pose``, ``bad_camera``, ``bad_header`` or ``too_large``.
    """
    pose, K = check_pose(request.c2w), pinhole(request.camera)
    if request.rgba and request.background is not None:
        raise ProtocolError(
            "bad_header", "background: a picture with alpha has none: leave it out or rgba"
        )
    from streamer.render import colour_png, depth_png, render_chunks

    camera = request.camera
    picture = render_chunks(
        _chunks(records),
        pose,
        K,
        camera.width,
        camera.height,
        background=request.background,
        surfaces=request.depth,
    )
    parts = [colour_png(picture, rgba=request.rgba)]
    unit_m = None
    if request.depth:
        depth, unit_m = depth_png(picture)
        parts.append(depth)
    alpha = float(picture.alpha.mean())
    header = RenderAnswer(id=request.id, alpha_mean=alpha, depth_unit_m=unit_m)
    return encode(header, *parts)


def check_pose(c2w: Sequence[float]) -> np.ndarray:
    """A rigid (4, 4) float64 pose; raises ProtocolError ``bad_pose``."""
    pose = np.array(c2w, np.float64).reshape(4, 4)
    if not np.isfinite(pose).all():
        raise ProtocolError("bad_pose", "c2w: holds values that are not finite")
    turn = pose[:3, :3]
    off = np.abs(turn @ turn.T - np.eye(3)).max()
    if off > _POSE_TOLERANCE or np.linalg.det(turn) < 0:
        raise ProtocolError(
            "bad_pose", f"c2w: its 3x3 part is off a rotation by {off:.2g}: give a rigid pose"
        )
    if not np.allclose(pose[3], (0, 0, 0, 1)):
        raise ProtocolError("bad_pose", f"c2w: the last row is {pose[3].tolist()}, not 0 0 0 1")
    return pose


def pinhole(camera: CameraHeader) -> np.ndarray:
    """K (3, 3) of a camera without distortion; raises ProtocolError ``bad_camera``."""
    lengths = {"PINHOLE": 4, "SIMPLE_RADIAL": 4, "OPENCV": 8, "OPENCV_FISHEYE": 8}
    if camera.model not in lengths:
        raise ProtocolError(
            "bad_camera", f"camera.model: {camera.model!r} is not one of {', '.join(lengths)}"
        )
    p = list(camera.params)
    if len(p) != lengths[camera.model] or not np.isfinite(p).all():
        raise ProtocolError(
            "bad_camera", f"camera.params: {p} are not {lengths[camera.model]} finite numbers"
        )
    if camera.model == "SIMPLE_RADIAL":
        fx, fy, cx, cy, bend = p[0], p[0], p[1], p[2], p[3:]
    else:
        (fx, fy, cx, cy), bend = p[:4], p[4:]
    if any(bend) or camera.model == "OPENCV_FISHEYE":
        raise ProtocolError(
            "bad_camera", "camera: pictures are rendered without distortion: ask with a PINHOLE"
        )
    if fx <= 0 or fy <= 0:
        raise ProtocolError("bad_camera", f"camera.params: focal lengths {fx}, {fy} must be > 0")
    if camera.width * camera.height > MAX_PIXELS:
        raise ProtocolError(
            "too_large", f"camera: {camera.width}x{camera.height} is above {MAX_PIXELS} pixels"
        )
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def _chunks(records: Sequence[ChunkRecord]) -> list[Chunk]:
    from streamer.protocol.updates import decode_chunk

    return [decode_chunk(record.header, record.parts) for record in records]

"""Decoding beside the socket: a few threads turn FRAMEs into `Frame`s while the door stays open."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.camera import CameraError, CameraModel
from streamer.frames import Frame
from streamer.ingest.pictures import decode_depth, decode_image, decode_mask
from streamer.protocol import Buffer, ProtocolError
from streamer.protocol.messages import FrameHeader
from streamer.undistort import ImageError, prepare_frame, working_size

logger = logging.getLogger(__name__)

Took = Callable[[str, float], None]
"""Told the seconds that a frame spent in a stage; called from the decoder's threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A FRAME whose header and pose were found good."""

    session: str
    generation: int
    header: FrameHeader
    parts: tuple[Buffer, ...]
    camera: CameraModel
    convention: str
    c2w: NDArray[np.float64]
    received_ns: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a job."""

    session: str
    generation: int
    seq: int
    result: Frame | ProtocolError


class Decoder:
    """Threads that decode, and a file descriptor that becomes readable when some are done."""

    def __init__(self, threads: int, long_side: int, took: Took) -> None:
        # One thread a picture: two pictures at once are quicker than one on all cores, and the
        # cores belong to the sessions.
        cv2.setNumThreads(1)
        self._long_side = long_side
        self._took = took
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._done: deque[Verdict] = deque()
        self.wake_fd, self._wake_write = os.pipe()
        os.set_blocking(self.wake_fd, False)
        os.set_blocking(self._wake_write, False)

    def becomes(self, header: FrameHeader) -> int:
        """Bytes of the `Frame` that this FRAME becomes, at most."""
        width, height = working_size(header.width, header.height, self._long_side)
        # Colour, what is valid, and depth.
        return width * height * (4 if header.depth is None else 8)

    def submit(self, job: Job) -> None:
        """Decode in the background."""
        self._pool.submit(self._run, job).add_done_callback(_log_failure)

    def collect(self) -> list[Verdict]:
        """What was decoded since the last call."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_fd, 4096):
                pass
        verdicts = []
        while self._done:
            verdicts.append(self._done.popleft())
        return verdicts

    def close(self) -> None:
        """Stop; what was not begun is forgotten."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        os.close(self.wake_fd)
        os.close(self._wake_write)

    def _run(self, job: Job) -> None:
        began = time.perf_counter()
        try:
            result: Frame | ProtocolError = prepare(job, self._long_side)
        except ProtocolError as error:
            result = error
        except MemoryError:
            result = ProtocolError("too_large", "there is no memory left to decode this frame")
        except Exception:
            logger.exception("decoding frame %d of %s", job.header.seq, job.session)
            result = ProtocolError("internal", "the daemon failed on this frame, see its log")
        self._took("decode", time.perf_counter() - began)
        self._done.append(Verdict(job.session, job.generation, job.header.seq, result))
        self.wake()

    def wake(self) -> None:
        """Make `wake_fd` readable; from any thread."""
        # A pipe that is full holds wake-ups that nobody has read yet: one of them will do.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")


def prepare(job: Job, long_side: int) -> Frame:
    """Decode, undistort and scale one frame.

    Raises:
        ProtocolError: `bad_image`, `bad_part`, `bad_camera`.
    """
    header = job.header
    image = decode_image(header, job.parts[0])
    depth = mask = None
    if header.depth is not None:
        depth = decode_depth(header.depth, job.parts[1])
    if header.mask is not None:
        mask = decode_mask(header, job.parts[-1])
    try:
        camera = job.camera if header.params is None else job.camera.with_params(header.params)
        return prepare_frame(
            image,
            camera,
            seq=header.seq,
            stamp_ns=header.stamp_ns,
            camera_id=header.camera,
            c2w=job.c2w,
            long_side=long_side,
            depth=depth,
            depth_unit_m=header.depth.unit_m if header.depth is not None else 1.0,
            mask=mask,
            received_ns=job.received_ns,
        )
    except CameraError as error:
        raise ProtocolError("bad_camera", str(error)) from None
    except (ImageError, cv2.error) as error:
        raise ProtocolError("bad_image", str(error)) from None


def _log_failure(future: Future[None]) -> None:
    if not future.cancelled() and future.exception() is not None:
        logger.error("the decoder failed", exc_info=future.exception())

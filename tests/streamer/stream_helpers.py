"""A stream's frames, for tests with no process around it."""

from __future__ import annotations

import numpy as np

from streamer.camera import CameraModel
from streamer.frames import Frame
from streamer.ingest.decoder import Job
from streamer.ingest.stream import StreamLimits
from streamer.protocol.messages import FrameHeader

LIMITS = StreamLimits(max_waiting=6, live_waiting=3, max_bytes=4000)


def a_frame(seq: int, pixels: int = 100, received_ns: int = 0) -> Frame:
    image = np.zeros((1, pixels, 3), np.uint8)
    return Frame(
        seq=seq, stamp_ns=seq, camera="c", image=image, K=np.eye(3), c2w=np.eye(4),
        received_ns=received_ns,
    )  # fmt: skip


def a_job(seq: int, received_ns: int = 0) -> Job:
    return Job(
        session="s",
        generation=0,
        header=FrameHeader(seq=seq, stamp_ns=seq, camera="c", encoding="mono8", width=1, height=1),
        parts=(b"x",),
        camera=CameraModel("PINHOLE", 1, 1, (1.0, 1.0, 0.5, 0.5)),
        convention="opencv",
        c2w=np.eye(4),
        received_ns=received_ns,
    )

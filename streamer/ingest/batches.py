"""Frames as a BATCH carries them to a session."""

from __future__ import annotations

import numpy as np

from streamer.frames import Frame
from streamer.protocol.internal import BatchFrame


def describe(frame: Frame) -> BatchFrame:
    """A frame's entry in the header of a BATCH."""
    height, width = frame.image.shape[:2]
    return BatchFrame(
        seq=frame.seq,
        stamp_ns=frame.stamp_ns,
        camera=frame.camera,
        width=width,
        height=height,
        K=frame.K.reshape(-1).tolist(),
        c2w=None if frame.c2w is None else frame.c2w.reshape(-1).tolist(),
        has_depth=frame.depth is not None,
        has_valid=frame.valid is not None,
        received_ns=frame.received_ns,
    )


def parts(frame: Frame) -> list[memoryview]:
    """A frame's parts, in the order that the session reads them."""
    arrays = [np.ascontiguousarray(frame.image)]
    if frame.depth is not None:
        arrays.append(np.ascontiguousarray(frame.depth, np.float32))
    if frame.valid is not None:
        arrays.append(np.ascontiguousarray(frame.valid).view(np.uint8))
    return [array.reshape(-1).view(np.uint8).data for array in arrays]

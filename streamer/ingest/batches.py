"""Frames as a BATCH carries them to a session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamer.frames import Frame
from streamer.protocol.internal import BatchFrame
from streamer.protocol.wire import Buffer


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


def unpack_frames(entries: Sequence[BatchFrame], parts: Sequence[Buffer]) -> list[Frame]:
    """The frames of a BATCH; arrays are views of the received parts."""
    rest = iter(parts)
    frames = []
    for entry in entries:
        shape = (entry.height, entry.width)
        image = np.frombuffer(next(rest), np.uint8).reshape(*shape, 3)
        depth = np.frombuffer(next(rest), np.float32).reshape(shape) if entry.has_depth else None
        valid = np.frombuffer(next(rest), np.bool_).reshape(shape) if entry.has_valid else None
        frames.append(
            Frame(
                seq=entry.seq,
                stamp_ns=entry.stamp_ns,
                camera=entry.camera,
                image=image,
                K=np.reshape(entry.K, (3, 3)),
                c2w=None if entry.c2w is None else np.reshape(entry.c2w, (4, 4)),
                depth=depth,
                valid=valid,
                received_ns=entry.received_ns,
            )
        )
    return frames

"""Journalled frames and corrections as a session takes them."""

from __future__ import annotations

import time

import numpy as np

from streamer.frames import Frame
from streamer.ingest.cameras import camera_model
from streamer.ingest.decoder import Job, prepare
from streamer.ingest.poses import frame_pose
from streamer.journal import Corrected, FrameEntry, Recorded
from streamer.protocol.internal import PosesForward


def decode_recorded(recorded: Recorded, long_side: int) -> Frame:
    """The frame of a recorded FRAME, exactly as it was made of it the first time.

    Raises:
        ProtocolError: it cannot be decoded (it could when it was accepted).
    """
    entry = recorded.entry
    assert isinstance(entry, FrameEntry)
    camera = camera_model(entry.camera)
    job = Job(
        session="",
        generation=0,
        header=entry.header,
        parts=recorded.parts,
        camera=camera,
        convention=entry.convention,
        c2w=np.asarray(frame_pose(entry.header.pose, entry.convention, camera)),
        received_ns=time.monotonic_ns(),
    )
    return prepare(job, long_side)


def correction(entry: Corrected) -> PosesForward:
    """A recorded correction as the session takes it."""
    return PosesForward(
        revision=entry.revision,
        client=entry.client,
        entries=entry.entries,
        by=entry.by,
        upto=entry.upto,
        received_upto=entry.received_upto,
        waiting=entry.waiting,
    )

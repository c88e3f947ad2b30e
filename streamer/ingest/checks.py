"""What of a camera and of a FRAME can be checked without looking at a pixel."""

from __future__ import annotations

import math
import time

import numpy as np

from streamer.camera import CameraError, CameraModel
from streamer.conventions import PoseError
from streamer.ingest.cameras import camera_model
from streamer.ingest.decoder import Job
from streamer.ingest.poses import frame_pose
from streamer.ingest.sessions import Sender, Session
from streamer.protocol import Message, ProtocolError, check_part
from streamer.protocol.limits import MAX_PARTS
from streamer.protocol.messages import CameraHeader, FrameHeader


def camera_models(headers: dict[str, CameraHeader], convention: str) -> dict[str, CameraModel]:
    """The cameras of HELLO or CAMERAS.

    Raises:
        ProtocolError: `bad_camera`, naming the camera.
    """
    models = {}
    for name, header in headers.items():
        try:
            models[name] = camera_model(header)
        except (CameraError, PoseError) as error:
            raise ProtocolError("bad_camera", f"cameras[{name!r}]: {error}") from None
        if convention == "ros_body" and header.T_body_camera is None:
            raise ProtocolError(
                "bad_camera",
                f"cameras[{name!r}]: T_body_camera is missing: convention ros_body gives the pose "
                "of the body, say where on it the camera sits (16 numbers)",
            )
    return models


def checked_job(header: FrameHeader, message: Message, session: Session, sender: Sender) -> Job:
    """A FRAME that is fit to be decoded.

    Raises:
        ProtocolError: `bad_part`, `too_large`, `bad_header`, `bad_camera`, `no_pose`, `bad_pose`.
    """
    names = ["image"]
    names += ["depth"] if header.depth is not None else []
    names += ["mask"] if header.mask is not None else []
    if len(message.parts) > MAX_PARTS:
        raise ProtocolError(
            "too_large", f"FRAME has {len(message.parts)} parts, the limit is {MAX_PARTS}"
        )
    if len(message.parts) != len(names):
        raise ProtocolError(
            "bad_part",
            f"FRAME has {len(message.parts)} parts, its header calls for {len(names)} "
            f"({', '.join(names)})",
        )
    for name, part in zip(names, message.parts):
        check_part(message.kind, name, part)
    if header.depth is not None:
        unit_m = header.depth.unit_m
        if not (math.isfinite(unit_m) and unit_m > 0):
            raise ProtocolError(
                "bad_header", f"depth.unit_m is {unit_m}: metres a unit, such as 0.001, are needed"
            )
    camera = sender.cameras.get(header.camera)
    if camera is None:
        known = ", ".join(sorted(sender.cameras)) or "none"
        raise ProtocolError(
            "bad_camera",
            f"camera: {header.camera[:80]!r} is unknown, HELLO named: {known}; add it with CAMERAS",
        )
    return Job(
        session=session.name,
        generation=session.generation,
        header=header,
        parts=message.parts,
        camera=camera,
        convention=sender.convention,
        c2w=np.asarray(frame_pose(header.pose, sender.convention, camera)),
        received_ns=time.monotonic_ns(),
    )

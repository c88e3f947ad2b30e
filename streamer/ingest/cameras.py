"""Cameras of headers."""

from __future__ import annotations

from streamer.camera import CameraModel
from streamer.protocol.limits import MAX_PART_BYTES
from streamer.protocol.messages import CameraHeader


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

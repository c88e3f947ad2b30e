"""Foxglove's message schemas, as robotics tools know them: https://docs.foxglove.dev/docs/schemas

Schemas are protobuf descriptor sets, written here field by field with the names, numbers and types
of https://github.com/foxglove/foxglove-sdk/tree/main/schemas/proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.camera import CameraModel
from streamer.journal.protobuf import double, doubles, field, find, fixed32, head, integer
from streamer.protocol import Buffer

_DOUBLE, _INT64, _INT32, _FIXED32, _STRING, _MESSAGE, _BYTES = 1, 3, 5, 7, 9, 11, 12
_TIMESTAMP = ".google.protobuf.Timestamp"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    number: int
    type: int | str
    """A scalar's number, or the full name of a message."""
    repeated: bool = False


_VECTOR = [_Field(axis, place, _DOUBLE) for place, axis in enumerate("xyz", 1)]
_QUATERNION = [*_VECTOR, _Field("w", 4, _DOUBLE)]
_POSE = [
    _Field("position", 1, ".foxglove.Vector3"),
    _Field("orientation", 2, ".foxglove.Quaternion"),
]
_MESSAGES = {
    "CompressedImage": [
        _Field("timestamp", 1, _TIMESTAMP),
        _Field("data", 2, _BYTES),
        _Field("format", 3, _STRING),
        _Field("frame_id", 4, _STRING),
    ],
    "RawImage": [
        _Field("timestamp", 1, _TIMESTAMP),
        _Field("width", 2, _FIXED32),
        _Field("height", 3, _FIXED32),
        _Field("encoding", 4, _STRING),
        _Field("step", 5, _FIXED32),
        _Field("data", 6, _BYTES),
        _Field("frame_id", 7, _STRING),
    ],
    "CameraCalibration": [
        _Field("timestamp", 1, _TIMESTAMP),
        _Field("width", 2, _FIXED32),
        _Field("height", 3, _FIXED32),
        _Field("distortion_model", 4, _STRING),
        *[_Field(name, number, _DOUBLE, repeated=True) for number, name in enumerate("DKRP", 5)],
        _Field("frame_id", 9, _STRING),
    ],
    "PoseInFrame": [
        _Field("timestamp", 1, _TIMESTAMP),
        _Field("frame_id", 2, _STRING),
        _Field("pose", 3, ".foxglove.Pose"),
    ],
}
_NEEDS = {"PoseInFrame": {"Vector3": _VECTOR, "Quaternion": _QUATERNION, "Pose": _POSE}}


def schema(name: str) -> bytes:
    """The FileDescriptorSet of `foxglove.<name>`."""
    stamp = [_Field("seconds", 1, _INT64), _Field("nanos", 2, _INT32)]
    files = [_file("google/protobuf/timestamp.proto", "google.protobuf", {"Timestamp": stamp}, [])]
    imports = ["google/protobuf/timestamp.proto"]
    for needed, fields in _NEEDS.get(name, {}).items():
        file = f"foxglove/{needed}.proto"
        before = imports[1:] if needed == "Pose" else []
        files.append(_file(file, "foxglove", {needed: fields}, before))
        imports.append(file)
    if name in _NEEDS:
        imports = [imports[0], imports[-1]]
    files.append(_file(f"foxglove/{name}.proto", "foxglove", {name: _MESSAGES[name]}, imports))
    return b"".join(field(1, file) for file in files)


def _file(
    name: str, package: str, messages: dict[str, list[_Field]], imports: Sequence[str]
) -> bytes:
    """A FileDescriptorProto."""
    content = field(1, name) + field(2, package)
    content += b"".join(field(3, path) for path in imports)
    for message, fields in messages.items():
        content += field(4, field(1, message) + b"".join(field(2, _descriptor(f)) for f in fields))
    return content + field(12, "proto3")


def _descriptor(one: _Field) -> bytes:
    """A FieldDescriptorProto."""
    kind = one.type if isinstance(one.type, int) else _MESSAGE
    content = field(1, one.name) + integer(3, one.number) + integer(4, 3 if one.repeated else 1)
    content += integer(5, kind)
    return content if isinstance(one.type, int) else content + field(6, one.type)


def _timestamp(number: int, stamp_ns: int) -> bytes:
    seconds, nanos = divmod(stamp_ns, 10**9)
    return field(number, integer(1, seconds) + integer(2, nanos))


def image_frame(camera: str) -> str:
    """The coordinate frame of a camera: OpenCV's axes, as Foxglove draws them."""
    return f"{camera}_optical"


def compressed_image(stamp_ns: int, camera: str, format: str, data: Buffer) -> list[Buffer]:
    """CompressedImage in pieces, `data` uncopied."""
    lead = _timestamp(1, stamp_ns) + field(3, format) + field(4, image_frame(camera))
    return [lead + head(2, len(data)), data]


def raw_image(
    stamp_ns: int, camera: str, encoding: str, width: int, height: int, data: Buffer
) -> list[Buffer]:
    """RawImage in pieces, `data` uncopied; `encoding` is rgb8, bgr8 or mono8."""
    lead = _timestamp(1, stamp_ns) + fixed32(2, width) + fixed32(3, height) + field(4, encoding)
    lead += fixed32(5, len(data) // height) + field(7, image_frame(camera))
    return [lead + head(6, len(data)), data]


def image_data(schema_name: str, message: Buffer) -> memoryview:
    """The picture's bytes of a CompressedImage or a RawImage.

    Raises:
        ValueError: this is neither.
    """
    return find(message, 2 if schema_name == "foxglove.CompressedImage" else 6)


_DISTORTION = {
    "PINHOLE": "",
    "OPENCV_FISHEYE": "kannala_brandt",
    "FULL_OPENCV": "rational_polynomial",
}
"""COLMAP's model → Foxglove's; the others are of the plumb_bob family."""


def calibration(stamp_ns: int, name: str, camera: CameraModel) -> bytes:
    """CameraCalibration of a camera at its full size."""
    K = camera.K
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    model = _DISTORTION.get(camera.model, "plumb_bob")
    coefficients = list(camera.distortion)
    if model == "plumb_bob":
        coefficients += [0.0] * (5 - len(coefficients))
    message = _timestamp(1, stamp_ns) + fixed32(2, camera.width) + fixed32(3, camera.height)
    if model:
        message += field(4, model) + doubles(5, coefficients)
    message += doubles(6, [fx, 0, cx, 0, fy, cy, 0, 0, 1])
    message += doubles(7, [1, 0, 0, 0, 1, 0, 0, 0, 1])
    message += doubles(8, [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0])
    return message + field(9, image_frame(name))


def pose_in_frame(stamp_ns: int, c2w: NDArray[np.float64], quat_wxyz: Sequence[float]) -> bytes:
    """PoseInFrame of a camera, (4, 4) camera to world with OpenCV axes, in the sender's world."""
    position = b"".join(double(n, value) for n, value in enumerate(c2w[:3, 3].tolist(), 1))
    w, x, y, z = quat_wxyz
    orientation = b"".join(double(n, value) for n, value in enumerate((x, y, z, w), 1))
    pose = field(1, position) + field(2, orientation)
    return _timestamp(1, stamp_ns) + field(2, "world") + field(3, pose)

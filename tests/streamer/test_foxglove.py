"""What a journal's messages say to those who know Foxglove's schemas and nothing of ours."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_helpers import frame
from mcap.reader import SeekingReader

from streamer.camera import CameraModel
from streamer.journal import Journal, segments

DOUBLE, STRING = 1, 9
_NUMBERS = {"double": DOUBLE, "int64": 3, "int32": 5, "fixed32": 7, "string": STRING, "bytes": 12}
_SCHEMAS = """
.google.protobuf.Timestamp: 1 seconds int64, 2 nanos int32
.foxglove.Vector3: 1 x double, 2 y double, 3 z double
.foxglove.Quaternion: 1 x double, 2 y double, 3 z double, 4 w double
.foxglove.Pose: 1 position .foxglove.Vector3, 2 orientation .foxglove.Quaternion
.foxglove.PoseInFrame: 1 timestamp .google.protobuf.Timestamp, 2 frame_id string, \
3 pose .foxglove.Pose
.foxglove.CompressedImage: 1 timestamp .google.protobuf.Timestamp, 4 frame_id string, \
2 data bytes, 3 format string
.foxglove.RawImage: 1 timestamp .google.protobuf.Timestamp, 7 frame_id string, 2 width fixed32, \
3 height fixed32, 4 encoding string, 5 step fixed32, 6 data bytes
.foxglove.CameraCalibration: 1 timestamp .google.protobuf.Timestamp, 9 frame_id string, \
2 width fixed32, 3 height fixed32, 4 distortion_model string, 5 D double, 6 K double, \
7 R double, 8 P double
"""
"""Number, name and type of every field, as foxglove-sdk has them in `schemas/proto`."""


def published() -> dict[str, dict[int, tuple[str, int | str]]]:
    """Of each message its fields by their numbers."""
    found = {}
    for line in _SCHEMAS.split("\n")[1:-1]:
        name, _, listed = line.partition(": ")
        parts = [one.split() for one in listed.split(", ")]
        found[name] = {int(n): (field, _NUMBERS.get(kind, kind)) for n, field, kind in parts}
    return found


PUBLISHED = published()
REPEATED = {"D", "K", "R", "P"}


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 0x80:
            return value, place


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message: integers, doubles, or bytes."""
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = varint(data, place)
            yield key >> 3, value
        elif kind == 2:
            length, place = varint(data, place)
            yield key >> 3, data[place : place + length]
            place += length
        else:
            form = {1: "<d", 5: "<I"}[kind]
            yield key >> 3, struct.unpack_from(form, data, place)[0]
            place += struct.calcsize(form)


def read(name: str, data: bytes) -> dict[str, Any]:
    """A message of a published schema."""
    found: dict[str, Any] = {}
    for number, value in fields(data):
        field, kind = PUBLISHED[name][number]
        if isinstance(kind, str):
            value = read(kind, value)
        elif kind == STRING:
            value = value.decode()
        elif field in REPEATED:
            value = list(struct.unpack(f"<{len(value) // 8}d", value))
        found[field] = value
    return found


def described(schema: bytes) -> dict[str, dict[int, tuple[str, int | str]]]:
    """The messages of a FileDescriptorSet, as `PUBLISHED`."""
    found: dict[str, dict[int, tuple[str, int | str]]] = {}
    for _, file in fields(schema):
        parts = defaultdict(list)
        for number, value in fields(file):
            parts[number].append(value)
        for message in parts[4]:
            content = list(fields(message))
            name = f".{parts[2][0].decode()}.{dict(content)[1].decode()}"
            found[name] = {}
            for number, one in content:
                if number == 2:
                    field = dict(fields(one))
                    known = (field[1].decode(), field[6].decode() if field[5] == 11 else field[5])
                    found[name][field[3]] = known
                    assert field[4] == (3 if known[0] in REPEATED else 1)
    return found


CAMERAS = {
    "PINHOLE": ([60.0, 61.0, 32.0, 24.0], None, None),
    "OPENCV": ([60.0, 61.0, 32.0, 24.0, 0.1, -0.02, 0.003, 0.001], "plumb_bob", 5),
    "SIMPLE_RADIAL": ([60.0, 32.0, 24.0, 0.1], "plumb_bob", 5),
    "OPENCV_FISHEYE": ([60.0, 61.0, 32.0, 24.0, 0.1, -0.02, 0.003, 0.001], "kannala_brandt", 4),
}


@pytest.mark.parametrize("model", CAMERAS)
def test_a_frame_is_what_foxglove_takes_it_for(tmp_path: Path, model: str) -> None:
    params, distortion, coefficients = CAMERAS[model]
    c2w = np.eye(4)
    c2w[:3, :3] = [[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]
    c2w[:3, 3] = [1.5, -2.0, 3.0]
    camera = CameraModel(model, 64, 48, tuple(params))
    pixels = bytes(range(256)) * 36
    journal = Journal.open(tmp_path, "kitchen", 1)
    for item in (frame(7), frame(8, pixels, encoding="rgb8", camera="raw")):
        journal.write([replace(item, camera=camera, c2w=c2w)])
    journal.close()
    (segment,) = segments(tmp_path)
    said: dict[str, dict[str, Any]] = {}
    with open(segment.path, "rb") as file:
        reader = SeekingReader(file, validate_crcs=True)
        for schema, channel, message in reader.iter_messages():
            if schema is not None:
                assert (schema.encoding, channel.message_encoding) == ("protobuf", "protobuf")
                messages = described(schema.data)
                assert f".{schema.name}" in messages
                assert messages.items() <= PUBLISHED.items()
                said[channel.topic] = read(f".{schema.name}", message.data)
                seq = 8 if "raw" in channel.topic else 7
                assert (message.sequence, message.publish_time) == (seq, 10**18 + seq)
                stamp = said[channel.topic].pop("timestamp")
                assert (stamp["seconds"], stamp.get("nanos", 0)) == (10**9, seq)
    prefix = "/kitchen/camera"
    assert said.keys() == {
        f"{prefix}/{name}/{role}"
        for name in ("front", "raw")
        for role in ("image", "calibration", "pose")
    }
    picture = {"format": "jpeg", "data": b"\xff\xd8picture", "frame_id": "front_optical"}
    assert said[f"{prefix}/front/image"] == picture
    raw = {"encoding": "rgb8", "width": 64, "height": 48, "step": 192, "data": pixels}
    assert said[f"{prefix}/raw/image"] == {**raw, "frame_id": "raw_optical"}
    pose = said[f"{prefix}/front/pose"]
    assert pose["frame_id"] == "world"
    position, turn = pose["pose"]["position"], pose["pose"]["orientation"]
    assert [position[axis] for axis in "xyz"] == [1.5, -2.0, 3.0]
    # A turn by arctan(3/4) about z.
    quaternion = [turn.get(axis, 0.0) for axis in "xyzw"]
    assert np.allclose(quaternion, [0.0, 0.0, np.sqrt(0.1), np.sqrt(0.9)], atol=1e-12)
    lens = said[f"{prefix}/front/calibration"]
    fx, fy, cx, cy = [params[0], *params[:3]] if model == "SIMPLE_RADIAL" else params[:4]
    assert lens["K"] == [fx, 0, cx, 0, fy, cy, 0, 0, 1]
    assert lens["P"] == [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0]
    assert (lens["width"], lens["height"], lens.get("distortion_model")) == (64, 48, distortion)
    if coefficients:
        given = params[3:] if model == "SIMPLE_RADIAL" else params[4:]
        assert lens["D"] == given + [0.0] * (coefficients - len(given))

"""Meshes as files: PLY, and binary glTF (glTF 2.0, section 4.4) with a reader that checks it."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray

from gs_decoder.mesh.triangles import Mesh
from gs_decoder.rotations import matrix_from_quaternion

_MAGIC, _VERSION = 0x46546C67, 2
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_FLOAT, _USHORT, _UINT = 5126, 5123, 5125
_WIDTH = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_TYPE = {_FLOAT: "<f4", _USHORT: "<u2", _UINT: "<u4"}
_VERTICES, _INDICES = 34962, 34963


class InvalidGlb(ValueError):
    """Not a binary glTF of one mesh as `encode_glb` writes it."""


def encode_mesh_ply(mesh: Mesh) -> bytes:
    """A binary PLY with float32 positions and normals, 8-bit colours, and triangles.

    It is in the map's own world; an origin that is not zero stands in a comment, `comment offset
    X Y Z`, as in files of splats.
    """
    lines = ["ply", "format binary_little_endian 1.0"]
    if mesh.origin.any():
        lines.append("comment offset " + " ".join(repr(float(value)) for value in mesh.origin))
    lines.append(f"element vertex {len(mesh.vertices)}")
    floats = ("x", "y", "z", "nx", "ny", "nz")
    lines += [f"property float {name}" for name in floats]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
    lines.append("end_header\n")
    vertices = np.zeros(
        len(mesh.vertices), [("place", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)]
    )
    vertices["place"], vertices["normal"] = mesh.vertices, mesh.normals()
    vertices["colour"] = mesh.colours
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    return "\n".join(lines).encode("ascii") + vertices.tobytes() + faces.tobytes()


def encode_glb(mesh: Mesh, *, up: npt.ArrayLike = (0.0, 0.0, 1.0)) -> bytes:
    """A binary glTF file of one mesh, +Y up, coloured by its vertices and not lit.

    Vertices stay as they are, relative to the mesh's origin; the node that holds them turns `up`
    to +Y and carries the origin in double precision, so nothing is lost far from the world's.

    Args:
        up: (3,) what is up in the mesh's world, any length.
    """
    turn_wxyz = _quaternion_to_y(up)
    # glTF's vertex colours are linear light.
    share = mesh.colours / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    colours = np.full((len(linear), 4), 65535, np.uint16)
    colours[:, :3] = np.round(linear * 65535.0)
    arrays: list[tuple[NDArray[Any], str, int, int]] = [
        (mesh.vertices.astype("<f4"), "VEC3", _FLOAT, _VERTICES),
        (mesh.normals().astype("<f4"), "VEC3", _FLOAT, _VERTICES),
        (colours.astype("<u2"), "VEC4", _USHORT, _VERTICES),
        (mesh.faces.astype("<u4").reshape(-1), "SCALAR", _UINT, _INDICES),
    ]
    body = bytearray()
    views, accessors = [], []
    for number, (array, kind, component, target) in enumerate(arrays):
        data = array.tobytes()
        views.append(
            {"buffer": 0, "byteOffset": len(body), "byteLength": len(data), "target": target}
        )
        accessors.append(
            {
                "bufferView": number,
                "componentType": component,
                "count": len(array),
                "type": kind,
                **({"normalized": True} if component == _USHORT else {}),
            }
        )
        body += data
    accessors[0]["min"] = mesh.vertices.min(0).astype(float).tolist()
    accessors[0]["max"] = mesh.vertices.max(0).astype(float).tolist()
    node: dict[str, Any] = {"mesh": 0, "rotation": np.roll(turn_wxyz, -1).tolist()}
    if mesh.origin.any():
        node["translation"] = (_rotation(turn_wxyz) @ mesh.origin).tolist()
    attributes = {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}
    document = {
        "asset": {"version": "2.0", "generator": "splatstream"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 3, "material": 0}]}],
        "materials": [
            {
                "doubleSided": True,
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "buffers": [{"byteLength": len(body)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body += b"\0" * (-len(body) % 4)
    size = 12 + 8 + len(text) + 8 + len(body)
    return (
        struct.pack("<III", _MAGIC, _VERSION, size)
        + struct.pack("<II", len(text), _JSON)
        + text
        + struct.pack("<II", len(body), _BIN)
        + bytes(body)
    )


def decode_glb(data: bytes) -> Mesh:
    """The mesh of a binary glTF that `encode_glb` wrote, in glTF's world: +Y up.

    Raises:
        InvalidGlb: damaged, or written otherwise.
    """
    document, body = _chunks(data)
    try:
        node = document["nodes"][document["scenes"][document["scene"]]["nodes"][0]]
        primitive = document["meshes"][node["mesh"]]["primitives"][0]
        names = primitive["attributes"]
        places = _array(document, body, names["POSITION"])
        colours = _array(document, body, names["COLOR_0"])[:, :3] / 65535.0
        faces = _array(document, body, primitive["indices"]).reshape(-1, 3)
        turn = _rotation(np.roll(np.array(node["rotation"], np.float64), 1))
        origin = np.array(node.get("translation", (0.0, 0.0, 0.0)), np.float64)
        bounds = document["accessors"][names["POSITION"]]
        limits = np.array([bounds["min"], bounds["max"]])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidGlb(f"the glTF lacks what a coloured mesh needs: {error!r}") from None
    if len(faces) and int(faces.max()) >= len(places):
        raise InvalidGlb(f"a triangle names vertex {int(faces.max())} of {len(places)}")
    if not np.array_equal(limits, [places.min(0), places.max(0)]):
        raise InvalidGlb("the bounds that are stated are not those of the vertices")
    shown = np.where(colours <= 0.0031308, 12.92 * colours, 1.055 * colours ** (1 / 2.4) - 0.055)
    return Mesh(
        (places @ turn.T).astype(np.float32),
        faces.astype(np.int32),
        np.round(shown * 255.0).astype(np.uint8),
        origin,
    )


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    if len(data) < 20:
        raise InvalidGlb(f"{len(data)} bytes are no binary glTF")
    magic, version, size = struct.unpack_from("<III", data)
    if magic != _MAGIC or version != _VERSION or size != len(data):
        raise InvalidGlb(
            f"not a whole binary glTF 2: it states version {version} and {size} bytes, "
            f"{len(data)} are there"
        )
    at = 12
    found: dict[int, bytes] = {}
    while at < size:
        if at + 8 > size:
            raise InvalidGlb("a chunk is cut off")
        length, kind = struct.unpack_from("<II", data, at)
        if length % 4 or at + 8 + length > size:
            raise InvalidGlb(f"a chunk of {length} bytes at {at} does not fit")
        found[kind] = data[at + 8 : at + 8 + length]
        at += 8 + length
    if _JSON not in found or _BIN not in found:
        raise InvalidGlb("the chunk with the description or the one with the data is missing")
    try:
        document = json.loads(found[_JSON])
    except ValueError as error:
        raise InvalidGlb(f"the description is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidGlb("the description is no map")
    return document, found[_BIN]


def _array(document: dict[str, Any], body: bytes, number: int) -> NDArray[Any]:
    accessor = document["accessors"][number]
    view = document["bufferViews"][accessor["bufferView"]]
    width = _WIDTH[accessor["type"]]
    values = np.frombuffer(
        body, _TYPE[accessor["componentType"]], accessor["count"] * width, view["byteOffset"]
    )
    return values.reshape(-1, width)


def _quaternion_to_y(up: npt.ArrayLike) -> NDArray[np.float64]:
    """(4,) wxyz of the shortest turn from `up` to +Y."""
    direction = np.asarray(up, np.float64)
    x, y, z = direction / np.linalg.norm(direction)
    # (1 + a·b, a × b) is twice the half-angle's quaternion; half a turn has no shortest way.
    aside = x * x + z * z
    # 1 + y, without its digits cancelling where up is almost down.
    w = 1.0 + y if y > 0.0 else aside / (1.0 - y)
    quat_wxyz = np.array([w, -z, 0.0, x]) if aside > 0.0 or y > 0.0 else np.array([0.0, 1.0, 0, 0])
    return quat_wxyz / np.linalg.norm(quat_wxyz)


def _rotation(quat_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    return matrix_from_quaternion(torch.from_numpy(np.array(quat_wxyz, np.float64))).numpy()

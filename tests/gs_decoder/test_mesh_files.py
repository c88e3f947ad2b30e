"""Mesh files: what is written is what a reader finds."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gs_decoder.mesh import InvalidGlb, Mesh, decode_glb, encode_glb, encode_mesh_ply


def some_mesh(seed: int, vertices: int = 30, faces: int = 40, far: bool = False) -> Mesh:
    generator = np.random.default_rng(seed)
    return Mesh(
        generator.normal(size=(vertices, 3)).astype(np.float32) * 3,
        generator.integers(0, vertices, (faces, 3)).astype(np.int32),
        generator.integers(0, 256, (vertices, 3)).astype(np.uint8),
        generator.uniform(-1e7, 1e7, 3) if far else np.zeros(3),
    )


@settings(max_examples=40, deadline=None)
@example(seed=0, far=False, up=(5.2e-7, -0.25, 0.0))
@example(seed=0, far=False, up=(1e-200, -1.0, 1e-12))
@example(seed=0, far=False, up=(0.0, -0.5, 0.0))
@given(
    seed=st.integers(0, 10**6),
    far=st.booleans(),
    up=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1),
)
def test_a_glb_comes_back_with_up_as_y(seed: int, far: bool, up: tuple[float, ...]) -> None:
    mesh = some_mesh(seed, far=far)
    back = decode_glb(encode_glb(mesh, up=up))
    assert np.array_equal(back.faces, mesh.faces)
    assert np.array_equal(back.colours, mesh.colours)
    before = mesh.vertices.astype(np.float64) + mesh.origin
    after = back.vertices.astype(np.float64) + back.origin
    direction = np.array(up) / np.linalg.norm(up)
    assert np.allclose(after[:, 1], before @ direction, atol=1e-5)
    # A turn: distances stay, and it is no mirror.
    assert np.allclose(
        np.linalg.norm(np.diff(after, axis=0), axis=1),
        np.linalg.norm(np.diff(before, axis=0), axis=1),
        atol=1e-4,
    )
    assert np.linalg.det(np.diff(after[:4], axis=0)) == pytest.approx(
        np.linalg.det(np.diff(before[:4], axis=0)), abs=1e-3
    )


def test_a_glb_keeps_the_rules_of_the_container() -> None:
    mesh = some_mesh(3, vertices=7, faces=5)
    data = encode_glb(mesh, up=(0.0, -1.0, 0.0))
    magic, version, size = struct.unpack_from("<4sII", data)
    assert (magic, version, size) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    rest, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and rest % 4 == 0 and 28 + length + rest == len(data)
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= document["buffers"][0]["byteLength"]
    place = document["accessors"][0]
    assert place["min"] == mesh.vertices.min(0).astype(float).tolist()
    normal = document["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]
    view = document["bufferViews"][document["accessors"][normal]["bufferView"]]
    values = np.frombuffer(data, "<f4", 21, 28 + length + view["byteOffset"]).reshape(-1, 3)
    assert np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-5)
    assert np.isclose(np.linalg.norm(document["nodes"][0]["rotation"]), 1.0)


def test_an_independent_reader_agrees(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    mesh = some_mesh(5, far=True)
    (tmp_path / "a.glb").write_bytes(encode_glb(mesh, up=(0.0, 0.0, 1.0)))
    scene = trimesh.load(tmp_path / "a.glb", process=False)
    (name,) = scene.graph.nodes_geometry
    turn, geometry = scene.graph[name]
    part = scene.geometry[geometry]
    assert np.array_equal(part.faces, mesh.faces)
    ours = decode_glb(encode_glb(mesh, up=(0.0, 0.0, 1.0)))
    places = part.vertices @ turn[:3, :3].T + turn[:3, 3]
    assert np.allclose(places, ours.vertices + ours.origin, atol=1e-3)
    (tmp_path / "a.ply").write_bytes(encode_mesh_ply(mesh))
    read = trimesh.load(tmp_path / "a.ply", process=False)
    assert np.array_equal(read.faces, mesh.faces)
    assert np.allclose(read.vertices, mesh.vertices)
    assert np.array_equal(read.visual.vertex_colors[:, :3], mesh.colours)


def test_a_ply_states_its_offset() -> None:
    mesh = some_mesh(2, far=True)
    header = encode_mesh_ply(mesh).split(b"end_header")[0].decode()
    (line,) = [line for line in header.splitlines() if line.startswith("comment offset")]
    assert [float(word) for word in line.split()[2:]] == mesh.origin.tolist()
    assert "offset" not in encode_mesh_ply(some_mesh(2)).split(b"end_header")[0].decode()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_found_or_harmless(data: st.DataObject) -> None:
    good = encode_glb(some_mesh(1, vertices=6, faces=4))
    cut = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(InvalidGlb):
        decode_glb(good[:cut])
    at, value = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    bad = bytearray(good)
    bad[at] = value
    try:
        decode_glb(bytes(bad))
    except InvalidGlb as error:
        assert str(error)

"""PLY files: the layout byte for byte, round trips, other people's files, broken files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from map_helpers import chunk_meta, random_similarity, random_splats

from gs_decoder import (
    InvalidPly,
    InvalidSplats,
    SplatMap,
    Splats,
    decode_ply,
    encode_ply,
    evaluate_sh,
    offset_path,
    read_ply,
    write_ply,
)


def test_every_byte_is_where_the_layout_says() -> None:
    splats = random_splats(3, 5, sh_degree=3)
    data = encode_ply(splats)
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(45)] + ["opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    assert data[: len(header)] == header.encode()
    assert len(data) == len(header) + 3 * 62 * 4
    for row in range(3):
        values = struct.unpack_from("<62f", data, len(header) + row * 62 * 4)
        got = dict(zip(names, values, strict=True))
        assert [got[n] for n in "xyz"] == splats.means[row].tolist()
        assert [got[f"n{n}"] for n in "xyz"] == [0, 0, 0]
        for channel in range(3):
            assert got[f"f_dc_{channel}"] == splats.sh[row, 0, channel].item()
            for coefficient in range(1, 16):
                # Channel-major: all of red, all of green, all of blue.
                assert (
                    got[f"f_rest_{channel * 15 + coefficient - 1}"]
                    == splats.sh[row, coefficient, channel].item()
                )
        opacity = splats.opacities[row].item()
        assert got["opacity"] == pytest.approx(math.log(opacity / (1 - opacity)), rel=1e-6)
        for axis in range(3):
            assert got[f"scale_{axis}"] == pytest.approx(
                math.log(splats.scales[row, axis].item()), rel=1e-6
            )
        for component in range(4):
            assert got[f"rot_{component}"] == pytest.approx(
                splats.quats_wxyz[row, component].item(), abs=1e-7
            )


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 20), seed=st.integers(0, 999), degree=st.integers(0, 3))
def test_round_trip(count: int, seed: int, degree: int) -> None:
    splats = random_splats(count, seed, degree, spread=100.0)
    back, offset = decode_ply(encode_ply(splats))
    assert not offset.any()
    assert torch.equal(back.means, splats.means) and torch.equal(back.sh, splats.sh)
    for name in ("scales", "opacities", "quats_wxyz"):
        torch.testing.assert_close(getattr(back, name), getattr(splats, name), rtol=2e-6, atol=2e-7)


def test_values_without_finite_logit_or_logarithm_become_the_nearest_that_have() -> None:
    splats = random_splats(4, 1)
    splats.opacities[:2] = torch.tensor([0.0, 1.0])
    splats.scales[2] = 0.0
    splats.quats_wxyz[3] = 0.0
    splats.quats_wxyz[0] *= 7.0
    data = encode_ply(splats)
    table = np.frombuffer(data[data.index(b"end_header\n") + 11 :], "<f4")
    assert np.isfinite(table).all()
    back = decode_ply(data).splats
    torch.testing.assert_close(back.opacities[:2], splats.opacities[:2], atol=2e-7, rtol=0)
    torch.testing.assert_close(back.scales[2], torch.full((3,), 1e-10))
    assert back.quats_wxyz[3].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(back.quats_wxyz.norm(dim=-1), torch.ones(4))


def test_a_chunk_is_written_in_world_axes_its_sh_too(tmp_path: Path) -> None:
    splat_map = SplatMap()
    pose = random_similarity(3)
    chunk = splat_map.chunks[splat_map.add(chunk_meta(0, pose), random_splats(30, 2, 3))]
    write_ply(tmp_path / "map.ply", splat_map.splats_world())
    back = read_ply(tmp_path / "map.ply").splats
    seen = torch.nn.functional.normalize(torch.randn(30, 3), dim=-1)
    rotation = torch.from_numpy(pose[:3, :3] / np.cbrt(np.linalg.det(pose[:3, :3]))).float()
    torch.testing.assert_close(
        evaluate_sh(back.sh, seen @ rotation.T),
        evaluate_sh(chunk.splats.sh, seen),
        atol=1e-5,
        rtol=0,
    )


def test_a_far_map_carries_its_offset_in_the_file_and_beside_it(tmp_path: Path) -> None:
    pose = np.eye(4)
    pose[:3, 3] = [512_345.67, 4_123_456.78, 312.5]
    splat_map = SplatMap()
    chunk = splat_map.chunks[splat_map.add(chunk_meta(0, pose), random_splats(50))]
    path = tmp_path / "map.ply"
    origin = splat_map.origin()
    write_ply(path, splat_map.splats_world(origin=origin), offset=origin)
    assert b"comment offset 512346.0 4123457.0 312.0\n" in path.read_bytes()[:200]
    assert offset_path(path).name == "map.ply.offset.json"
    assert json.loads(offset_path(path).read_text())["offset"] == origin.tolist()
    splats, offset = read_ply(path)
    exact = chunk.splats.means.numpy().astype(np.float64) + pose[:3, 3]
    assert np.abs(splats.means.numpy().astype(np.float64) + offset - exact).max() < 1e-6
    # Written again near its origin, the old offset must not stay behind.
    write_ply(path, random_splats(2))
    assert not offset_path(path).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.ply"]


def foreign_ply(names: list[str], rows: np.ndarray, kinds: dict[str, str] | None = None) -> bytes:
    """A PLY of another program: CRLF-free, with a comment, an element before and one after."""
    kinds = kinds or {}
    codes = {"float": "<f4", "double": "<f8", "uchar": "u1"}
    lines = ["ply", "format binary_little_endian 1.0", "comment made elsewhere", "obj_info x"]
    lines += ["element camera 2", "property float focal", "property uchar id"]
    lines += [f"element vertex {len(rows)}"]
    lines += [f"property {kinds.get(name, 'float')} {name}" for name in names]
    lines += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    table = np.zeros(len(rows), [(name, codes[kinds.get(name, "float")]) for name in names])
    for i, name in enumerate(names):
        table[name] = rows[:, i]
    return "\n".join(lines).encode() + bytes(10) + table.tobytes()


@pytest.mark.parametrize("degree", range(4))
def test_files_with_other_orders_types_and_more_properties(degree: int) -> None:
    splats = random_splats(7, degree, degree)
    own = encode_ply(splats)
    start = own.index(b"end_header\n") + 11
    count = 17 + 3 * (degree + 1) ** 2 - 3
    names = [line.split()[2].decode() for line in own[:start].splitlines() if b"property" in line]
    assert len(names) == count
    table = np.frombuffer(own, "<f4", offset=start).reshape(7, count)
    order = np.random.default_rng(degree).permutation(count)
    shuffled = [names[i] for i in order]
    keep = [i for i, name in enumerate(shuffled) if not name.startswith("n")]
    rows = np.concatenate([table[:, order][:, keep], np.full((7, 2), 9.0)], axis=1)
    data = foreign_ply(
        [*(shuffled[i] for i in keep), "red", "segment"], rows, {"red": "uchar", "x": "double"}
    )
    back = decode_ply(data).splats
    assert back.sh_degree == degree
    assert back.equals(decode_ply(own).splats)


def test_big_endian_and_crlf_headers_are_read() -> None:
    own = encode_ply(random_splats(5, 3, 1))
    start = own.index(b"end_header\n") + 11
    header = own[:start].replace(b"little", b"big").replace(b"\n", b"\r\n")
    swapped = np.frombuffer(own, "<f4", offset=start).astype(">f4").tobytes()
    assert decode_ply(header + swapped).splats.equals(decode_ply(own).splats)


def test_splats_with_numbers_that_are_not_finite_are_left_out() -> None:
    own = bytearray(encode_ply(random_splats(5, 3)))
    start = own.index(b"end_header\n") + 11
    struct.pack_into("<f", own, start + 17 * 4 * 1, math.nan)  # x of the second
    struct.pack_into("<f", own, start + 17 * 4 * 3 + 10 * 4, 800.0)  # scale_0 of the fourth
    back = decode_ply(bytes(own)).splats
    assert back.equals(decode_ply(encode_ply(random_splats(5, 3))).splats.select([0, 2, 4]))


GOOD = encode_ply(random_splats(4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with the line 'ply'"),
        (b"\x89PNG\r\n", "does not begin with the line 'ply'"),
        (GOOD[:60], "no end of header"),
        (GOOD[:-1], r"truncated: .* \(3 of 4 splats\)"),
        (GOOD.replace(b"binary_little_endian", b"ascii"), "ASCII PLY: save it as binary"),
        (GOOD.replace(b"format binary_little_endian 1.0\n", b""), "does not state its format"),
        (GOOD.replace(b"property float opacity", b"property float weight"), "lacks opacity"),
        (GOOD.replace(b"property float opacity", b"property floot opacity"), "damaged .*floot"),
        (GOOD.replace(b"property float opacity", b"propperty float opacity"), "does not know"),
        (GOOD.replace(b"property float nx", b"property float x"), "names a property twice"),
        (GOOD.replace(b"element vertex", b"element point"), "no element 'vertex'"),
        (GOOD.replace(b"property float nx", b"property list uchar int a"), "it is a mesh"),
        (GOOD.replace(b"property float nx", b"property float f_rest_0"), "1 f_rest properties"),
        (GOOD.replace(b"vertex 4", b"vertex 4000000000000"), "truncated"),
    ],
)
def test_files_that_cannot_be_read_say_why(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.ply"
    path.write_bytes(data)
    with pytest.raises(InvalidPly, match=message) as caught:
        read_ply(path)
    assert "broken.ply" in str(caught.value)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    splats = random_splats(3)
    with pytest.raises(ValueError, match=r"offset is .*: give three finite"):
        encode_ply(splats, offset=[1, 2])
    splats.means[1, 1] = math.inf
    with pytest.raises(InvalidSplats, match="means"):
        write_ply(tmp_path / "map.ply", splats)
    assert not list(tmp_path.iterdir())
    batch = Splats(
        *(
            getattr(random_splats(3), name)[None]
            for name in ("means", "quats_wxyz", "scales", "opacities", "sh")
        )
    )
    with pytest.raises(ValueError, match=r"\(1, 3, 3\)"):
        encode_ply(batch)


def test_the_offset_beside_a_file_counts_where_the_comment_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "map.ply"
    splats = random_splats(5)
    write_ply(path, splats, offset=(5e5, 4.2e6, 30.0))
    data = path.read_bytes()
    start = data.index(b"comment offset")
    path.write_bytes(data[:start] + data[data.index(b"\n", start) + 1 :])
    assert read_ply(path).offset.tolist() == [5e5, 4.2e6, 30.0]
    offset_path(path).write_text("{}")
    with pytest.raises(InvalidPly, match="offset"):
        read_ply(path)


def test_doubles_far_from_the_origin_keep_their_centimetres() -> None:
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2"]
    names += ["rot_0", "rot_1", "rot_2", "rot_3"]
    rows = np.zeros((4, len(names)))
    rows[:, :3] = np.array([5e5, 4.2e6, 30.0]) + np.arange(12).reshape(4, 3) * 0.011
    rows[:, 10] = 1.0
    splats, offset = decode_ply(foreign_ply(names, rows, dict.fromkeys("xyz", "double")))
    assert np.abs(splats.means.numpy() + offset - rows[:, :3]).max() < 1e-6

"""3D Gaussian Splatting PLY files, out and in.

Layout (the one of Kerbl et al. 2023, which viewers and editors read): binary little-endian float32
`x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3`; opacity as logit, scales as
logarithms, rotation wxyz, `f_rest` channel-major (all red coefficients from 1 on, then green, then
blue), normals zero.

A map far from its origin does not fit into float32: its means are written relative to an offset,
which stands in a header comment (`comment offset X Y Z`, float64) and beside the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gs_decoder.ply_header import InvalidPly, PlyHeader, parse_header
from gs_decoder.sh import MAX_DEGREE, degree_of
from gs_decoder.splats import Splats

# Logits of ±16: what float32 can tell from 0 and 1, and still finite.
_NEAR = 4096.0
"""Metres from the origin within which float32 resolves a quarter of a millimetre."""
_MIN_OPACITY = 1e-7
# A tenth of a nanometre: finite as a logarithm, invisible.
_MIN_SCALE = 1e-10


class PlyContent(NamedTuple):
    """What a file held."""

    splats: Splats
    """float32, relative to `offset`."""
    offset: np.ndarray
    """(3,) float64 metres: add it to the means."""


def ply_properties(sh_degree: int) -> list[str]:
    """Names of the float32 properties in file order."""
    rest = 3 * ((sh_degree + 1) ** 2 - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz"),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(rest)),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def encode_ply(splats: Splats, *, offset: npt.ArrayLike | None = None) -> bytes:
    """A PLY file of splats (N, …).

    Args:
        splats: in world axes, SH too. Opacities of 0 and 1 and scales of 0, which have no finite
            logit or logarithm, are moved to the nearest value that has.
        offset: (3,) float64 metres that the means are relative to; None or zeros: the world.

    Raises:
        ValueError: batch dimensions, values that no splat can have, or an offset that is not
            three finite numbers.
    """
    if splats.means.ndim != 2:
        raise ValueError(f"means have shape {tuple(splats.means.shape)}: a PLY takes (N, 3)")
    splats.check_values()
    shift = _checked_offset(offset)
    names = ply_properties(splats.sh_degree)
    lines = ["ply", "format binary_little_endian 1.0"]
    if shift.any():
        lines.append("comment offset " + " ".join(repr(float(value)) for value in shift))
    lines.append(f"element vertex {splats.count}")
    lines += [f"property float {name}" for name in names]
    lines.append("end_header\n")

    fields = {name: value.astype(np.float64) for name, value in splats.to_numpy().items()}
    opacities = np.clip(fields["opacities"], _MIN_OPACITY, 1.0 - _MIN_OPACITY)
    norms = np.linalg.norm(fields["quats_wxyz"], axis=1, keepdims=True)
    identity = np.array([1.0, 0.0, 0.0, 0.0])
    quats = np.where(norms > 0, fields["quats_wxyz"] / np.where(norms > 0, norms, 1.0), identity)
    sh = fields["sh"]  # (N, K, 3)
    columns = [
        fields["means"],
        np.zeros((splats.count, 3)),
        sh[:, 0],
        sh[:, 1:].transpose(0, 2, 1).reshape(splats.count, 3 * (sh.shape[1] - 1)),
        np.log(opacities / (1.0 - opacities))[:, None],
        np.log(np.maximum(fields["scales"], _MIN_SCALE)),
        quats,
    ]
    table = np.concatenate(columns, axis=1, dtype="<f4", casting="same_kind")
    assert table.shape == (splats.count, len(names))
    return "\n".join(lines).encode("ascii") + table.tobytes()


def decode_ply(data: bytes, *, source: str = "the PLY data") -> PlyContent:
    """Splats of any 3DGS PLY: properties in any order and type, SH of any degree, extra ones.

    Splats whose numbers are not finite are left out.

    Raises:
        InvalidPly: not a PLY, ASCII, truncated, or without splats; the message names `source`.
    """
    header = parse_header(data, source)
    table = header.vertices(data)
    missing = [
        name
        for name in ply_properties(0)
        if name not in header.names and name not in ("nx", "ny", "nz")
    ]
    if missing:
        raise InvalidPly(
            f"{source} lacks {', '.join(missing)}: it is not an uncompressed 3DGS file; it has "
            f"{', '.join(header.names) or 'no properties'}"
        )

    def columns(*names: str) -> np.ndarray:
        return np.stack([table[name] for name in names], -1).astype(np.float64)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        quats = columns("rot_0", "rot_1", "rot_2", "rot_3")
        fields = {
            "means": columns("x", "y", "z"),
            "quats_wxyz": quats / np.linalg.norm(quats, axis=1, keepdims=True),
            "scales": np.exp(columns("scale_0", "scale_1", "scale_2")),
            "opacities": 1.0 / (1.0 + np.exp(-columns("opacity")[:, 0])),
            "sh": _sh(header, columns("f_dc_0", "f_dc_1", "f_dc_2"), table, source),
        }
        stored = {name: value.astype(np.float32) for name, value in fields.items()}
    finite = np.ones(len(table), dtype=bool)
    for value in stored.values():
        finite &= np.isfinite(value).all(axis=tuple(range(1, value.ndim)))
    offset = np.zeros(3) if header.offset is None else np.array(header.offset)
    doubles = table["x"].dtype.itemsize == 8
    if doubles and finite.any() and np.abs(fields["means"][finite]).max() > _NEAR:
        # float32 would lose their centimetres.
        middle = np.round(np.median(fields["means"][finite], axis=0))
        stored["means"] = (fields["means"] - middle).astype(np.float32)
        offset = offset + middle
    return PlyContent(
        Splats.from_numpy({name: value[finite] for name, value in stored.items()}), offset
    )


def offset_path(path: str | os.PathLike[str]) -> Path:
    """Where the offset of a PLY stands beside it: `map.ply` → `map.ply.offset.json`."""
    return Path(f"{os.fspath(path)}.offset.json")


def write_ply(
    path: str | os.PathLike[str], splats: Splats, *, offset: npt.ArrayLike | None = None
) -> None:
    """`encode_ply` into a file, written aside and renamed; an offset also goes to `offset_path`.

    A reader never sees half a file, and no offset of an older file stays behind.

    Raises:
        ValueError: as `encode_ply`.
        OSError: the folder is missing or not writable.
    """
    data = encode_ply(splats, offset=offset)
    shift = _checked_offset(offset)
    beside = offset_path(path)
    if shift.any():
        record = {"offset": shift.tolist(), "unit": "metre", "file": Path(path).name}
        write_aside(beside, (json.dumps(record, indent=1) + "\n").encode())
    else:
        beside.unlink(missing_ok=True)
    write_aside(Path(path), data)


def read_ply(path: str | os.PathLike[str]) -> PlyContent:
    """`(splats, offset)` of a 3DGS PLY file.

    The offset comes from its header; from the file beside it (`offset_path`) where a program that
    saved the PLY again dropped the comment.

    Raises:
        InvalidPly: as `decode_ply`, naming the file.
        OSError: no such file.
    """
    content = decode_ply(Path(path).read_bytes(), source=os.fspath(path))
    beside = offset_path(path)
    if content.offset.any() or not beside.is_file():
        return content
    try:
        shift = _checked_offset(json.loads(beside.read_text(encoding="utf-8"))["offset"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidPly(f"{beside} does not hold an offset ({error}): mend or remove it") from None
    return PlyContent(content.splats, shift)


def _sh(header: PlyHeader, dc: np.ndarray, table: np.ndarray, source: str) -> np.ndarray:
    """(N, K, 3) from `f_dc` (N, 3) and whatever `f_rest` there is."""
    rest = sorted(
        (name for name in header.names if name.startswith("f_rest_")),
        key=lambda name: int(name.removeprefix("f_rest_")),
    )
    try:
        if rest != [f"f_rest_{i}" for i in range(len(rest))] or len(rest) % 3:
            raise ValueError("they are not numbered through in threes")
        degree_of(len(rest) // 3 + 1)
    except ValueError as error:
        expected = [3 * ((degree + 1) ** 2 - 1) for degree in range(MAX_DEGREE + 1)]
        raise InvalidPly(
            f"{source} has {len(rest)} f_rest properties: expected one of {expected} ({error})"
        ) from None
    if not rest:
        return dc[:, None]
    values = np.stack([table[name] for name in rest], -1).astype(np.float64)
    return np.concatenate(
        [dc[:, None], values.reshape(len(table), 3, len(rest) // 3).transpose(0, 2, 1)], axis=1
    )


def _checked_offset(offset: npt.ArrayLike | None) -> np.ndarray:
    shift = np.zeros(3) if offset is None else np.asarray(offset, dtype=np.float64)
    if shift.shape != (3,) or not np.isfinite(shift).all():
        raise ValueError(f"offset is {offset!r}: give three finite metres")
    return shift


def write_aside(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)

"""How the splats of one chunk travel: named little-endian arrays, one raw part each.

Wire protocol, section 2: codec ``f32`` carries the activated values as they are; codec ``f16``
halves them and stores the means relative to the chunk's box, where half precision is good enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.protocol.errors import ProtocolError
from streamer.protocol.update_headers import PartSpec
from streamer.protocol.wire import Buffer

SplatArrays = Mapping[str, NDArray[Any]]
"""``means (n,3)``, ``quats_wxyz (n,4)``, ``scales (n,3)``, ``opacities (n,)``, ``sh (n,K,3)``."""

NAMES = ("means", "quats_wxyz", "scales", "opacities", "sh")
CODECS = {"f32": "float32", "f16": "float16"}
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
MAX_SH_DEGREE = 3
_FLOAT16_MAX = 65504.0


def part_shapes(count: int, sh_degree: int) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a chunk of ``count`` splats, in wire order."""
    bands = (sh_degree + 1) ** 2
    return {
        "means": (count, 3),
        "quats_wxyz": (count, 4),
        "scales": (count, 3),
        "opacities": (count,),
        "sh": (count, bands, 3),
    }


def part_specs(count: int, sh_degree: int, codec: str = "f32") -> list[PartSpec]:
    """The ``parts`` entry of a chunk's header."""
    dtype = CODECS[codec]
    shapes = part_shapes(count, sh_degree)
    return [PartSpec(name=n, dtype=dtype, shape=list(s)) for n, s in shapes.items()]


def encode_splats(
    arrays: SplatArrays, aabb: Sequence[float], codec: str = "f32"
) -> list[memoryview]:
    """One raw part per array of :data:`NAMES`.

    ``aabb`` (xmin ymin zmin xmax ymax zmax, chunk frame) is what ``f16`` means are relative to.
    Raises ValueError for a codec that is not one of :data:`CODECS`.
    """
    if codec not in CODECS:
        raise ValueError(f"codec: {codec!r} is not one of {sorted(CODECS)}")
    dtype = _DTYPES[CODECS[codec]]
    parts = []
    for name in NAMES:
        values = np.asarray(arrays[name])
        if codec == "f16":
            if name == "means":
                centre, half = box_frame(aabb)
                values = (values.astype(np.float64) - centre) / half
            # A scale or coefficient past the half range would turn into infinity.
            values = np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX)
        flat = np.ascontiguousarray(values, dtype).reshape(-1)
        parts.append(flat.view(np.uint8).data)
    return parts


def decode_splats(
    parts: Sequence[Buffer],
    specs: Sequence[PartSpec],
    *,
    count: int,
    sh_degree: int,
    codec: str,
    aabb: Sequence[float],
) -> dict[str, NDArray[np.float32]]:
    """Raw parts back to owned, writable ``float32`` arrays.

    Raises ProtocolError ``bad_header`` or ``bad_part`` where header and parts disagree.
    """
    check_parts(parts, specs, count=count, sh_degree=sh_degree, codec=codec)
    shapes = part_shapes(count, sh_degree)
    arrays = {}
    for part, spec in zip(parts, specs):
        raw = np.frombuffer(part, _DTYPES[spec.dtype]).reshape(shapes[spec.name])
        values = raw.astype(np.float32)
        if codec == "f16" and spec.name == "means":
            centre, half = box_frame(aabb)
            values = (raw.astype(np.float64) * half + centre).astype(np.float32)
        arrays[spec.name] = values
    return arrays


def check_parts(
    parts: Sequence[Buffer],
    specs: Sequence[PartSpec],
    *,
    count: int,
    sh_degree: int,
    codec: str,
) -> None:
    """Whether ``parts`` are what the header states; raises ProtocolError, allocates nothing."""
    if codec not in CODECS:
        raise ProtocolError("bad_header", f"codec: {codec!r} is not one of {sorted(CODECS)}")
    if not 0 <= sh_degree <= MAX_SH_DEGREE:
        raise ProtocolError("bad_header", f"sh_degree: {sh_degree} is not in 0..{MAX_SH_DEGREE}")
    shapes = part_shapes(count, sh_degree)
    if sorted(s.name for s in specs) != sorted(shapes):
        names = [s.name for s in specs]
        raise ProtocolError("bad_header", f"parts: {names} are not the arrays {list(shapes)}")
    if len(parts) != len(specs):
        raise ProtocolError("bad_part", f"{len(parts)} parts came where {len(specs)} were stated")
    dtype = CODECS[codec]
    for part, spec in zip(parts, specs):
        if spec.dtype != dtype:
            raise ProtocolError(
                "bad_header", f"parts.{spec.name}.dtype: {spec.dtype!r}; codec {codec} is {dtype}"
            )
        if tuple(spec.shape) != shapes[spec.name]:
            raise ProtocolError(
                "bad_header",
                f"parts.{spec.name}.shape: {spec.shape} where count and sh_degree "
                f"say {shapes[spec.name]}",
            )
        expected = math.prod(spec.shape) * _DTYPES[dtype].itemsize
        if len(part) != expected:
            raise ProtocolError(
                "bad_part", f"part {spec.name} has {len(part)} bytes, its header says {expected}"
            )


def cut_parts(parts: Sequence[Buffer], specs: Sequence[PartSpec], count: int) -> list[memoryview]:
    """The first ``count`` splats of every part, without a copy.

    Splats are ordered by falling volume × opacity, so that what is cut off matters least.
    """
    cut = []
    for part, spec in zip(parts, specs):
        row = math.prod(spec.shape[1:]) * _DTYPES[spec.dtype].itemsize
        cut.append(memoryview(part)[: count * row])
    return cut


def box_frame(aabb: Sequence[float]) -> tuple[NDArray[np.float64], float]:
    """Centre (3,) and largest half-side of a box; a box without extent counts as a unit cube."""
    low = np.asarray(aabb[:3], np.float64)
    high = np.asarray(aabb[3:], np.float64)
    half = float(np.max(high - low)) / 2
    return (low + high) / 2, half if half > 0 else 1.0

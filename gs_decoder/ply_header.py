"""The header of a PLY file (Turk 1994), as far as splats need it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 1 << 16


class InvalidPly(ValueError):
    """Not a PLY file of splats that can be read."""


@dataclass(frozen=True, slots=True)
class PlyHeader:
    """Where the vertices of a binary PLY lie, and what they hold."""

    source: str
    dtype: np.dtype
    """One vertex."""
    count: int
    start: int
    """Byte offset of the first vertex."""
    offset: tuple[float, float, float] | None
    """Of the comment `offset X Y Z`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Property names in file order."""
        return self.dtype.names or ()

    def vertices(self, data: bytes) -> np.ndarray:
        """(count,) structured array on `data`."""
        need = self.start + self.count * self.dtype.itemsize
        if len(data) < need:
            whole = max(0, len(data) - self.start) // max(1, self.dtype.itemsize)
            raise InvalidPly(
                f"{self.source} is truncated: {len(data)} bytes where its header announces "
                f"{need} ({whole} of {self.count} splats): fetch it again"
            )
        return np.frombuffer(data, self.dtype, self.count, self.start)


def parse_header(data: bytes, source: str) -> PlyHeader:
    """Read the header at the beginning of `data`.

    Raises:
        InvalidPly: not a PLY, not binary, damaged, or without a vertex element of fixed size.
    """
    if not re.match(rb"ply\r?\n", data):
        raise InvalidPly(f"{source} is not a PLY file: it does not begin with the line 'ply'")
    end = re.search(rb"\nend_header\r?\n", data[:_MAX_HEADER])
    if end is None:
        raise InvalidPly(f"{source} has no end of header: it is truncated or not a PLY file")
    lines = data[: end.start()].decode("latin-1").splitlines()[1:]
    order, offset = None, None
    elements: list[tuple[str, int, list[tuple[str, str]], bool]] = []
    for line in lines:
        words = line.split()
        try:
            match words:
                case ["format", "ascii", _]:
                    raise InvalidPly(f"{source} is an ASCII PLY: save it as binary_little_endian")
                case ["format", kind, _]:
                    order = _ORDER[kind]
                case ["comment", "offset", x, y, z]:
                    offset = (float(x), float(y), float(z))
                case [] | ["comment", *_] | ["obj_info", *_]:
                    pass
                case ["element", name, number] if number.isdecimal():
                    elements.append((name, int(number), [], False))
                case ["property", "list", _, _, _]:
                    elements[-1] = (*elements[-1][:3], True)
                case ["property", kind, name]:
                    elements[-1][2].append((name, _TYPES[kind]))
                case _:
                    raise InvalidPly(f"{source} has a header line that PLY does not know: {line!r}")
        except (KeyError, IndexError, ValueError) as error:
            if isinstance(error, InvalidPly):
                raise
            raise InvalidPly(f"{source} has a damaged header line: {line!r}") from None
    if order is None:
        raise InvalidPly(f"{source} does not state its format: it is damaged")
    start = end.end()
    for name, count, properties, has_list in elements:
        if has_list and (name == "vertex" or count):
            raise InvalidPly(
                f"{source} has lists in its element {name!r}: it is a mesh, not 3DGS splats"
            )
        try:
            dtype = np.dtype([(key, order + kind) for key, kind in properties])
        except ValueError as error:
            raise InvalidPly(f"{source} names a property twice: {error}") from None
        if name == "vertex":
            return PlyHeader(source, dtype, count, start, offset)
        start += count * dtype.itemsize
    raise InvalidPly(f"{source} has no element 'vertex': it holds no splats")

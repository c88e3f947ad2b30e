"""Types that several headers share."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from streamer.protocol.limits import MAX_INT, MAX_SIDE, MAX_STAMP

UInt = Annotated[int, Meta(ge=0, le=MAX_INT)]
Stamp = Annotated[int, Meta(ge=0, le=MAX_STAMP)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Floats9 = Annotated[list[float], Meta(min_length=9, max_length=9)]
Floats16 = Annotated[list[float], Meta(min_length=16, max_length=16)]
Share = Annotated[float, Meta(ge=0, le=1)]
Colour = tuple[Share, Share, Share]
Params = Annotated[list[float], Meta(min_length=1, max_length=16)]
Version = tuple[UInt, UInt]

SESSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every header; `KIND` is the first frame of the message that carries it."""

    KIND: ClassVar[bytes] = b""


class Empty(Header, frozen=True, kw_only=True):
    """A header with nothing to say (`{}`)."""

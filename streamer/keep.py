"""How much of something is kept, as people say it: `all`, `20GB`, `7d`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BYTES = {
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_SECONDS = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class KeepError(ValueError):
    """A text that says no such amount; the message says which do."""


@dataclass(frozen=True, slots=True)
class Keep:
    """At most so many bytes, or nothing older than so many seconds; both None: everything."""

    max_bytes: int | None = None
    max_age_s: float | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is ever to go."""
        return self.max_bytes is None and self.max_age_s is None


def parse_keep(text: str) -> Keep:
    """An amount.

    Raises:
        KeepError: it is none.
    """
    if text == "all":
        return Keep()
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text)
    amount, unit = (float(match[1]), match[2]) if match is not None else (0.0, "")
    if amount > 0 and unit in _BYTES:
        return Keep(max_bytes=int(amount * _BYTES[unit]))
    if amount > 0 and unit in _SECONDS:
        return Keep(max_age_s=amount * _SECONDS[unit])
    units = ", ".join((*_BYTES, *_SECONDS))
    raise KeepError(f"{text!r} is no amount: say all, or a number with one of {units} (20GB, 7d)")

"""The "did you mean …" at the end of an error about a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """`, did you mean 'opengl'?` where one of ``choices`` is close, else the list of them all."""
    known = list(choices)
    folded = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(str(value).lower(), folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    return f"known are {', '.join(known)}"

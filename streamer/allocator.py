"""Memory that the C library keeps for later, given back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return what is free on the heap, wherever it lies; some milliseconds. glibc alone can do it.

    glibc keeps what was freed below something that is still used: where long-lived objects come
    one at a time between arrays that go again, that grows as if it leaked.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

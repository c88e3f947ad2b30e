"""What is free on the heap goes back to the system."""

from __future__ import annotations

import os
import platform

import pytest

from streamer.allocator import give_back
from streamer.process_stats import process_stats


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_what_was_freed_between_what_is_used_goes_back() -> None:
    # Below the size from which glibc maps memory by itself, every other one stays.
    blocks = [bytearray(60_000) for _ in range(2_000)]
    kept = blocks[::2]
    del blocks
    stats = process_stats(os.getpid())
    assert stats is not None
    before = stats.resident_bytes
    give_back()
    stats = process_stats(os.getpid())
    assert stats is not None
    assert before - stats.resident_bytes > 30_000_000
    assert all(len(block) == 60_000 for block in kept)


def test_where_it_cannot_be_asked_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.allocator.ctypes.CDLL", lambda name: object())
    give_back()

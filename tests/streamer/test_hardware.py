"""The machine's one line."""

from __future__ import annotations

import os
import re

from streamer.hardware import cpu_model, hardware, memory_bytes, usable_cores


def test_line_names_processor_cores_and_memory() -> None:
    assert re.fullmatch(r".+, \d+ cores, \d+ GiB memory(, .+)?", hardware())
    assert hardware().startswith(cpu_model())
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert 2**28 < memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

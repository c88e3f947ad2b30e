"""The machine in one line, for every figure that is reported."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path


def hardware() -> str:
    """CPU model, usable cores and memory, and the GPU where torch is loaded and can use one.

    For instance `AMD EPYC 9575F, 2 cores, 23 GiB memory`.
    """
    parts = [cpu_model(), f"{usable_cores()} cores", f"{memory_bytes() / 2**30:.0f} GiB memory"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def cpu_model() -> str:
    """What the processor calls itself."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        return answer.stdout.strip() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use: affinity, and a container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        if quota != "max":
            cores = max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or a container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        if limit != "max":
            total = min(total, int(limit))
    except (OSError, ValueError):
        pass
    return total


def peak_memory_bytes() -> int:
    """Largest resident set that this process has had.

    On Linux not from getrusage, which counts what the parent held when it started this process.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

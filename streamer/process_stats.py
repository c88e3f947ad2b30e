"""CPU time and memory of processes, from Linux's /proc."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """Of one process: CPU time since its start, and what of it lies in memory now."""

    cpu_s: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """A process over a while: cores in use (1.0 is one busy core) and its largest memory."""

    name: str
    pid: int
    cores: float
    peak_bytes: int


def process_stats(pid: int) -> ProcessStats | None:
    """None where the process is gone, or the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # Counted from the state, which is the third field of proc(5).
    ticks = int(fields[11]) + int(fields[12])
    pages = int(fields[21])
    return ProcessStats(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def daemon_processes(supervisor: int) -> dict[int, str]:
    """The daemon of this supervisor: name by pid, the supervisor's own among them."""
    try:
        words = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    except OSError:
        return {}
    found = {supervisor: "supervisor"}
    for pid in map(int, words):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "streamer.child" in arguments:
            module = arguments[arguments.index("streamer.child") + 1]
            found[pid] = module.removeprefix("streamer.")
    return found


class DaemonSampler:
    """Watches the processes of a daemon from a thread, between `start` and `stop`."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._first: dict[int, tuple[str, float, float]] = {}
        self._loads: dict[int, ProcessLoad] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> list[ProcessLoad]:
        """End; every process that was seen, by name."""
        self._end.set()
        self._thread.join()
        return sorted(self._loads.values(), key=lambda load: (load.name, load.pid))

    def _run(self) -> None:
        while True:
            ended = self._end.wait(_EVERY_S if self._first else 0.0)
            for pid, name in daemon_processes(self._supervisor).items():
                stats = process_stats(pid)
                if stats is not None:
                    self._note(pid, name, stats)
            if ended:
                return

    def _note(self, pid: int, name: str, stats: ProcessStats) -> None:
        now = time.monotonic()
        _, began, cpu_s = self._first.setdefault(pid, (name, now, stats.cpu_s))
        before = self._loads.get(pid)
        peak = max(stats.resident_bytes, before.peak_bytes if before else 0)
        cores = (stats.cpu_s - cpu_s) / max(now - began, 1e-3)
        self._loads[pid] = ProcessLoad(name, pid, cores, peak)

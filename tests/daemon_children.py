"""The processes that a daemon consists of, as the system lists them."""

from __future__ import annotations

from pathlib import Path


def children(supervisor: int) -> dict[str, list[int]]:
    """Pids of the daemon's processes by module name; zombies do not count."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) != supervisor or fields[0] in "ZX" or b"streamer.child" not in arguments:
            continue
        module = arguments[arguments.index(b"streamer.child") + 1].decode()
        found.setdefault(module.removeprefix("streamer."), []).append(int(entry.name))
    return found


def descendants(pid: int) -> set[int]:
    """Pids of a process's children, of theirs, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, newest = set[int](), {pid}
    while newest:
        newest = {child for child, parent in parents.items() if parent in newest} - found
        found |= newest
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

"""Two sessions on one machine: what each of them gets of it, and what one costs the other.

    python benchmarks/fair_sessions.py [--seconds 20] [--fps 2] [--json FILE]

Real daemons, the demo capture. Four situations: `refining`: both have their frames and only
refine; `streaming`: both are sent frames faster than they take them; `alone`: one is sent frames at
`--fps`, nothing else runs; `beside`: the same, while the other one only refines. Printed are the
CPU seconds that each session's process had, frames done, and the latency (receipt at the ingest to
publication, ms) as the session gives it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamer.client import Client
from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.demo import CAPTURE
from streamer.hardware import hardware
from streamer.process_stats import daemon_processes, process_stats
from streamer.requests import RequestRefused, Requests
from streamer.sources import open_capture

NAMES = ("first", "second")
OFFICE = open_capture(CAPTURE)


class Sender:
    """One session's client; frames of the demo capture over and over."""

    def __init__(self, daemon: DaemonProcess, name: str) -> None:
        self.name = name
        self._client = Client(
            daemon.addresses["ingest"],
            session=name,
            cameras=OFFICE.cameras,
            convention=OFFICE.convention,
        )
        self._sent = 0

    def send(
        self, count: int, fps: float | None = None, stop: threading.Event | None = None
    ) -> None:
        """So many frames; at most so many a second, until `stop`."""
        for _ in range(count):
            frame = OFFICE.frames[self._sent % len(OFFICE.frames)]
            self._client.send(frame.image_path.read_bytes(), frame.c2w, camera=frame.camera)
            self._sent += 1
            if stop is not None and stop.wait(0.0 if fps is None else 1.0 / fps):
                return

    def settle(self, requests: Requests) -> None:
        """Wait until everything sent is done."""
        self._client.flush()
        self._client.wait()
        while self._done(requests) < self._sent:
            time.sleep(0.2)

    def _done(self, requests: Requests) -> int:
        with contextlib.suppress(RequestRefused):
            return requests.status(self.name).frames_done
        return 0

    def close(self) -> None:
        self._client.close(timeout=None)


def processes(daemon: DaemonProcess) -> list[int]:
    """Of sessions, the spare among them."""
    return [pid for pid, name in daemon_processes(daemon.pid).items() if name == "session"]


def cpu_seconds(pid: int) -> float:
    stats = process_stats(pid)
    return 0.0 if stats is None else stats.cpu_s


@contextlib.contextmanager
def two_sessions(
    names: tuple[str, ...],
) -> Iterator[tuple[DaemonProcess, Requests, dict[str, Any]]]:
    """A daemon with these sessions, each with 4 frames; by name: its sender and its process."""
    with tempfile.TemporaryDirectory() as folder:
        config = ServeConfig(
            ingest="tcp://127.0.0.1:*",
            updates="tcp://127.0.0.1:*",
            requests="tcp://127.0.0.1:*",
            session_dir=Path(folder),
            max_sessions=len(names),
            session=SessionConfig(),
            viewer=ViewerConfig(enabled=False),
        )
        with DaemonProcess(config) as daemon, Requests(daemon.addresses["requests"]) as requests:
            there: dict[str, Any] = {}
            taken: set[int] = set()
            for name in names:
                sender = Sender(daemon, name)
                sender.send(4)
                sender.settle(requests)
                # Whoever computed most of those that are not known yet is this session's.
                pid = max(set(processes(daemon)) - taken, key=cpu_seconds)
                taken.add(pid)
                there[name] = (sender, pid)
            yield daemon, requests, there


def situation(names: tuple[str, ...], senders: dict[str, float | None], seconds: float) -> Any:
    """What sessions get in so many seconds.

    Args:
        senders: frames a second by session, None: as many as it takes.
    """
    with two_sessions(names) as (_, requests, there):
        stop = threading.Event()
        threads = [
            threading.Thread(target=there[name][0].send, args=(10**9, fps, stop))
            for name, fps in senders.items()
        ]
        before = {name: (cpu_seconds(there[name][1]), requests.status(name)) for name in names}
        began = time.monotonic()
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        after = {name: (cpu_seconds(there[name][1]), requests.status(name)) for name in names}
        took = time.monotonic() - began
        stop.set()
        for thread in threads:
            thread.join()
        result = {}
        for name in names:
            (cpu, status), (cpu_before, status_before) = after[name], before[name]
            latency = status.latency_ms
            result[name] = {
                "cores": round((cpu - cpu_before) / took, 2),
                "frames_per_s": round((status.frames_done - status_before.frames_done) / took, 2),
                "latency_ms": None if latency is None else [round(latency.p50), round(latency.p95)],
                "state": status.state,
            }
        for sender, _ in there.values():
            sender.close()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    first, second = NAMES
    situations: dict[str, tuple[tuple[str, ...], dict[str, float | None]]] = {
        "refining": (NAMES, {}),
        "streaming": (NAMES, {first: None, second: None}),
        "alone": ((first,), {first: options.fps}),
        "beside": (NAMES, {first: options.fps}),
    }
    report: dict[str, Any] = {
        "hardware": hardware(),
        "load_before": round(os.getloadavg()[0], 1),
        "seconds": options.seconds,
        "fps": options.fps,
    }
    for name, (names, senders) in situations.items():
        if options.only and name not in options.only:
            continue
        report[name] = situation(names, senders, options.seconds)
        print(name, json.dumps(report[name]), flush=True)
    report["load_after"] = round(os.getloadavg()[0], 1)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

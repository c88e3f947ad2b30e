"""A sender that is ten times faster than the daemon: memory flat, latency bounded?

    python benchmarks/overload.py lossless|live [--seconds 150] [--factor 10] [--moving]

Starts a daemon, finds out how many frames a second it finishes when it is sent as many as it takes,
and then has frames come --factor times as often, for --seconds: the demo's pictures from their own
places over and over, so that the map itself stays as it is (with --moving, every round in another
place). Every second it notes the memory of
every process and the latency that the daemon says (receipt of a frame to the publication of what
it changed, p95 of the last 256 frames); after the first half, in which kernels load and tables
fill, the slope of each is fitted with its standard error. It also says how many key frames there
were and at how many pixels they were predicted (the session makes them coarser, then fewer, once
frames are lost), and how many cores each process kept busy. With --json the figures are put into a
file, beside the other policy's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from streamer import Requests
from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.demo import CAPTURE
from streamer.hardware import hardware
from streamer.load import LoadClient, Material, material, run_load
from streamer.process_stats import daemon_processes, process_stats
from streamer.protocol.messages import Policy
from streamer.sources import open_capture

SESSION = "overload"
MEASURE_S = 20.0


@dataclass
class Options:
    """What to send."""

    policy: tyro.conf.Positional[Policy]
    """lossless: the sender waits for credit; live: frames are dropped."""
    seconds: float = 150.0
    """Of overload."""
    factor: float = 10.0
    """How much faster than the daemon the sender is."""
    long_side: int = 96
    """Of the pictures, and of what the session works on, pixels."""
    moving: bool = False
    """Every round through the pictures in a place of its own, so that there is always something new
    to make key frames of; else the same places again, so that the map stays as it is."""
    json: Path | None = None
    """Put the figures into this file."""


class InPlace(Material):
    """The same walk once more, and once more."""

    def pose(self, number: int) -> np.ndarray:
        return self.frames[number % len(self.frames)].c2w


@dataclass
class Series:
    """What was noted each second."""

    seconds: list[float] = field(default_factory=list)
    megabytes: dict[str, list[float]] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    keyframes: list[tuple[int, int]] = field(default_factory=list)
    """How many there are, and the side in pixels that the newest were predicted at."""
    cpu_s: dict[str, list[float]] = field(default_factory=dict)


def watch(daemon: DaemonProcess, ended: threading.Event, series: Series) -> None:
    """Note memory and latency until the end."""
    began = time.monotonic()
    with Requests(daemon.addresses["requests"], timeout=30) as requests:
        while not ended.wait(1.0):
            status = requests.status(SESSION)
            if status.latency_ms is None:
                continue
            series.seconds.append(time.monotonic() - began)
            series.latency_ms.append(status.latency_ms.p95)
            series.waiting.append(status.frames_waiting)
            series.keyframes.append((status.keyframes, status.keyframe_side or 0))
            for pid, name in daemon_processes(daemon.pid).items():
                stats = process_stats(pid)
                # A spare session that waits for the next stream has the name too.
                label = f"{name} {pid}" if name == "session" else name
                if stats is not None:
                    series.megabytes.setdefault(label, []).append(stats.resident_bytes / 1e6)
                    series.cpu_s.setdefault(label, []).append(stats.cpu_s)


def fitted(seconds: list[float], values: list[float]) -> dict[str, float]:
    """Of the second half: mean, and slope a minute with its standard error."""
    half = len(values) // 2
    minutes, later = np.array(seconds[-len(values) :])[half:] / 60.0, np.array(values)[half:]
    (slope, _), covariance = np.polyfit(minutes, later, 1, cov=True)
    return {
        "mean": round(float(later.mean()), 2),
        "max": round(float(max(values)), 2),
        "slope_per_minute": round(float(slope), 3),
        "error": round(float(np.sqrt(covariance[0, 0])), 3),
    }


def load(
    daemon: DaemonProcess, what: Material, policy: Policy, *, fps: float, seconds: float
) -> LoadClient:
    """One client for so long; it is closed."""
    client = LoadClient(daemon.addresses["ingest"], SESSION, what, fps=fps, policy=policy)
    try:
        run_load([client], seconds=seconds, address=daemon.addresses["ingest"])
    finally:
        client.close()
    return client


def overload(options: Options) -> dict[str, Any]:
    """Run it."""
    shown = material(open_capture(CAPTURE), long_side=options.long_side)
    what = shown if options.moving else InPlace(shown.frames, shown.cameras)
    free = "tcp://127.0.0.1:*"
    with tempfile.TemporaryDirectory() as folder:
        config = ServeConfig(
            ingest=free,
            updates=free,
            requests=free,
            session_dir=Path(folder),
            session=SessionConfig(long_side=options.long_side),
            viewer=ViewerConfig(enabled=False),
        )
        with (
            DaemonProcess(config) as daemon,
            Requests(daemon.addresses["requests"], timeout=30) as requests,
        ):
            # Once to load the kernels and to make the map, once to be measured.
            for seconds in (MEASURE_S, MEASURE_S):
                before, began = _done(requests), time.monotonic()
                load(daemon, what, "lossless", fps=10_000.0, seconds=seconds)
                speed = (_done(requests) - before) / (time.monotonic() - began)
            before_it = requests.status(SESSION).keyframes
            series, ended = Series(), threading.Event()
            watching = threading.Thread(target=watch, args=(daemon, ended, series), daemon=True)
            watching.start()
            fps = options.factor * speed
            client = load(daemon, what, options.policy, fps=fps, seconds=options.seconds)
            ended.set()
            watching.join()
            status = requests.status(SESSION)
    memory = {
        name: fitted(series.seconds, values)
        for name, values in series.megabytes.items()
        if len(values) > 10
    }
    return {
        "machine": hardware(),
        "load": round(os.getloadavg()[0], 1),
        "asked": {k: v for k, v in dataclasses.asdict(options).items() if k != "json"},
        "daemon_fps": round(speed, 1),
        "sender_fps": round(fps, 1),
        "frames": {
            "due": client.result.due,
            "sent": client.result.sent,
            "accepted": status.frames_in,
            "done": status.frames_done,
            "dropped": status.frames_dropped,
            "rejected": dict(client.result.rejected),
        },
        "ack_ms": dict(
            zip(("p50", "p95"), np.percentile(client.result.ack_ms, [50, 95]).round(1).tolist())
        ),
        "waiting_max": max(series.waiting),
        "key_frames": {
            "before": before_it,
            "under_overload": status.keyframes - before_it,
            "long_side_each_10_s": [side for _, side in series.keyframes[::10]],
        },
        "cores": {
            name: round((spent[-1] - spent[0]) / (series.seconds[-1] - series.seconds[0]), 3)
            for name, spent in series.cpu_s.items()
            if len(spent) == len(series.seconds)
        },
        "latency_p95_ms": fitted(series.seconds, series.latency_ms),
        "memory_mb": memory,
        "latency_p95_ms_every_10_s": [round(v) for v in series.latency_ms[::10]],
    }


def _done(requests: Requests) -> int:
    known = {entry.session for entry in requests.sessions()}
    return requests.status(SESSION).frames_done if SESSION in known else 0


def main(options: Options) -> None:
    """One policy."""
    result = overload(options)
    print(json.dumps(result, indent=1))
    if options.json is not None:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        name = f"{options.policy}_moving" if options.moving else options.policy
        options.json.write_text(json.dumps({**known, name: result}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))

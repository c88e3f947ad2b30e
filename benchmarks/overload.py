"""A sender that is ten times faster than the daemon: memory flat, latency bounded?

    python benchmarks/overload.py lossless|live [--seconds 300] [--factor 10] [--moving]

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

Exit code 1 where one of these does not hold, for the second half:
- memory is flat: no process grows by more than `GROWTH` of itself, `KEPT_KB` of each key frame and
  two standard errors (a queue without a bound would grow by that in seconds);
- latency is bounded: p95 stays below twice what the frames that may wait take at the speed that
  there was, and `PUBLISHED_MS` (below that it may rise where other programs slow the daemon down);
- no frame is refused, and under lossless none is dropped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from chaos import Report
from soak import KEPT_KB

from streamer import Requests
from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.demo import CAPTURE
from streamer.hardware import hardware
from streamer.load import LoadClient, Material, material, run_load
from streamer.process_stats import daemon_processes, process_stats
from streamer.protocol.messages import Policy
from streamer.requests import DaemonSilent
from streamer.sources import open_capture

SESSION = "overload"
MEASURE_S = 20.0
LATENCY_OF = 256
"""The daemon says the latency of so many latest frames: before, those of the first runs are among
them."""
SHORTEST_S = 30.0
"""Of overload: a slope needs some points."""
GROWTH = 0.01
"""Of a process's memory, over the second half."""
PUBLISHED_MS = 1000.0
"""From the end of a frame's batch until readers have what it changed: a chunk is published at most
five times a second, and not in the middle of a step of refinement."""


@dataclass
class Options:
    """What to send."""

    policy: tyro.conf.Positional[Policy]
    """lossless: the sender waits for credit; live: frames are dropped."""
    seconds: float = 300.0
    """Of overload; 30 or more."""
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
    done: list[int] = field(default_factory=list)
    """Frames so far."""
    waiting: list[int] = field(default_factory=list)
    keyframes: list[tuple[int, int]] = field(default_factory=list)
    """How many there are, and the side in pixels that the newest were predicted at."""
    cpu_s: dict[str, list[float]] = field(default_factory=dict)


def watch(daemon: DaemonProcess, ended: threading.Event, series: Series) -> None:
    """Note memory and latency until the end."""
    began = time.monotonic()
    with Requests(daemon.addresses["requests"], timeout=30) as requests:
        while not ended.wait(1.0):
            status = None
            with suppress(DaemonSilent):
                status = requests.status(SESSION)
            if status is None or status.latency_ms is None:
                continue
            series.seconds.append(time.monotonic() - began)
            series.latency_ms.append(status.latency_ms.p95)
            series.done.append(status.frames_done)
            series.waiting.append(status.frames_waiting)
            series.keyframes.append((status.keyframes, status.keyframe_side or 0))
            for pid, name in daemon_processes(daemon.pid).items():
                stats = process_stats(pid)
                # One that died and came back is not taken for one that shrank.
                label = f"{name} {pid}" if name == "session" else name
                if stats is not None:
                    series.megabytes.setdefault(label, []).append(stats.resident_bytes / 1e6)
                    series.cpu_s.setdefault(label, []).append(stats.cpu_s)


def fitted(seconds: list[float], values: list[float], first: int) -> dict[str, float]:
    """From the sample `first` on: mean, and slope a minute with its standard error."""
    minutes, later = np.array(seconds[first:]) / 60.0, np.array(values[first:])
    (slope, _), covariance = np.polyfit(minutes, later, 1, cov=True)
    return {
        "mean": round(float(later.mean()), 2),
        "max": round(float(max(values)), 2),
        "max_later": round(float(later.max()), 2),
        "minutes": round(float(minutes[-1] - minutes[0]), 2),
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


def judge(report: Report, policy: Policy, waiting: int, fps: float, keyframes: int) -> None:
    """Note what does not hold.

    Args:
        waiting: frames that may wait before and in a session, at most.
        fps: frames a second that were done in the second half.
        keyframes: made in it.
    """
    figures = report.figures
    for name, memory in figures["memory_mb"].items():
        kept = KEPT_KB.get(name.split()[0], 0.0) * keyframes / 1024 + GROWTH * memory["mean"]
        grown = memory["slope_per_minute"] * memory["minutes"]
        allowed = kept + 2 * memory["error"] * memory["minutes"]
        report.expect(grown <= allowed, f"memory of {name}: +{grown:.1f} MB, {allowed:.1f} allowed")
    latency = figures["latency_p95_ms"]
    bound = 2000.0 * waiting / max(fps, 1e-3) + PUBLISHED_MS
    highest = latency["max_later"]
    report.expect(highest <= bound, f"latency p95: {highest:.0f} ms, the bound is {bound:.0f}")
    frames = figures["frames"]
    report.expect(not frames["rejected"], f"rejected: {frames['rejected']}")
    lost = frames["dropped"] if policy == "lossless" else 0
    report.expect(lost == 0, f"dropped under lossless: {lost}")


def overload(options: Options) -> Report:
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
            # No process that waits for another session: its start is no growth of this one.
            max_sessions=1,
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
    half = len(series.seconds) // 2
    all_along = {n: v for n, v in series.megabytes.items() if len(v) == len(series.seconds)}
    anew = [i for i, done in enumerate(series.done) if done - series.done[0] >= LATENCY_OF]
    if len(series.seconds) - max([half, *anew[:1]]) < SHORTEST_S / 3 or not anew:
        sys.exit(f"only {series.done[-1] - series.done[0]} frames were done: give more --seconds")
    done_fps = (series.done[-1] - series.done[half]) / (series.seconds[-1] - series.seconds[half])
    figures = {
        "machine": hardware(),
        "load": round(os.getloadavg()[0], 1),
        "asked": {k: v for k, v in dataclasses.asdict(options).items() if k != "json"},
        "daemon_fps": round(speed, 1),
        "sender_fps": round(fps, 1),
        "done_fps_second_half": round(done_fps, 1),
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
        "latency_p95_ms": fitted(series.seconds, series.latency_ms, max(half, anew[0])),
        "memory_mb": {n: fitted(series.seconds, v, half) for n, v in all_along.items()},
        "latency_p95_ms_every_10_s": [round(v) for v in series.latency_ms[::10]],
    }
    report = Report(figures)
    died = sorted(series.megabytes.keys() - all_along.keys())
    report.expect(not died, f"not there all along: {', '.join(died)}")
    queue = config.ingest_queue
    most = queue.live_waiting if options.policy == "live" else queue.max_waiting
    # A batch in the session, and another one's worth of frames that wait for their verdicts.
    waiting = most + 2 * config.session.batch_size
    keyframes = series.keyframes[-1][0] - series.keyframes[half][0]
    judge(report, options.policy, waiting, done_fps, keyframes)
    return report


def _done(requests: Requests) -> int:
    known = {entry.session for entry in requests.sessions()}
    return requests.status(SESSION).frames_done if SESSION in known else 0


def main(options: Options) -> None:
    """One policy."""
    if options.seconds < SHORTEST_S:
        sys.exit(f"--seconds {options.seconds:g}: give {SHORTEST_S:g} or more")
    report = overload(options)
    result = {**report.figures, "broken": report.broken}
    print(json.dumps(result, indent=1))
    if options.json is not None:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        name = f"{options.policy}_moving" if options.moving else options.policy
        options.json.write_text(json.dumps({**known, name: result}, indent=1) + "\n")
    sys.exit(1 if report.broken else 0)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""A long stream through a whole daemon: memory, open files and latency over its second half.

    python benchmarks/soak.py ../shared/captures/hololens_office --minutes 20.5 --fps 8.2 \
        --long-side 48 --steps 1 --json benchmarks/results/soak.json

Loops the capture, every round in a place of its own (so that map and key frames go on growing to
their bounds), through one client at `--fps`, lossless, with one subscriber and the live page.
Prints the slope of each process's resident memory with its standard error, what of it stays of each
key frame (`KEPT_KB`: what there is of a frame for ever, its pose and where its chunk rests), the
fewest and most open files, and the daemon's own latency (p95 over its latest frames) every minute.
Exit code 1 where frames are lost, open files or memory grow (by more than that and two standard
errors, and `NOISE_MB` a minute), or the subscriber does not hold the daemon's map at the end.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from chaos import SESSION, Followers, Report, parser, paused_map
from live_daemon import daemon, requests, wait_until
from stream import Memory

from streamer.daemon_process import DaemonProcess
from streamer.load import LoadClient, material, run_load
from streamer.requests import DaemonSilent, RequestRefused
from streamer.sources import open_capture
from streamer.subscriber import Subscriber

EVERY_S = 5.0
KEPT_KB = {"publisher": 0.5, "session": 2.5, "viewer": 1.0}
"""Of each key frame, for ever; docs/operations.md, Limits."""
NOISE_MB = 0.1
"""A minute: samples are not independent of each other, the standard error takes them to be."""


class Latency(threading.Thread):
    """Asks for the session's status now and then."""

    def __init__(self, serving: DaemonProcess, follower: Subscriber) -> None:
        super().__init__(name="latency", daemon=True)
        self._serving = serving
        self._follower = follower
        self._ended = threading.Event()
        self.p95: list[tuple[float, float]] = []
        self.splats: list[tuple[float, int]] = []
        self.keyframes: list[tuple[float, int]] = []
        self.chunks: list[tuple[float, int]] = []

    def run(self) -> None:
        with requests(self._serving) as asking:
            while not self._ended.wait(EVERY_S):
                with suppress(RequestRefused, DaemonSilent):
                    status = asking.status(SESSION)
                    self.splats.append((time.monotonic(), status.splats))
                    self.keyframes.append((time.monotonic(), status.keyframes))
                    self.chunks.append((time.monotonic(), len(self._follower.mirror.chunks)))
                    if status.latency_ms is not None:
                        self.p95.append((time.monotonic(), status.latency_ms.p95))

    def end(self) -> None:
        """Stop asking."""
        self._ended.set()
        self.join()

    def slope(self, first: float, last: float) -> dict[str, Any]:
        """Of p95 between two times: its mean, and ms a minute with the standard error."""
        points = np.array([point for point in self.p95 if first <= point[0] <= last])
        if len(points) < 4:
            return {}
        minutes = (points[:, 0] - points[0, 0]) / 60.0
        (slope, _), covariance = np.polyfit(minutes, points[:, 1], 1, cov=True)
        return {
            "mean_ms": round(float(points[:, 1].mean()), 1),
            "ms_per_minute": round(float(slope), 2),
            "error": round(float(np.sqrt(covariance[0, 0])), 2),
        }


def measure(options: argparse.Namespace) -> Report:
    """One stream of so many minutes."""
    report = Report()
    what = material(open_capture(options.capture), count=300, long_side=options.long_side)
    seconds = options.minutes * 60.0
    with (
        tempfile.TemporaryDirectory(prefix="splatstream-soak-") as folder,
        daemon(
            Path(folder),
            refine=True,
            refine_steps=options.steps,
            budgets={
                "map_budget": options.map_budget,
                "resident_budget": options.resident_budget,
                "submaps": options.submaps,
            },
            viewer_port=0,
        ) as serving,
        requests(serving) as asking,
    ):
        address = serving.addresses["ingest"]
        followers = Followers(serving, 1)
        memory, latency = Memory(serving.pid), Latency(serving, followers.readers[0])
        memory.start()
        latency.start()
        client = LoadClient(address, SESSION, what, fps=options.fps, policy="lossless")
        began = time.monotonic()
        run_load([client], seconds=seconds, address=address)
        ended = began + seconds
        memory.end()
        latency.end()
        result = client.result
        client.close()
        wait_until(lambda: asking.status(SESSION).frames_done == result.acked, "all frames", 300)
        status = asking.status(SESSION)
        lost = (result.sent - result.acked, status.frames_dropped, sum(result.rejected.values()))
        report.expect(lost == (0, 0, 0), f"unsettled, dropped, rejected: {lost}")
        paused_map(serving, followers, report)
        followers.close()
        middle = began + seconds / 2
        report.figures |= {
            "minutes": options.minutes,
            "frames": result.acked,
            "frames_sent_late": result.late,
            "long_side": options.long_side,
            "keyframes": status.keyframes,
            "splats_each_minute": _each_minute(latency.splats, began),
            "chunks_each_minute": _each_minute(latency.chunks, began),
            "p95_ms_each_minute": _each_minute(latency.p95, began),
            "latency_p95_second_half": latency.slope(middle, ended),
            "memory_second_half": memory.slopes(middle, ended),
        }
    (_, first), *_, (_, last) = [p for p in latency.keyframes if middle <= p[0] <= ended]
    each_minute = (last - first) / (options.minutes / 2)
    report.figures["keyframes_per_minute_second_half"] = round(each_minute, 1)
    for name, figures in report.figures["memory_second_half"].items():
        grown = figures["mb_per_minute"]
        figures["kb_per_keyframe"] = round(grown * 1024 / max(each_minute, 1.0), 2)
        kept = KEPT_KB.get(name, 0.0) * each_minute / 1024
        flat = grown <= kept + 2 * figures["error"] + NOISE_MB
        report.expect(flat, f"memory of {name}: {grown} MB a minute")
        fewest, most = figures["open_files"]
        report.expect(most - fewest <= 8, f"open files of {name}: {fewest} to {most}")
    return report


def _each_minute(points: list[tuple[float, Any]], began: float) -> list[float]:
    by_minute = {int((at - began) // 60): value for at, value in points}
    return [round(float(by_minute[minute]), 1) for minute in sorted(by_minute)]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("capture", type=Path)
    made.add_argument("--minutes", type=float, default=60.0)
    made.add_argument("--fps", type=float, default=5.0)
    made.add_argument("--long-side", type=int, default=96, help="of the pictures that are sent")
    made.add_argument(
        "--map-budget", type=int, default=60_000, help="splats; small, to be full before half-time"
    )
    made.add_argument("--resident-budget", type=int, default=20_000, help="of them in memory")
    made.add_argument("--submaps", type=int, default=8, help="of fast weights, likewise")
    made.add_argument(
        "--steps", type=int, default=0, help="refinement steps after each batch; 0: time permitting"
    )
    options = made.parse_args()
    given = ("minutes", "fps", "long_side", "map_budget", "resident_budget", "submaps", "steps")
    command = " ".join(f"--{name.replace('_', '-')} {getattr(options, name):g}" for name in given)
    measure(options).finish(f"soak.py {command}", options.json)


if __name__ == "__main__":
    main()

"""A real capture pushed to a real daemon: rates, latency, memory, and what the map is worth.

    python benchmarks/stream.py ../shared/captures/hololens_office --frames 0:150 --rate 5 \
        --after 60 --json benchmarks/results/stream_office.json

Starts `serve` on loopback, sends the capture with the ordinary client (lossless, every 8th frame
held out) while one subscriber follows, then pauses and scores the map as the subscriber holds it;
resumes, refines for `--after` seconds more and scores again. A second subscriber joins late; at
the end both are compared with the daemon's own snapshot, splat for splat. Memory is the resident
set of each process, sampled twice a second; its slope is fitted over the second half of the frames.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gs_decoder import MapMirror
from streamer.client import Client
from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.hardware import hardware
from streamer.held_out import HeldOut
from streamer.playback import Playback, play
from streamer.process_stats import daemon_processes, process_stats
from streamer.report import contact_sheet
from streamer.requests import Requests
from streamer.scoring import WorldSplats, score
from streamer.sources import Capture, open_capture, parse_range
from streamer.subscriber import Subscriber

SESSION = "benchmark"


class Memory(threading.Thread):
    """Samples the resident set and the open files of a daemon's processes."""

    def __init__(self, supervisor: int) -> None:
        super().__init__(name="memory", daemon=True)
        self._supervisor = supervisor
        self._ended = threading.Event()
        self.samples: list[tuple[float, dict[str, float], dict[str, int]]] = []

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self.samples.append((time.monotonic(), *self._look()))

    def end(self) -> None:
        self._ended.set()
        self.join()

    def slopes(self, first: float, last: float) -> dict[str, Any]:
        """MB at the end, and MB per minute with its standard error, between two times; and the
        fewest and most open files."""
        result = {}
        chosen = [sample for sample in self.samples if first <= sample[0] <= last]
        for name in sorted({name for _, mb, _ in chosen for name in mb}):
            points = np.array([(at, mb[name]) for at, mb, _ in chosen if name in mb])
            if len(points) < 4:
                continue
            minutes = (points[:, 0] - points[0, 0]) / 60.0
            (slope, _), covariance = np.polyfit(minutes, points[:, 1], 1, cov=True)
            files = [open_files[name] for _, _, open_files in chosen if name in open_files]
            result[name] = {
                "mb": round(float(points[-1, 1]), 1),
                "mb_per_minute": round(float(slope), 2),
                "error": round(float(np.sqrt(covariance[0, 0])), 2),
                "open_files": [min(files), max(files)],
            }
        return result

    def _look(self) -> tuple[dict[str, float], dict[str, int]]:
        resident: dict[str, float] = {}
        open_files: dict[str, int] = {}
        for pid, name in daemon_processes(self._supervisor).items():
            stats = process_stats(pid)
            # The spare session process is the one that never gets frames: the larger one works.
            if stats is None or stats.resident_bytes / 2**20 < resident.get(name, 0.0):
                continue
            with suppress(OSError):
                open_files[name] = len(os.listdir(f"/proc/{pid}/fd"))
                resident[name] = stats.resident_bytes / 2**20
        return resident, open_files


class Follower(threading.Thread):
    """A subscriber in a thread of its own; notes when the first splats came."""

    def __init__(self, addresses: dict[str, str]) -> None:
        super().__init__(name="follower", daemon=True)
        self._addresses = addresses
        self._ended = threading.Event()
        self.subscriber: Subscriber | None = None
        self.first_splats: float | None = None
        self.history: list[tuple[float, int, int, float]] = []

    def run(self) -> None:
        with Subscriber(
            self._addresses["updates"], self._addresses["requests"], SESSION
        ) as subscriber:
            self.subscriber = subscriber
            while not self._ended.is_set():
                subscriber.poll(0.05)
                if self.first_splats is None and subscriber.mirror.count:
                    self.first_splats = time.monotonic()
                if (status := subscriber.status) is not None:
                    self.history.append(
                        (
                            time.monotonic(),
                            status.frames_done,
                            status.keyframes,
                            status.batch_ms or 0,
                        )
                    )

    def settle(self, seq: int, within: float = 20.0) -> MapMirror:
        """The mirror once it stands at this seq."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            subscriber = self.subscriber
            if subscriber is not None and subscriber.synced and subscriber.seq >= seq:
                return subscriber.mirror
            time.sleep(0.05)
        raise TimeoutError(f"the subscriber did not reach update {seq} in {within:g} s")

    def end(self) -> None:
        self._ended.set()
        self.join()


def paused_map(requests: Requests, follower: Follower) -> MapMirror:
    """Stand the session still, and the follower's mirror of that moment."""
    requests.pause(SESSION)
    return follower.settle(requests.manifest(SESSION).seq)


def scores(mirror: MapMirror, capture: Capture, options: argparse.Namespace) -> dict[str, Any]:
    """Held-out scores of a map, and its picture where one is asked for."""
    given, kept = capture.hold_out(options.hold_out)
    held_out = HeldOut.load(capture, given, kept, long_side=options.long_side)
    origin = mirror.origin()
    world = WorldSplats(mirror.splats_world(origin=origin), origin)
    result = score(world, held_out.views, held_out.neighbours, np.zeros(3, np.float32))
    if options.sheet:
        contact_sheet(options.sheet, held_out.views, result)
    names = ("psnr", "ssim", "psnr_gain", "ssim_gain")
    return {name: round(result.mean(name) or 0.0, 4) for name in names} | {"splats": mirror.count}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One stream, from an empty daemon to the second score."""
    capture = open_capture(options.capture).select(*parse_range(options.frames))
    given, _ = capture.hold_out(options.hold_out)
    with tempfile.TemporaryDirectory(prefix="splatstream-benchmark-") as folder:
        config = ServeConfig(
            ingest="tcp://127.0.0.1:*",
            updates="tcp://127.0.0.1:*",
            requests="tcp://127.0.0.1:*",
            session_dir=Path(folder),
            session=SessionConfig(long_side=options.long_side, weights=options.weights),
            viewer=ViewerConfig(enabled=options.page, port=0),
        )
        with DaemonProcess(config) as daemon:
            memory, follower = Memory(daemon.pid), Follower(daemon.addresses)
            memory.start()
            follower.start()
            with Client(
                daemon.addresses["ingest"],
                session=SESSION,
                cameras=dict(capture.cameras),
                convention=capture.convention,
                clock="capture",
            ) as client:
                playback = play(client, given, rate=options.rate)
            return _figures(options, capture, daemon, memory, follower, playback)


def _figures(
    options: argparse.Namespace,
    capture: Capture,
    daemon: DaemonProcess,
    memory: Memory,
    follower: Follower,
    playback: Playback,
) -> dict[str, Any]:
    with Requests(daemon.addresses["requests"]) as requests:
        while (status := requests.status(SESSION)).frames_done < playback.sent:
            time.sleep(0.1)
        ended = time.monotonic()
        seconds = ended - playback.started
        at_end = scores(paused_map(requests, follower), capture, options)
        late = Follower(daemon.addresses)
        late.start()
        requests.resume(SESSION)
        time.sleep(options.after)
        mirror = paused_map(requests, follower)
        seq = requests.manifest(SESSION).seq
        fresh = MapMirror()
        for update in requests.snapshot(SESSION).updates:
            fresh.apply(update)
        same = mirror.equals(fresh) and late.settle(seq).equals(fresh)
        later = scores(mirror, capture, options)
        memory.end()
        middle = playback.started + seconds / 2
        figures = {
            "capture": capture.name,
            "frames": playback.sent,
            "rate_asked": options.rate,
            "frames_per_second": round(playback.sent / seconds, 2),
            "keyframes": status.keyframes,
            "keyframes_per_second": round(status.keyframes / seconds, 2),
            "batch_ms": status.batch_ms,
            "latency_ms": None if status.latency_ms is None else vars_of(status.latency_ms),
            "first_splats_s": round((follower.first_splats or np.nan) - playback.started, 2),
            "end_of_stream": at_end,
            f"after_{options.after:g}_s": later,
            "subscribers_equal_daemon": same,
            "memory_second_half": memory.slopes(middle, ended),
            "long_side": options.long_side,
            "hardware": hardware(),
        }
        late.end()
        follower.end()
        return figures


def vars_of(struct: Any) -> dict[str, float]:
    return {name: round(getattr(struct, name), 1) for name in struct.__struct_fields__}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("capture", type=Path)
    parser.add_argument("--frames", default=None)
    parser.add_argument("--hold-out", type=int, default=8)
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--after", type=float, default=60.0)
    parser.add_argument("--long-side", type=int, default=240)
    parser.add_argument("--weights", type=Path, help="as of `serve`; packaged by default")
    parser.add_argument("--page", action="store_true", help="with the live page")
    parser.add_argument("--sheet", type=Path, help="PNG of held-out views")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = measure(options)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

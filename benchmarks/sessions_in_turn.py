"""Sessions that open and end one after the other in one daemon: what stays of them in memory.

    python benchmarks/sessions_in_turn.py [--sessions 30] [--json FILE]

Each is sent eight frames of the demo capture, says BYE and ends by being idle. Printed are the
resident megabytes of supervisor, ingest and publisher after each end, and what they grew by a
session over the second half.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from streamer.client import Client
from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.demo import CAPTURE
from streamer.hardware import hardware
from streamer.process_stats import daemon_processes, process_stats
from streamer.requests import Requests
from streamer.sources import open_capture

FRAMES = 8
LASTING = ("supervisor", "ingest", "publisher")


def resident_mb(daemon: DaemonProcess) -> dict[str, float]:
    """Of the processes that stay."""
    found = {}
    for pid, name in daemon_processes(daemon.pid).items():
        stats = process_stats(pid)
        if name in LASTING and stats is not None:
            found[name] = round(stats.resident_bytes / 1e6, 2)
    return found


def run(count: int) -> list[dict[str, float]]:
    """Megabytes after each session's end."""
    capture = open_capture(CAPTURE)
    after = []
    with tempfile.TemporaryDirectory() as folder:
        config = ServeConfig(
            ingest="tcp://127.0.0.1:*",
            updates="tcp://127.0.0.1:*",
            requests="tcp://127.0.0.1:*",
            session_dir=Path(folder),
            session_idle_s=0.5,
            session=SessionConfig(refine=False, long_side=96),
            viewer=ViewerConfig(enabled=False),
        )
        with DaemonProcess(config) as daemon, Requests(daemon.addresses["requests"]) as requests:
            for number in range(count):
                with Client(
                    daemon.addresses["ingest"],
                    session=f"room{number}",
                    cameras=capture.cameras,
                    convention=capture.convention,
                ) as client:
                    for frame in capture.frames[:FRAMES]:
                        data = frame.image_path.read_bytes()
                        client.send(data, frame.c2w, camera=frame.camera)
                    client.wait()
                while requests.sessions():
                    time.sleep(0.2)
                after.append(resident_mb(daemon))
                print(number, after[-1], flush=True)
    return after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    after = run(options.sessions)
    half = after[len(after) // 2 :]
    growth: dict[str, Any] = {
        name: round(float(np.polyfit(range(len(half)), [mb[name] for mb in half], 1)[0]), 3)
        for name in LASTING
    }
    report = {
        "hardware": hardware(),
        "load_after": round(os.getloadavg()[0], 1),
        "sessions": options.sessions,
        "first_mb": after[0],
        "last_mb": after[-1],
        "growth_mb_a_session": growth,
    }
    print(json.dumps(report))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

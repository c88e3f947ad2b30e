"""Synthetic clients against a daemon, to size a machine: real JPEGs with poses, sent on time.

Every client has a session of its own. Without --to a daemon is started for the time of the run,
with --config's settings. Exit code 1: frames were rejected, or not settled in the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import FlagCreatePairsOff

from streamer.cli.keys import KeyOptions

if TYPE_CHECKING:
    from streamer.load import ClientResult
    from streamer.process_stats import ProcessLoad
    from streamer.protocol.requests import StatusAnswer


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """How much load, and where."""

    clients: int = 1
    """Clients, and so sessions; a daemon takes `max_sessions` of them (4)."""
    fps: float = 5.0
    """Frames a second of each."""
    seconds: float = 30.0
    """For so long."""
    to: str | None = None
    """Ingest address of a running daemon."""
    requests: str | None = None
    """Its requests address, where it is not two ports above the ingest."""
    pid: int | None = None
    """Process id of its supervisor, where it runs on this machine: for CPU and memory."""
    config: str | None = None
    """Settings of the daemon that is started: a YAML file or the name of a packaged preset."""
    capture: Path | None = None
    """Pictures and poses to send, over and over; by default those of the demo."""
    long_side: int | None = None
    """Scale the pictures to this long side before they are encoded, pixels."""
    policy: Literal["lossless", "live"] = "live"
    """live, as cameras are: late frames are skipped or dropped; lossless: they are sent late."""
    prefix: str = "load"
    """Sessions are called PREFIX-0, PREFIX-1 and so on; ones that exist are resumed."""
    json: FlagCreatePairsOff[bool] = False
    """Print a JSON object instead of tables."""


class LoadError(ValueError):
    """A load that cannot be put on anything."""


@dataclass(frozen=True, slots=True)
class _Target:
    ingest: str
    requests: str
    pid: int | None


def run(options: Options) -> int:
    """Puts the load on and prints what became of it."""
    from streamer.demo import CAPTURE
    from streamer.load import LoadClient, material, run_load
    from streamer.process_stats import DaemonSampler
    from streamer.requests import Requests
    from streamer.sources import open_capture

    for name in ("clients", "fps", "seconds"):
        if not getattr(options, name) > 0:
            raise LoadError(f"--{name}: {getattr(options, name)} is not positive")
    what = material(open_capture(options.capture or CAPTURE), long_side=options.long_side)
    names = [f"{options.prefix}-{number}" for number in range(options.clients)]
    keys = options.keys()
    with _target(options) as target, Requests(target.requests, keys=keys) as requests:
        known = {entry.session for entry in requests.sessions()}
        dropped = {n: requests.status(n).frames_dropped for n in names if n in known}
        clients = [
            LoadClient(
                target.ingest,
                name,
                what,
                fps=options.fps,
                policy=options.policy,
                dropped_before=dropped.get(name, 0),
                keys=keys,
            )
            for name in names
        ]
        sampler = None if target.pid is None else DaemonSampler(target.pid)
        if sampler is not None:
            sampler.start()
        try:
            took = run_load(clients, seconds=options.seconds, address=target.ingest)
        finally:
            loads = [] if sampler is None else sampler.stop()
            for client in clients:
                client.close()
        known = {entry.session for entry in requests.sessions()}
        statuses = {name: requests.status(name) for name in names if name in known}
    settled = all(client.settled for client in clients)
    results = [client.result for client in clients]
    summary = _summary(options, results, statuses, loads, took)
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        _print_tables(summary)
    return 0 if settled and not any(result.rejected for result in results) else 1


@contextmanager
def _target(options: Options) -> Iterator[_Target]:
    from streamer.addresses import neighbour

    if options.to is not None:
        requests = options.requests or neighbour(options.to, 2)
        yield _Target(options.to, requests, options.pid)
        return
    import dataclasses
    import tempfile

    from streamer.config import ServeConfig
    from streamer.config_files import load_config
    from streamer.daemon_process import DaemonProcess

    config = load_config(options.config) if options.config is not None else ServeConfig()
    free = "tcp://127.0.0.1:*"
    with tempfile.TemporaryDirectory(prefix="splatstream-load-") as folder:
        config = dataclasses.replace(
            config,
            ingest=free,
            updates=free,
            requests=free,
            session_dir=Path(folder),
            max_sessions=options.clients,
            viewer=dataclasses.replace(config.viewer, enabled=False),
        )
        with DaemonProcess(config) as daemon:
            yield _Target(daemon.addresses["ingest"], daemon.addresses["requests"], daemon.pid)


def _summary(
    options: Options,
    results: list[ClientResult],
    statuses: Mapping[str, StatusAnswer],
    loads: list[ProcessLoad],
    took: float,
) -> dict[str, Any]:
    from streamer.hardware import hardware

    clients = []
    for result in results:
        status = statuses.get(result.session)
        latency = None if status is None or status.latency_ms is None else status.latency_ms
        clients.append(
            {
                "session": result.session,
                "due": result.due,
                "sent": result.sent,
                "fps": round(result.sent / options.seconds, 2),
                "late": result.late,
                "skipped": result.skipped,
                "acked": result.acked,
                "dropped": result.dropped,
                "rejected": dict(result.rejected),
                "ack_ms": _percentiles(result.ack_ms),
                "map_ms": None if latency is None else {"p50": latency.p50, "p95": latency.p95},
                "done": 0 if status is None else status.frames_done,
                "splats": 0 if status is None else status.splats,
            }
        )
    return {
        "machine": hardware(),
        "asked": {
            "clients": options.clients,
            "fps": options.fps,
            "seconds": options.seconds,
            "policy": options.policy,
            "long_side": options.long_side,
        },
        "fps": round(sum(result.sent for result in results) / options.seconds, 2),
        "ack_ms": _percentiles([ms for result in results for ms in result.ack_ms]),
        "seconds_until_settled": round(took, 2),
        "clients": clients,
        "processes": [
            {
                "name": load.name,
                "pid": load.pid,
                "cores": round(load.cores, 3),
                "peak_mib": round(load.peak_bytes / 2**20, 1),
            }
            for load in loads
        ],
    }


def _percentiles(values: list[float]) -> dict[str, float] | None:
    import numpy as np

    if not values:
        return None
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}


def _print_tables(summary: dict[str, Any]) -> None:
    from streamer.cli.console import table

    print(f"machine: {summary['machine']}")
    headings = ("due", "sent", "late", "skipped", "acked", "dropped")
    rows = [("session", "fps", *headings, "rejected", "ack p50/p95 ms", "map p50/p95 ms", "splats")]
    for client in summary["clients"]:
        rows.append(
            (
                client["session"],
                f"{client['fps']:.1f}",
                *(str(client[heading]) for heading in headings),
                str(sum(client["rejected"].values())),
                _pair(client["ack_ms"]),
                _pair(client["map_ms"]),
                f"{client['splats']:,}",
            )
        )
    print(table(rows))
    print(f"all: {summary['fps']:.1f} frames/s, ack p50/p95 {_pair(summary['ack_ms'])} ms")
    processes = [
        (process["name"], f"{process['cores']:.2f}", f"{process['peak_mib']:.0f}")
        for process in summary["processes"]
    ]
    if processes:
        print(table([("process", "cores", "peak MiB"), *processes]))


def _pair(values: dict[str, float] | None) -> str:
    return "-" if values is None else f"{values['p50']:.0f}/{values['p95']:.0f}"

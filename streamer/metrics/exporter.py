"""The page that Prometheus reads: one for the daemon, served by its supervisor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from streamer.config import MetricsConfig
from streamer.control import AddressInUse
from streamer.metrics.instruments import FOLDER
from streamer.process_stats import process_stats
from streamer.protocol.update_headers import StatusHeader


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A process that should run; without a pid it does not, and is started again."""

    name: str
    pid: int | None


@dataclass(slots=True)
class DaemonView:
    """What the supervisor knows. It replaces the sequences as wholes, the exporter's thread reads
    them.
    """

    processes: Sequence[ProcessView] = ()
    sessions: Sequence[StatusHeader] = ()
    restarts: Counter[str] = field(default_factory=Counter)
    """Deaths by role; each was followed by a start, or will be."""


class MetricsServer:
    """Serves the numbers of all processes at `http://HOST:PORT/metrics` until it is closed.

    Raises:
        AddressInUse: the port is taken.
    """

    def __init__(self, config: MetricsConfig, run_dir: Path, view: DaemonView) -> None:
        assert config.port is not None
        folder = run_dir / FOLDER
        folder.mkdir(exist_ok=True)
        registry = CollectorRegistry()
        registry.register(_FilesCollector(folder))
        registry.register(_DaemonCollector(view))
        try:
            self._server, self._thread = start_http_server(config.port, config.host, registry)
        except OSError as error:
            raise AddressInUse(
                f"--metrics-port: {config.host}:{config.port} cannot be bound ({error.strerror}): "
                "stop what runs there, or give another port (0 takes a free one)"
            ) from None
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _FilesCollector:
    """What the processes count, from their files, while they begin and end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """All metrics that have been counted by any process."""
        while True:
            try:
                metrics: Iterable[Metric] = MultiProcessCollector.merge(self._files())
                return metrics
            except FileNotFoundError:
                # A session ended since they were listed; it is not in the next list.
                continue

    def _files(self) -> list[str]:
        files = []
        for path in self._folder.glob("*.db"):
            with suppress(FileNotFoundError):
                # One that was made this moment has nothing in it yet.
                if path.stat().st_size:
                    files.append(str(path))
        return files


class _DaemonCollector:
    def __init__(self, view: DaemonView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """All metrics that come from the supervisor and from the sessions' status."""
        yield from self._processes()
        yield from self._sessions()

    def _processes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("splatstream_up", "1: the process runs", labels=["process"])
        cpu = CounterMetricFamily(
            "splatstream_cpu_seconds", "CPU time of the process", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "splatstream_resident_bytes", "Memory of the process", labels=["process"]
        )
        for process in self._view.processes:
            stats = None if process.pid is None else process_stats(process.pid)
            up.add_metric([process.name], float(process.pid is not None))
            if stats is not None:
                cpu.add_metric([process.name], stats.cpu_s)
                memory.add_metric([process.name], stats.resident_bytes)
        restarts = CounterMetricFamily(
            "splatstream_restarts", "Processes that ended unasked, by role", labels=["role"]
        )
        for role in ("ingest", "publisher", "session", "viewer"):
            restarts.add_metric([role], self._view.restarts[role])
        yield from (up, cpu, memory, restarts)

    def _sessions(self) -> Iterator[Metric]:
        sessions = self._view.sessions

        def counter(name: str, text: str, values: Iterable[int]) -> Metric:
            family = CounterMetricFamily(f"splatstream_{name}", text, labels=["session"])
            for status, value in zip(sessions, values, strict=True):
                family.add_metric([status.session], value)
            return family

        def gauge(name: str, text: str, values: Iterable[float | None]) -> Metric:
            family = GaugeMetricFamily(f"splatstream_{name}", text, labels=["session"])
            for status, value in zip(sessions, values, strict=True):
                if value is not None:
                    family.add_metric([status.session], value)
            return family

        yield counter("frames", "Frames accepted", [s.frames_in for s in sessions])
        yield counter("frames_done", "Frames finished", [s.frames_done for s in sessions])
        yield counter("frames_dropped", "Frames discarded", [s.frames_dropped for s in sessions])
        yield counter("frames_rejected", "Frames not taken", [s.frames_rejected for s in sessions])
        yield gauge("frames_waiting", "Accepted, not done", [s.frames_waiting for s in sessions])
        yield gauge("durable", "1: acknowledged frames are on disk", [s.durable for s in sessions])
        yield gauge("keyframes", "Key frames of the map", [s.keyframes for s in sessions])
        yield gauge("splats", "Splats of the map", [s.splats for s in sessions])
        yield gauge("splats_ready", "Splats in memory", [s.splats_ready for s in sessions])
        yield gauge("splats_on_disk", "Splats out of sight", [s.splats_on_disk for s in sessions])
        yield gauge("psnr", "dB, over recently refined views", [s.psnr for s in sessions])
        states = GaugeMetricFamily(
            "splatstream_session_state", "1 for the state it is in", labels=["session", "state"]
        )
        for status in sessions:
            states.add_metric([status.session, status.state], 1.0)
        yield states

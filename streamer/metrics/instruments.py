"""What a process of the daemon counts and times.

Where the daemon exports metrics, a process keeps its numbers in memory-mapped files in the run
folder (prometheus_client's multi-process mode): counting costs no message, and a process that is
started again goes on from its predecessor's numbers. Elsewhere they stay in the process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

from streamer.config import ServeConfig

FOLDER = "metrics"
"""Where the files lie, in the run folder."""
_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)


def set_up_metrics(run_dir: Path, config: ServeConfig, process: str) -> None:
    """Before any instrument is made, and once a process.

    Args:
        run_dir: the daemon's private folder.
        process: a name that no other living process of the daemon has.
    """
    if config.metrics.port is None:
        return
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    # In file names an underscore separates.
    name = process.encode().hex()
    values.ValueClass = values.MultiProcessValue(lambda: name)


def forget_metrics(run_dir: Path, process: str) -> None:
    """The numbers of a process that will not be started again for now: its series end.

    Args:
        process: as in `set_up_metrics`.
    """
    for path in (run_dir / FOLDER).glob(f"*_{process.encode().hex()}.db"):
        path.unlink(missing_ok=True)


class IngestInstruments:
    """Of the ingest. No label comes from a client: anybody could make up a million values."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._refusals = Counter(
            "splatstream_refusals",
            "Messages of clients that were refused, by the code of the answer",
            ["code"],
            registry=registry,
        )
        self._stages = Histogram(
            "splatstream_ingest_stage_seconds",
            "What a frame goes through in the ingest: decode, queue (receipt to hand-over)",
            ["stage"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._drops = Counter(
            "splatstream_drops",
            "Frames accepted and then discarded, of all sessions, by reason: newer, memory, lost",
            ["reason"],
            registry=registry,
        )
        for reason in ("newer", "memory", "lost"):
            self._drops.labels(reason)
        self._decoding = _gauge(
            "splatstream_ingest_undecided_frames", "Received, verdict not out yet", registry
        )
        self._held = _gauge(
            "splatstream_ingest_held_bytes", "Bytes of frames that the ingest holds", registry
        )

    def refused(self, code: str) -> None:
        """A client was told no."""
        self._refusals.labels(code).inc()

    def dropped(self, reasons: Mapping[str, int]) -> None:
        """Accepted frames were discarded: how many, by reason."""
        for reason, count in reasons.items():
            self._drops.labels(reason).inc(count)

    def took(self, stage: str, seconds: float) -> None:
        """A frame left a stage; from any thread."""
        self._stages.labels(stage).observe(seconds)

    def holds(self, undecided: int, held_bytes: int) -> None:
        """What lies in the ingest now, of all sessions."""
        self._decoding.set(undecided)
        self._held.set(held_bytes)


class SessionInstruments:
    """Of one session's process."""

    def __init__(self, session: str) -> None:
        registry = CollectorRegistry()
        self._session = session
        self._stages = Histogram(
            "splatstream_session_stage_seconds",
            "batch, and within it keyframes, predict, fuse, publish; refine: one step; "
            "correct: one correction of poses until readers are told; follow: the rest of it; "
            "correction: from its receipt at the ingest until readers are told",
            ["session", "stage"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._latency = Histogram(
            "splatstream_frame_latency_seconds",
            "Receipt of a frame at the ingest to the publication of what it changed",
            ["session"],
            registry=registry,
            buckets=_SECONDS,
        )

    def took(self, stage: str, seconds: float) -> None:
        """A stage is done."""
        self._stages.labels(self._session, stage).observe(seconds)

    def latency(self, seconds: float) -> None:
        """A frame is in the map."""
        self._latency.labels(self._session).observe(seconds)


class PublisherInstruments:
    """Of the publisher."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._updates = Counter(
            "splatstream_updates",
            "Updates published, by kind (chunk, move, drop, reset, status, heartbeat)",
            ["kind"],
            registry=registry,
        )
        self._bytes = Counter(
            "splatstream_update_bytes", "Bytes of these, once whoever listens", registry=registry
        )
        self._subscribers = _gauge(
            "splatstream_subscribers",
            "Connections to the updates address, the daemon's own two among them",
            registry,
        )
        self._waiting = _gauge(
            "splatstream_slow_readers", "Readers for whom answers wait, a snapshot mostly", registry
        )

    def published(self, kind: str, nbytes: int) -> None:
        """An update went out."""
        self._updates.labels(kind).inc()
        self._bytes.inc(nbytes)

    def readers(self, subscribers: int, slow: int) -> None:
        """Who is there now."""
        self._subscribers.set(subscribers)
        self._waiting.set(slow)


def _gauge(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    # One process has it, so the sum is its value, and no label for the process is needed.
    return Gauge(name, text, registry=registry, multiprocess_mode="sum")

"""Settings of the daemon: dataclasses that a YAML file fills (`config_files`), nothing else.

Order of precedence: the defaults here, then the file, then the command line.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from streamer.keep import KeepError, parse_keep

MIN_PAGE_SPLATS, MAX_PAGE_SPLATS = 1_000, 4_000_000
"""What the live page can be told to show at most: its browser takes the memory at once."""
SH_DEGREE = 2
"""Of the harmonics that refinement gives splats, where nothing else is said."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message names key, value and remedy."""


def default_session_dir() -> Path:
    """The user's data folder for this program."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "splatstream" / "sessions"


def _require(condition: bool, key: str, value: object, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"{key}: {value!r} {remedy}")


@dataclass(kw_only=True, slots=True)
class ViewerConfig:
    """The live page."""

    enabled: bool = True
    """Whether the daemon starts it."""
    host: str = "127.0.0.1"
    """Address that the page is served on."""
    port: int = 8080
    """Its port; 0 takes a free one."""
    max_splats: int = 300_000
    """At most so many splats in the page."""
    token_file: Path | None = None
    """The page asks its visitors for the token in this file, which is made where it is missing."""

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, "viewer.port", self.port, "is not in 0..65535")
        _require(
            MIN_PAGE_SPLATS <= self.max_splats <= MAX_PAGE_SPLATS,
            "viewer.max_splats",
            self.max_splats,
            f"is not in {MIN_PAGE_SPLATS}..{MAX_PAGE_SPLATS}",
        )


@dataclass(kw_only=True, slots=True)
class IngestConfig:
    """What waits between the door and the reconstructor."""

    max_waiting: int = 64
    """Frames of a session that may wait, and so the largest credit of its sender."""
    live_waiting: int = 8
    """The same under the live policy, which drops the oldest beyond it."""
    max_waiting_bytes: int = 256 << 20
    """Bytes of a session's frames that may wait; beyond it no credit is given."""
    decode_threads: int = 2
    """Threads that decode pictures, for all sessions together."""
    batch_timeout_s: float = 0.5
    """After so long without a new frame a batch goes out although it is not full."""

    def __post_init__(self) -> None:
        _require(
            self.max_waiting > 0, "ingest_queue.max_waiting", self.max_waiting, "must be positive"
        )
        _require(
            self.live_waiting > 0,
            "ingest_queue.live_waiting",
            self.live_waiting,
            "must be positive",
        )
        _require(
            self.max_waiting_bytes > 0,
            "ingest_queue.max_waiting_bytes",
            self.max_waiting_bytes,
            "must be positive",
        )
        threads = self.decode_threads
        _require(threads > 0, "ingest_queue.decode_threads", threads, "must be positive")
        _require(
            self.batch_timeout_s > 0,
            "ingest_queue.batch_timeout_s",
            self.batch_timeout_s,
            "must be positive",
        )


@dataclass(kw_only=True, slots=True)
class JournalConfig:
    """How what was sent is kept."""

    enabled: bool = True
    """Write every frame to the session's folder before it is acknowledged, and go on from there
    after a crash."""
    segment_mb: int = 64
    """A file of a journal is closed beyond this size."""
    gather_s: float = 0.03
    """Least seconds between two fsyncs: what comes in between shares the next one."""
    keep: str = "all"
    """How much of a session's journal stays: all of it, a size (20GB) or an age (7d). Whole files
    go, the oldest first, when a state is saved, and never one that going on from the saved states
    takes."""

    def __post_init__(self) -> None:
        _require(self.segment_mb > 0, "journal.segment_mb", self.segment_mb, "must be positive")
        _require(0 <= self.gather_s <= 0.05, "journal.gather_s", self.gather_s, "is not in 0..0.05")
        try:
            parse_keep(self.keep)
        except KeepError as error:
            raise ConfigError(f"journal.keep: {error}") from None


@dataclass(kw_only=True, slots=True)
class SessionConfig:
    """What a session does with its frames."""

    long_side: int = 240
    """Frames are scaled to this long side, pixels."""
    batch_size: int = 4
    """Frames that pass through the reconstructor together."""
    chunk_budget: int = 6_000
    """At most so many splats of one key frame."""
    map_budget: int = 600_000
    """At most so many splats in the map that readers see."""
    resident_budget: int = 200_000
    """At most so many of them in memory, rendered and refined. Beyond it parts out of sight rest
    on the disk, and come back when the camera does."""
    submaps: int = 48
    """At most so many sub-maps of fast weights, 0.4 MB each; beyond it the one left longest ago
    is forgotten."""
    refine: bool = True
    """Optimise the map against its key frames in the time between batches."""
    refine_steps: int = 0
    """Exactly so many steps of it after each batch, which then takes that much longer: the same
    frames give the same map. 0: as many as the time between batches allows."""
    refine_poses: bool = False
    """Find the frames' cameras as well, near the poses that came, while refining."""
    sh_degree: int = SH_DEGREE
    """Degree of the spherical harmonics that refinement gives splats, 0 to 3: how finely colours
    depend on where one looks from. 0: not at all."""
    save_every: int = 60
    """Batches between two saved states, from which a session goes on after a crash; one is also
    saved when the map has settled. 0: only when the session ends, or is asked to (SAVE)."""
    background: Literal["auto", "black", "white"] = "auto"
    """What lies behind the map; auto reads it off the images."""
    weights: Path | None = None
    """A checkpoint of `splatstream train`, or a released one of tttLRM; "packaged": the one that is
    shipped. Without it, or with "none": the matching prior alone."""

    def __post_init__(self) -> None:
        _require(
            32 <= self.long_side <= 4096, "session.long_side", self.long_side, "is not in 32..4096"
        )
        _require(
            1 <= self.batch_size <= 64, "session.batch_size", self.batch_size, "is not in 1..64"
        )
        _require(self.submaps > 0, "session.submaps", self.submaps, "must be positive")
        _require(self.refine_steps >= 0, "session.refine_steps", self.refine_steps, "is negative")
        _require(0 <= self.sh_degree <= 3, "session.sh_degree", self.sh_degree, "is not in 0..3")
        _require(self.save_every >= 0, "session.save_every", self.save_every, "is negative")
        _require(
            self.chunk_budget > 0, "session.chunk_budget", self.chunk_budget, "must be positive"
        )
        _require(
            self.map_budget >= self.chunk_budget,
            "session.map_budget",
            self.map_budget,
            f"is below session.chunk_budget ({self.chunk_budget})",
        )
        _require(
            self.resident_budget >= self.chunk_budget,
            "session.resident_budget",
            self.resident_budget,
            f"is below session.chunk_budget ({self.chunk_budget})",
        )


@dataclass(kw_only=True, slots=True)
class PublisherConfig:
    """How much the publisher holds for readers that are slow."""

    updates_hwm: int = 192
    """Updates that wait for one subscriber; beyond that it misses some and asks for a snapshot."""
    answers_hwm: int = 16
    """Answers in a reader's socket; the rest of a snapshot waits until it takes more."""

    def __post_init__(self) -> None:
        _require(
            self.updates_hwm > 0, "publisher.updates_hwm", self.updates_hwm, "must be positive"
        )
        _require(
            self.answers_hwm > 0, "publisher.answers_hwm", self.answers_hwm, "must be positive"
        )


@dataclass(kw_only=True, slots=True)
class LogConfig:
    """What is written down while the daemon runs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    file: Path | None = None
    """Also into this file."""
    json: bool = False
    """One JSON object a line, from all processes; no status line."""


@dataclass(kw_only=True, slots=True)
class MetricsConfig:
    """The page for Prometheus."""

    port: int | None = None
    """Its port; 0 takes a free one. Without it there is no page."""
    host: str = "127.0.0.1"
    """Address that it is served on."""

    def __post_init__(self) -> None:
        known = self.port is None or 0 <= self.port <= 65535
        _require(known, "metrics.port", self.port, "is not in 0..65535")


@dataclass(kw_only=True, slots=True)
class ServeConfig:
    """Everything that ``splatstream serve`` can be told."""

    ingest: str = "tcp://127.0.0.1:5555"
    """Where frames come in."""
    updates: str = "tcp://127.0.0.1:5556"
    """Where changes of the maps go out."""
    requests: str = "tcp://127.0.0.1:5557"
    """Where snapshots and the like are asked for."""
    session_dir: Path = field(default_factory=default_session_dir)
    """A session lives in a folder of its name in here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the sessions compute on."""
    max_sessions: int = 4
    """More than so many sessions at a time are refused."""
    session_idle_s: float = 600.0
    """A session that nobody sends into and that has nothing to do saves its state and ends after
    so many seconds; its sender, a correction or a reader brings it back. 0: never."""
    keys: Path | None = None
    """The daemon's folder of keys (`splatstream keygen daemon`): with it only clients whose public
    key lies in its `allowed/` may connect, from this machine too."""
    insecure: bool = False
    """Bind other addresses than loopback although nobody is authenticated."""
    viewer: ViewerConfig = field(default_factory=ViewerConfig)
    ingest_queue: IngestConfig = field(default_factory=IngestConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    publisher: PublisherConfig = field(default_factory=PublisherConfig)
    log: LogConfig = field(default_factory=LogConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        _require(self.max_sessions > 0, "max_sessions", self.max_sessions, "must be positive")
        _require(self.session_idle_s >= 0, "session_idle_s", self.session_idle_s, "is negative")

"""A real daemon, streams of the demo capture into it, and a look at its processes and traces."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from daemon_children import alive, children

from gs_decoder import MapMirror
from streamer import Client, Requests, Subscriber
from streamer.access import ClientKeys
from streamer.config import IngestConfig, LogConfig, ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonProcess
from streamer.demo import CAPTURE
from streamer.requests import DaemonSilent, RequestRefused
from streamer.sources import Capture, CaptureFrame, open_capture

LIMIT_S = 120.0
OFFICE = open_capture(CAPTURE)
PACKAGED = Path("packaged")
"""Weights of sessions that carry a memory."""
Frames = Sequence[CaptureFrame]


def wait_until(condition: Callable[[], object], what: str, limit: float = LIMIT_S) -> None:
    """Until `condition()`, or fail."""
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, f"waited {limit} s for {what}"
        time.sleep(0.02)


@contextmanager
def daemon(
    folder: Path,
    *,
    refine: bool = False,
    batch_timeout_s: float = 0.5,
    viewer_port: int | None = None,
    weights: Path | None = None,
    save_every: int = 60,
    refine_steps: int = 0,
    log: Path | None = None,
    max_sessions: int = 4,
    keys: Path | None = None,
    budgets: Mapping[str, int] | None = None,
) -> Iterator[DaemonProcess]:
    """`splatstream serve` on free ports, ready when entered; its state lies in `folder`.

    Args:
        weights: `PACKAGED` for sessions that carry a memory.
        budgets: of splats and sub-maps, by their names in `SessionConfig`.
    """
    config = ServeConfig(
        ingest="tcp://127.0.0.1:*",
        updates="tcp://127.0.0.1:*",
        requests="tcp://127.0.0.1:*",
        session_dir=folder,
        max_sessions=max_sessions,
        keys=keys,
        ingest_queue=IngestConfig(batch_timeout_s=batch_timeout_s),
        session=SessionConfig(
            long_side=96,
            refine=refine,
            refine_steps=refine_steps,
            weights=weights,
            save_every=save_every,
            **(budgets or {}),
        ),
        log=LogConfig(file=log),
        viewer=ViewerConfig(enabled=viewer_port is not None, port=viewer_port or 0),
    )
    with DaemonProcess(config) as process:
        yield process


def client(
    daemon: DaemonProcess, session: str, *, capture: Capture = OFFICE, **options: object
) -> Client:
    """A sender of a capture, the demo's where none is named."""
    return Client(
        daemon.addresses["ingest"],
        session=session,
        cameras=capture.cameras,
        convention=capture.convention,
        clock="capture",
        **options,
    )


def send(sender: Client, frames: Frames) -> None:
    """The files' own bytes, as `push` sends them."""
    for frame in frames:
        sender.send(
            frame.image_path.read_bytes(),
            frame.c2w,
            camera=frame.camera,
            stamp_ns=frame.stamp_ns,
            params=frame.params,
            timeout_s=LIMIT_S,
        )


def subscriber(daemon: DaemonProcess, session: str, keys: ClientKeys | None = None) -> Subscriber:
    """A mirror of one session."""
    addresses = daemon.addresses
    return Subscriber(addresses["updates"], addresses["requests"], session, keys=keys)


def requests(daemon: DaemonProcess, keys: ClientKeys | None = None) -> Requests:
    """Questions to the daemon."""
    return Requests(daemon.addresses["requests"], timeout=5, keys=keys)


def reset(daemon: DaemonProcess, session: str) -> None:
    """The session is empty, and takes another sender at once."""
    with requests(daemon) as asking:
        asking.reset(session)


def frames_done(asking: Requests, session: str) -> int:
    """0 also while nobody knows the session, or the publisher is away."""
    with suppress(RequestRefused, DaemonSilent):
        return asking.status(session).frames_done
    return 0


def in_step(reader: Subscriber, asking: Requests, session: str) -> bool:
    """Whether the mirror stands where the daemon says that it stands."""
    reader.poll(0.05)
    with suppress(RequestRefused, DaemonSilent):
        manifest = asking.manifest(session)
        place = (reader.epoch, reader.seq, reader.synced)
        return place == (manifest.epoch, manifest.seq, True)
    return False


def whole_map(asking: Requests, session: str) -> MapMirror:
    """A fresh copy of the map from a snapshot."""
    mirror = MapMirror()
    for update in asking.snapshot(session).updates:
        mirror.apply(update)
    return mirror


def shared_memory(pids: Sequence[int]) -> set[Path]:
    """Files under /dev/shm that these processes have mapped."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            found |= set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text()))
    return {Path(name) for name in found}


def run_folders(pid: int) -> list[Path]:
    """What a daemon has among the temporary files."""
    return list(Path(tempfile.gettempdir()).glob(f"splatstream-{pid}-*"))


def end(daemon: DaemonProcess, number: signal.Signals) -> None:
    """The signal to the daemon; then no process and no shared memory of it may be left."""
    pids = [pid for some in children(daemon.pid).values() for pid in some]
    assert len(pids) >= 3
    assert len(run_folders(daemon.pid)) == 1
    shared = shared_memory([daemon.pid, *pids])
    os.kill(daemon.pid, number)
    assert daemon.wait(10) is not None
    wait_until(lambda: not any(alive(pid) for pid in pids), "the processes to end", 10)
    assert not any(path.exists() for path in shared)


def subscriber_of_run(viewer: int) -> Subscriber:
    """A reader beside a page: at the addresses that the page's process was given."""
    words = Path(f"/proc/{viewer}/cmdline").read_bytes().decode().split("\0")
    options = dict(pairwise(words))
    return Subscriber(options["--updates"], options["--requests"])

"""The demo: a daemon of its own, the demo capture through the ordinary client, and its measures."""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.config import ServeConfig, SessionConfig, ViewerConfig
from streamer.daemon_process import DaemonFailed, DaemonProcess
from streamer.diagnosis import port_is_free
from streamer.sources import Capture, CaptureFrame, open_capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streamer.playback import Playback
    from streamer.subscriber import Subscriber

CAPTURE = Path(__file__).resolve().parents[1] / "examples" / "office"
SESSION = "office"
HOLD_OUT = 8
_PATIENCE_S = 60.0
_ANY_ADDRESS = "tcp://127.0.0.1:*"
_USER_ERROR = 2  # exit code of `splatstream serve`


class DemoError(ValueError):
    """The demo cannot run as was asked; the message says what to do."""


def demo_capture() -> Capture:
    """The capture that lies in the repository."""
    if not CAPTURE.is_dir():
        raise DemoError(
            f"{CAPTURE} is not there: the demo runs from a clone of the repository; with your own "
            "capture: splatstream serve, then splatstream push CAPTURE"
        )
    return open_capture(CAPTURE)


def demo_config(session_dir: Path, *, long_side: int | None, page: bool) -> ServeConfig:
    """The daemon's settings: the default addresses where they are free, free ones elsewhere."""
    defaults = ServeConfig()
    session = SessionConfig() if long_side is None else SessionConfig(long_side=long_side)
    return ServeConfig(
        ingest=free_address(defaults.ingest),
        updates=free_address(defaults.updates),
        requests=free_address(defaults.requests),
        session_dir=session_dir,
        session=session,
        viewer=ViewerConfig(
            enabled=page,
            port=defaults.viewer.port if port_is_free(defaults.viewer.port) else 0,
        ),
    )


@contextmanager
def demo_daemon(
    config: ServeConfig, say: Callable[[str], object] = lambda text: None
) -> Iterator[DaemonProcess]:
    """A running daemon with the settings of `demo_config`, which ends with the block.

    A port that was free may be another's by the time the daemon binds it: two demos that are
    started at once would both fail over each other. So where the daemon will not have its
    settings, it is tried once more with free ports throughout, which is said.

    Raises:
        DaemonFailed: the daemon does not start.
    """
    daemon = DaemonProcess(config)
    try:
        daemon.start()
    except DaemonFailed as failed:
        if failed.code != _USER_ERROR:
            raise
        say("once more, on free ports …")
        daemon = DaemonProcess(_anywhere(config))
        daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def _anywhere(config: ServeConfig) -> ServeConfig:
    return dataclasses.replace(
        config,
        ingest=_ANY_ADDRESS,
        updates=_ANY_ADDRESS,
        requests=_ANY_ADDRESS,
        viewer=dataclasses.replace(config.viewer, port=0),
    )


def free_address(address: str) -> str:
    """The TCP address where its port is free, else its host with any free port."""
    host, port = address.rsplit(":", 1)
    return address if port_is_free(int(port)) else f"{host}:0"


def page_address(addresses: Mapping[str, str]) -> str:
    """Where the live page is.

    Raises:
        DemoError: the daemon is there without it.
    """
    if "viewer" not in addresses:
        raise DemoError(
            "the live page did not start (its own words are above): demo --once --out DIR does "
            "without it"
        )
    return addresses["viewer"]


def check_running(daemon: DaemonProcess) -> None:
    """Raises DemoError where the daemon has ended."""
    code = daemon.wait(0.0)
    if code is not None:
        raise DemoError(f"the daemon ended with exit code {code}: its own words are above")


def wait_for_map(
    subscriber: Subscriber,
    daemon: DaemonProcess,
    frames: int,
    *,
    refine_s: float,
    patience_s: float = _PATIENCE_S,
) -> float:
    """Follows the map until every frame is in it and it has settled, or ``refine_s`` is over.

    Args:
        daemon: the one that the subscriber listens to.
        frames: how many it accepted.
        refine_s: seconds of refinement at most, after the last frame.
        patience_s: seconds without a frame being done, or without the whole map afterwards.

    Returns:
        `time.monotonic()` when the last frame was done.

    Raises:
        DemoError: no frame was accepted, the daemon ended, or nothing comes from it any more.
    """
    if frames == 0:
        raise DemoError("the daemon accepted no frame, so there is no map to wait for")
    done_at: float | None = None
    settled, news_at = 0, time.monotonic()
    while True:
        subscriber.poll(0.1)
        check_running(daemon)
        now = time.monotonic()
        status = subscriber.status
        if status is not None:
            before, settled = settled, status.frames_done + status.frames_dropped
            if settled != before:
                news_at = now
            if done_at is None and settled >= frames:
                done_at = now
            over = done_at is not None and (status.state == "idle" or now - done_at > refine_s)
            if done_at is not None and over and subscriber.synced:
                return done_at
        if now - news_at > patience_s + (0.0 if done_at is None else refine_s):
            raise DemoError(
                f"nothing has come from the daemon for {patience_s:g} s, {settled} of {frames} "
                "frames are done: what happened is in its own words above"
            )


@dataclass(frozen=True, slots=True)
class Measures:
    """What a finished demo leaves behind.

    Attributes:
        figures: the report, without the views' single scores.
        psnr, ssim: means over the held-out views.
    """

    figures: dict[str, Any]
    psnr: float | None
    ssim: float | None


def leave_results(
    out: Path,
    capture: Capture,
    given: Sequence[CaptureFrame],
    kept: Sequence[CaptureFrame],
    playback: Playback,
    subscriber: Subscriber,
    *,
    long_side: int,
    done_at: float,
) -> Measures:
    """Writes `map.ply`, `renders.png` and `report.json` of the subscriber's copy of the map.

    `out` is a folder that is there.
    """
    from gs_decoder import estimate_background, write_ply
    from streamer.hardware import hardware
    from streamer.held_out import HeldOut
    from streamer.report import contact_sheet, write_report
    from streamer.scoring import WorldSplats, score

    origin = subscriber.mirror.origin()
    splats = subscriber.mirror.splats_world(origin=origin)
    write_ply(out / "map.ply", splats, offset=origin)

    held_out = HeldOut.load(capture, given, kept, long_side=long_side)
    background = estimate_background([frame.image for frame in held_out.neighbours])
    scores = score(WorldSplats(splats, origin), held_out.views, held_out.neighbours, background)
    contact_sheet(out / "renders.png", held_out.views, scores)
    status = subscriber.status
    assert status is not None, "wait_for_map saw one"
    figures = {
        "capture": capture.name,
        "frames_in": status.frames_in,
        "frames_done": status.frames_done,
        "frames_dropped": status.frames_dropped,
        "frames_rejected": status.frames_rejected,
        "frames_per_second": status.frames_done / max(done_at - playback.started, 1e-9),
        "latency_ms_p50": None if status.latency_ms is None else status.latency_ms.p50,
        "latency_ms_p95": None if status.latency_ms is None else status.latency_ms.p95,
        "keyframes": status.keyframes,
        "splats": splats.count,
        "long_side": long_side,
        "hardware": hardware(),
    }
    write_report(out / "report.json", figures, scores)
    return Measures(figures, scores.mean("psnr"), scores.mean("ssim"))

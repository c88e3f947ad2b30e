"""SIGKILL to the daemon's processes at random moments of a stream, against a run without any.

    python benchmarks/chaos_kill.py ../shared/captures/hololens_office \
        --json benchmarks/results/chaos_kill.json

Streams the capture (lossless) into a daemon in peace, then into another one whose processes
(ingest, session, publisher, live page) are killed `--kills` times at random moments, each role as
often. Two subscribers follow all along. Refinement is bounded by steps and batches are always
full, so that two undisturbed runs give the same map. Exit code 1 where a promise is broken:
every acknowledged frame is in journal and map once, with its own bytes; subscribers agree with the
daemon splat for splat; the session is in its first epoch; the map has the chunks, key frames and
poses of the undisturbed one and shows the camera's pictures as well (within 0.5 dB).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from chaos import (
    SESSION,
    Followers,
    Report,
    check_history,
    compare_maps,
    parser,
    paused_map,
)
from daemon_children import alive, children
from live_daemon import Frames, client, daemon, requests, send, wait_until

from gs_decoder import ChunkUpdate, MapMirror
from streamer.config import ServeConfig, SessionConfig
from streamer.daemon_process import DaemonProcess
from streamer.replay import Recording, replay
from streamer.requests import DaemonSilent, RequestRefused
from streamer.session.engine import Engine
from streamer.session.settings import engine_config
from streamer.session.threads import use_all_cores
from streamer.sources import Capture, open_capture
from ttt_core import default_model

ROLES = ("ingest", "session", "publisher", "viewer")
WITHIN_DB = 0.5


class Killer(threading.Thread):
    """Kills every process that plays a role, at moments drawn beforehand."""

    def __init__(self, supervisor: int, kills: int, seconds: float, seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        choice = random.Random(seed)
        roles = [ROLES[number % len(ROLES)] for number in range(kills)]
        choice.shuffle(roles)
        moments = sorted(choice.uniform(0.0, seconds) for _ in roles)
        self.plan = list(zip(moments, roles, strict=True))
        self.kills: Counter[str] = Counter()
        self._supervisor = supervisor

    def run(self) -> None:
        began = time.monotonic()
        for moment, role in self.plan:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            # One that is on its way back may be killed there; one that is gone cannot.
            wait_until(lambda r=role: children(self._supervisor).get(r), f"a {role} to kill")
            for pid in children(self._supervisor)[role]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda p=pid: not alive(p), "the death")
            self.kills[role] += 1


@contextmanager
def storm(serving: DaemonProcess, options: argparse.Namespace, report: Report) -> Iterator[None]:
    """Kills while the block runs; when it is left, all are done."""
    killer = Killer(serving.pid, options.kills, options.frames / options.rate, options.seed)
    killer.start()
    try:
        yield
    finally:
        killer.join(300)
    report.expect(not killer.is_alive(), "processes come back to be killed again")
    report.figures["kills"] = dict(killer.kills)
    report.figures["moments_s"] = [[round(at, 2), role] for at, role in killer.plan]


def stream(
    folder: Path, capture: Capture, frames: Frames, options: argparse.Namespace, report: Report
) -> MapMirror:
    """The capture through a daemon; kills where `report` wants their figures."""
    with (
        daemon(
            folder,
            refine=True,
            refine_steps=options.steps,
            save_every=options.save_every,
            # Batches go out when they are full, never for the time that passed.
            batch_timeout_s=600.0,
            viewer_port=0,
            log=folder / "daemon.log",
        ) as serving,
        requests(serving) as asking,
    ):
        sender = client(serving, SESSION, capture=capture)
        followers = Followers(serving, 2)
        began = time.monotonic()
        with storm(serving, options, report):
            for number, frame in enumerate(frames):
                time.sleep(max(0.0, began + number / options.rate - time.monotonic()))
                send(sender, [frame])
        report.expect(sender.wait(120), "every frame is acknowledged")
        acked = sender.acked
        sender.close()
        wait_until(lambda: _done(serving, len(frames)), "all frames to be done", 300)
        report.figures["seconds"] = round(time.monotonic() - began, 1)
        report.figures["acknowledged"] = acked + 1
        report.figures["times_that_the_sender_connected"] = sender.connects
        report.expect(acked + 1 == len(frames), f"all are acknowledged, not {acked + 1}")
        report.expect(not sender.rejected, f"no frame is rejected: {sender.rejected[:3]}")
        held = paused_map(serving, followers, report)
        status = asking.status(SESSION)
        counts = (status.frames_in, status.frames_done, status.frames_dropped, status.epoch)
        report.expect(
            counts == (len(frames), len(frames), 0, 1), f"in, done, dropped, epoch: {counts}"
        )
        report.expect(status.durable, "the session is durable")
        wait_until(lambda: _page(serving.addresses["viewer"]), "the page")
        followers.close()
    check_history(folder / SESSION, capture, frames, report)
    return held


def _done(serving: DaemonProcess, frames: int) -> bool:
    with suppress(RequestRefused, DaemonSilent), requests(serving) as asking:
        status = asking.status(SESSION)
        return status.frames_done == frames and status.frames_waiting == 0
    return False


def _page(address: str) -> bool:
    with suppress(OSError, HTTPException), urlopen(address, timeout=5) as page:
        return page.status == 200
    return False


def replayed(folder: Path, options: argparse.Namespace) -> MapMirror:
    """The map that the frames of this journal give an engine that nobody kills."""
    # Sums of another number of threads differ in their last bits.
    use_all_cores()
    settings = engine_config(
        ServeConfig(session=SessionConfig(long_side=96, refine_steps=options.steps))
    )
    engine = Engine(settings, model=default_model(None, settings.device))
    replay(engine, Recording(folder, settings.batch), long_side=96)
    engine.close()
    mirror = MapMirror()
    for chunk in engine.map.chunks.values():
        mirror.apply(ChunkUpdate(chunk))
    return mirror


def measure(options: argparse.Namespace) -> Report:
    """The stream in peace, then in the storm."""
    whole = open_capture(options.capture)
    frames: Frames = whole.frames[: options.frames]
    options.frames = len(frames)
    report, calm = Report(), Report()
    with tempfile.TemporaryDirectory(prefix="splatstream-chaos-") as name:
        peace = argparse.Namespace(**{**vars(options), "kills": 0})
        if not options.replay:
            expected = stream(Path(name) / "calm", whole, frames, peace, calm)
        found = stream(Path(name) / "storm", whole, frames, options, report)
        if options.replay:
            expected = replayed(Path(name) / "storm" / SESSION, options)
        if options.keep:
            shutil.copytree(name, options.keep)
    report.broken += [f"undisturbed: {promise}" for promise in calm.broken]
    views: Sequence = frames[:: max(1, len(frames) // 16)]
    same = compare_maps(expected, found, whole, views, 96)
    report.figures["against_undisturbed"] = same
    report.expect(same["same_chunk_ids"], "the chunks are those of an undisturbed run")
    report.expect(same["same_key_frames"], "of the same key frames")
    report.expect(same["largest_pose_difference"] == 0.0, "at the same places")
    one, other = same["psnr_of_each_with_the_camera"]
    report.expect(abs(one - other) <= WITHIN_DB, f"the map is as good: {one} and {other} dB")
    report.figures["undisturbed_seconds"] = calm.figures.get("seconds")
    return report


def main() -> None:
    made = parser(__doc__)
    made.add_argument("capture", type=Path)
    made.add_argument("--frames", type=int, default=300)
    made.add_argument("--rate", type=float, default=4.0, help="frames a second")
    made.add_argument("--kills", type=int, default=20)
    made.add_argument("--steps", type=int, default=2, help="of refinement after each batch")
    made.add_argument("--save-every", type=int, default=8, help="batches")
    made.add_argument(
        "--replay", action="store_true", help="compare with a replay of the journal instead"
    )
    made.add_argument("--keep", type=Path, help="keep both daemons' folders and logs here")
    options = made.parse_args()
    command = f"chaos_kill.py --frames {options.frames} --rate {options.rate:g}"
    command += f" --kills {options.kills} --steps {options.steps} --seed {options.seed}"
    measure(options).finish(command, options.json)


if __name__ == "__main__":
    main()

"""A stream and its subscribers through a network that delays, stalls, cuts and reorders.

    python benchmarks/chaos_net.py ../shared/captures/hololens_office \
        --json benchmarks/results/chaos_net.json

A sender (lossless), a SLAM back end that corrects poses, and two subscribers reach the daemon
through `faulty_proxy.py` alone, once in the clear and once with CURVE keys, for every seed.
Exit code 1 where a promise is broken: every frame is acknowledged and in journal and map once, with
its own bytes, every acknowledged correction is in the journal once, none is rejected, and when the
network has calmed down all subscribers hold the daemon's map splat for splat.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chaos import SESSION, Followers, Report, check_history, parser, paused_map
from faulty_proxy import Faults, FaultyProxy
from live_daemon import Frames, client, daemon, frames_done, requests, send, wait_until

from streamer import PoseClient
from streamer.access import ClientKeys
from streamer.cli import dispatch
from streamer.client import ConnectionLostError
from streamer.journal import Corrected, read_journal
from streamer.sources import Capture, open_capture

KEYS = {
    "daemon": [],
    "robot": ["ingest"],
    "laptop": ["watch"],
    "operator": ["watch", "control"],
}


@dataclass(frozen=True)
class Through:
    """The daemon's addresses as the network has them."""

    addresses: dict[str, str]


def new_keys(folder: Path) -> dict[str, ClientKeys]:
    """A daemon's keys in `folder`, and those of who sends, who watches and who gives orders."""
    for name, rights in KEYS.items():
        allow = ["--allow", *rights] if rights else []
        # It explains itself to people; the report goes to stdout alone.
        with redirect_stdout(sys.stderr):
            dispatch(["keygen", name, *allow, "--dir", str(folder)])
    return {
        name: ClientKeys.load(folder / f"{name}.key_secret", folder / "daemon.key")
        for name, rights in KEYS.items()
        if rights
    }


class BackEnd(threading.Thread):
    """Corrects a frame's pose now and then, and notes which revisions were acknowledged."""

    def __init__(self, address: str, frames: Frames, keys: ClientKeys | None) -> None:
        super().__init__(name="back end", daemon=True)
        self._address, self._frames, self._keys = address, frames, keys
        self._ended = threading.Event()
        self.acknowledged: list[int] = []
        self.errors: list[str] = []

    def run(self) -> None:
        revision = 0
        while not self._ended.wait(1.0):
            revision += 1
            pose = np.array(self._frames[revision % 8].c2w)
            pose[:3, 3] += 0.001 * revision
            # A correction whose answer was lost may have been applied: another number follows.
            try:
                with PoseClient(
                    self._address, session=SESSION, keys=self._keys, timeout_s=3.0
                ) as back_end:
                    ack = back_end.send_poses(revision, {revision % 8: pose})
                    # An unknown frame's pose is nothing that could be kept.
                    self.acknowledged += [] if ack.unknown else [revision]
            except (ConnectionLostError, TimeoutError):
                continue
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        """Stop."""
        self._ended.set()
        self.join()


def stream(
    folder: Path, capture: Capture, frames: Frames, options: argparse.Namespace, seed: int, *,
    curve: bool,
) -> Report:  # fmt: skip
    """One stream through one bad network."""
    report = Report()
    keys = new_keys(folder / "keys") if curve else dict.fromkeys(KEYS)
    faults = Faults(cut_after=options.cut_after, stall=options.stall)
    with (
        daemon(folder, keys=folder / "keys" if curve else None) as serving,
        FaultyProxy(_sockets(serving.addresses), faults, seed) as network,
        requests(serving, keys["operator"]) as asking,
    ):
        through: Any = Through(network.addresses)
        sender = client(
            through,
            SESSION,
            capture=capture,
            keys=keys["robot"],
            lost_after_s=120.0,
            connect_timeout_s=60.0,
        )
        followers = Followers(through, 2, [keys["laptop"]])
        back_end = BackEnd(network.addresses["ingest"], frames, keys["robot"])
        back_end.start()
        began = time.monotonic()
        for number, frame in enumerate(frames):
            time.sleep(max(0.0, began + number / options.rate - time.monotonic()))
            send(sender, [frame])
        network.calm_down()
        back_end.end()
        report.expect(sender.wait(120), "every frame is acknowledged")
        acked = sender.acked
        sender.close()
        report.expect(acked + 1 == len(frames), f"all are acknowledged, not {acked + 1}")
        report.expect(not sender.rejected, f"no frame is rejected: {sender.rejected[:3]}")
        report.expect(not back_end.errors, f"corrections go on: {back_end.errors[:3]}")
        wait_until(lambda: frames_done(asking, SESSION) == len(frames), "all frames to be done")
        paused_map(serving, followers, report, keys["operator"])
        status = asking.status(SESSION)
        counts = (status.frames_in, status.frames_done, status.frames_dropped, status.epoch)
        report.expect(
            counts == (len(frames), len(frames), 0, 1), f"in, done, dropped, epoch: {counts}"
        )
        followers.close()
        report.figures |= {
            "curve": curve,
            "seed": seed,
            "seconds": round(time.monotonic() - began, 1),
            "acknowledged": acked + 1,
            "times_that_the_sender_connected": sender.connects,
            "corrections_acknowledged": len(back_end.acknowledged),
            "network": dict(network.counts),
        }
    check_history(folder / SESSION, capture, frames, report)
    recorded = [
        one.entry.revision
        for one in read_journal(folder / SESSION, parts=False)
        if isinstance(one.entry, Corrected)
    ]
    missing = set(back_end.acknowledged) - set(recorded)
    report.expect(not missing, f"acknowledged corrections are in the journal, not {missing}")
    report.expect(len(recorded) == len(set(recorded)), f"each of them once: {recorded}")
    return report


def _sockets(addresses: dict[str, str]) -> dict[str, str]:
    return {name: addresses[name] for name in ("ingest", "updates", "requests")}


def measure(options: argparse.Namespace) -> Report:
    """All seeds, in the clear and with keys."""
    capture = open_capture(options.capture)
    frames: Frames = capture.frames[: options.frames]
    report = Report({"streams": []})
    for number in range(options.seeds):
        for curve in (True,) if options.with_keys else (False, True):
            with tempfile.TemporaryDirectory(prefix="splatstream-chaos-") as name:
                seed = options.seed + number
                one = stream(Path(name), capture, frames, options, seed, curve=curve)
            report.figures["streams"].append(one.figures)
            label = f"seed {seed}, {'CURVE' if curve else 'in the clear'}"
            report.broken += [f"{label}: {promise}" for promise in one.broken]
    return report


def main() -> None:
    made = parser(__doc__)
    made.add_argument("capture", type=Path)
    made.add_argument("--frames", type=int, default=120)
    made.add_argument("--rate", type=float, default=6.0, help="frames a second")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--with-keys", action="store_true", help="not in the clear as well")
    made.add_argument("--cut-after", type=float, default=4.0, help="mean life of a connection, s")
    made.add_argument("--stall", type=float, default=2.0, help="longest, s")
    options = made.parse_args()
    command = f"chaos_net.py --frames {options.frames} --rate {options.rate:g}"
    command += f" --seeds {options.seeds} --seed {options.seed}"
    command += f" --cut-after {options.cut_after:g} --stall {options.stall:g}"
    measure(options).finish(command, options.json)


if __name__ == "__main__":
    main()

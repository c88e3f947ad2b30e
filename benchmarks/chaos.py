"""What the chaos commands share: subscribers that follow a stream, what must be true of it at the
end, and a report that says what was not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gs_decoder import MapMirror, psnr
from streamer import Requests, Subscriber
from streamer.access import ClientKeys
from streamer.daemon_process import DaemonProcess
from streamer.hardware import hardware
from streamer.held_out import HeldOut
from streamer.journal import FrameEntry, read_journal
from streamer.scoring import WorldSplats
from streamer.session.folder import states
from streamer.session.state_files import read_state
from streamer.sources import Capture, CaptureFrame
from ttt_core import default_model

ROOT = Path(__file__).resolve().parents[1]
# Behind the imports above: tests/gs_decoder and its like would be taken for what they test.
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "end_to_end")]

from live_daemon import in_step, requests, subscriber, wait_until, whole_map  # noqa: E402

SESSION = "office"
_SAME_DB = 100.0
"""PSNR of pictures that are the same to the bit: JSON has no infinity."""


@dataclass
class Report:
    """Figures, and the promises that were found broken."""

    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def expect(self, kept: object, promise: str) -> None:
        """Note a promise that is not kept."""
        if not kept:
            self.broken.append(promise)

    def finish(self, command: str, path: Path | None) -> None:
        """Print all of it, write it, and exit with 1 where something is broken."""
        result = {
            "command": command,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": hardware(),
            **self.figures,
            "broken": self.broken,
        }
        text = json.dumps(result, indent=2) + "\n"
        print(text, end="")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        sys.exit(1 if self.broken else 0)


def parser(document: str) -> argparse.ArgumentParser:
    """With `--seed` and `--json`, which all of these commands have."""
    made = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", type=Path)
    return made


class Followers:
    """Subscribers, each polled in a thread of its own while the stream runs."""

    def __init__(
        self, daemon: DaemonProcess, count: int, keys: Sequence[ClientKeys | None] = (None,)
    ) -> None:
        self._ended = threading.Event()
        self.errors: list[str] = []
        self.readers = [
            subscriber(daemon, SESSION, keys[number % len(keys)]) for number in range(count)
        ]
        self._threads = [
            threading.Thread(target=self._follow, args=(reader,), daemon=True)
            for reader in self.readers
        ]
        for thread in self._threads:
            thread.start()

    def _follow(self, reader: Subscriber) -> None:
        try:
            while not self._ended.is_set():
                reader.poll(0.05)
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        """Stop following; the subscribers can be polled by the caller from here on."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Disconnect."""
        self.end()
        for reader in self.readers:
            reader.close()


def paused_map(
    daemon: DaemonProcess, followers: Followers, report: Report, keys: ClientKeys | None = None
) -> MapMirror:
    """The map, standing still; the followers and one who joins now must hold the same splats."""
    followers.end()
    report.expect(not followers.errors, f"followers go on: {followers.errors}")
    with requests(daemon, keys) as asking, subscriber(daemon, SESSION, keys) as late:
        wait_until(lambda: _paused(asking), "the session to stand still")
        held: MapMirror | None = None
        for reader in (*followers.readers, late):
            wait_until(lambda r=reader: in_step(r, asking, SESSION), "a subscriber to catch up")
            held = held or whole_map(asking, SESSION)
            report.expect(reader.mirror.equals(held), "subscribers agree splat for splat")
        asking.resume(SESSION)
    assert held is not None
    report.figures["snapshots_of_each_follower"] = [r.snapshots for r in followers.readers]
    return held


def _paused(asking: Requests) -> bool:
    asking.pause(SESSION)
    return asking.status(SESSION).state == "paused"


def check_history(
    folder: Path, capture: Capture, frames: Sequence[CaptureFrame], report: Report
) -> None:
    """Every frame is in the journal once, as it was sent, and in the saved state of a daemon that
    has ended once.

    Args:
        folder: the session's.
        frames: what was sent and acknowledged, in order.
    """
    seqs = []
    for one in read_journal(folder):
        if not isinstance(one.entry, FrameEntry):
            continue
        seq = one.entry.header.seq
        seqs.append(seq)
        if seq < len(frames):
            sent = frames[seq]
            same = one.entry.header.stamp_ns == sent.stamp_ns
            same &= bytes(one.parts[0]) == sent.image_path.read_bytes()
            report.expect(same, f"frame {seq} of the journal is the frame {seq} that was sent")
    report.expect(seqs == list(range(len(frames))), f"the journal has every frame once: {seqs}")
    found = states(folder)
    report.expect(found, "a daemon that ends saves a state")
    if found:
        known = read_state(found[0], default_model()).trajectory.seqs.tolist()
        report.expect(known == list(range(len(frames))), f"the map has every frame once: {known}")
    report.figures["frames_in_journal"] = len(seqs)


def compare_maps(
    calm: MapMirror,
    storm: MapMirror,
    capture: Capture,
    views: Sequence[CaptureFrame],
    long_side: int,
) -> dict[str, Any]:
    """How far two maps of the same frames are from each other: which chunks there are and where,
    and PSNR between their pictures (at the size that the map was made of) beside that of each with
    the camera's.
    """
    held = HeldOut.load(capture, [], views, long_side=long_side)
    both = sorted(calm.chunks.keys() & storm.chunks.keys())
    pairs = [(calm.chunks[key], storm.chunks[key]) for key in both]
    between, of_calm, of_storm = [], [], []
    worlds = [_world(calm), _world(storm)]
    for view in held.views:
        truth = view.image.astype(np.float32) / np.float32(255.0)
        one, other = (
            np.clip(world.render(view, np.zeros(3, np.float32))[0], 0.0, 1.0) for world in worlds
        )
        between.append(min(psnr(one, other), _SAME_DB))
        of_calm.append(psnr(one, truth, valid=view.valid))
        of_storm.append(psnr(other, truth, valid=view.valid))
    return {
        "chunks": [len(calm.chunks), len(storm.chunks)],
        "same_chunk_ids": calm.chunks.keys() == storm.chunks.keys(),
        "same_key_frames": [a.frame_seq for a, _ in pairs] == [b.frame_seq for _, b in pairs],
        "chunks_equal_to_the_bit": sum(a.splats.equals(b.splats) for a, b in pairs),
        "largest_pose_difference": max(
            (float(np.abs(a.T_world_chunk - b.T_world_chunk).max()) for a, b in pairs), default=0.0
        ),
        "splats": [calm.count, storm.count],
        "psnr_between_the_two": _mean(between),
        "psnr_of_each_with_the_camera": [_mean(of_calm), _mean(of_storm)],
        "views": len(held.views),
    }


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2)


def _world(mirror: MapMirror) -> WorldSplats:
    origin = mirror.origin()
    return WorldSplats(mirror.splats_world(origin=origin), origin)


def retry(step: Callable[[], object], limit_s: float, what: str) -> None:
    """Until `step` does not raise; a process that was killed needs its time to come back."""
    last: list[Exception] = []

    def tried() -> bool:
        try:
            step()
        except Exception as error:
            last[:] = [error]
            return False
        return True

    wait_until(tried, f"{what} ({last})", limit_s)

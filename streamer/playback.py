"""Sends a recorded capture through the ordinary client, as a camera would."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamer.client import Client
from streamer.sources import CaptureFrame, read_depth, read_image, read_mask

_ENCODED = (".jpg", ".jpeg", ".png")


class PlaybackError(ValueError):
    """A capture cannot be sent as was asked."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A frame that the daemon did not take."""

    frame: CaptureFrame
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Playback:
    """What became of a capture that was sent."""

    sent: int
    rejected: list[Rejected]
    dropped: int
    started: float
    """`time.monotonic()` at the first frame."""
    seconds: float
    """From the first frame sent to the last one settled."""

    def summary(self) -> str:
        """One line for people."""
        rate = self.sent / max(self.seconds, 1e-9)
        return (
            f"{self.sent} frames sent in {self.seconds:.1f} s ({rate:.1f} frames/s), "
            f"{self.dropped} dropped, {len(self.rejected)} rejected"
        )


def play(
    client: Client,
    frames: Sequence[CaptureFrame],
    *,
    rate: float,
    with_depth: bool = False,
    progress: Callable[[int], None] = lambda settled: None,
) -> Playback:
    """Sends ``frames`` in order and waits until all of them are settled.

    Images go out as the bytes of their files. A sender that was held up by credit goes on at its
    rate; it does not hurry to catch up.

    Args:
        client: connected, with the capture's cameras.
        rate: frames a second; 0: as fast as credit allows.
        with_depth: send depth images where the capture has them.
        progress: called with the number of frames settled so far.

    Raises:
        PlaybackError: a negative rate.
    """
    if not rate >= 0.0:
        raise PlaybackError(f"--rate is {rate:g}; frames a second, or 0 for as fast as possible")
    start = time.monotonic()
    due = start
    sent = 0
    of_stamp: dict[int, CaptureFrame] = {}
    rejected: list[Rejected] = []
    for frame in frames:
        wait_s = due - time.monotonic()
        if wait_s > 0.0:
            time.sleep(wait_s)
        try:
            _send(client, frame, with_depth)
        except ValueError as error:
            # What no client can send, such as a file that is no image, no daemon would take.
            rejected.append(Rejected(frame, "bad_image", str(error)))
        else:
            sent += 1
            # By stamp: under the live policy frames have no number until they leave.
            of_stamp[frame.stamp_ns] = frame
        progress(len(rejected) + sent - client.unsettled)
        if rate > 0.0:
            due = max(due + 1.0 / rate, time.monotonic())
    client.flush()
    while not client.wait(timeout=0.2):
        progress(len(rejected) + sent - client.unsettled)
    progress(len(frames))
    rejected += [Rejected(of_stamp[r.stamp_ns], r.code, r.reason) for r in client.rejected]
    return Playback(sent, rejected, client.dropped, start, time.monotonic() - start)


def _send(client: Client, frame: CaptureFrame, with_depth: bool) -> None:
    encoded = frame.image_path.suffix.lower() in _ENCODED
    depth = None
    if with_depth and frame.depth_path is not None:
        png = frame.depth_path.suffix.lower() == ".png"
        depth = frame.depth_path.read_bytes() if png else read_depth(frame)
    client.send(
        frame.image_path.read_bytes() if encoded else read_image(frame.image_path),
        frame.c2w,
        camera=frame.camera,
        stamp_ns=frame.stamp_ns,
        params=frame.params,
        depth=depth,
        depth_unit_m=frame.depth_unit_m,
        mask=read_mask(frame),
    )

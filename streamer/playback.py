"""Sends a recorded capture through the ordinary client, as a camera would."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2

from streamer.client import Client
from streamer.sources import Capture, CaptureFrame, read_depth, read_image, read_mask

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
    capture: Capture,
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
    of_seq: dict[int, CaptureFrame] = {}
    for frame in frames:
        wait_s = due - time.monotonic()
        if wait_s > 0.0:
            time.sleep(wait_s)
        of_seq[_send(client, frame, with_depth)] = frame
        progress(_settled(client))
        if rate > 0.0:
            due = max(due + 1.0 / rate, time.monotonic())
    client.flush()
    while not client.wait(timeout=0.2):
        progress(_settled(client))
    progress(len(of_seq))
    rejected = [Rejected(of_seq[r.seq], r.code, r.reason) for r in client.rejected]
    return Playback(len(of_seq), rejected, client.dropped, start, time.monotonic() - start)


def _settled(client: Client) -> int:
    return client.acked + 1


def _send(client: Client, frame: CaptureFrame, with_depth: bool) -> int:
    suffix = frame.image_path.suffix.lower()
    encoded = suffix in _ENCODED
    depth = None
    if with_depth and frame.depth_path is not None:
        png = frame.depth_path.suffix.lower() == ".png"
        depth = frame.depth_path.read_bytes() if png else read_depth(frame)
    mask = read_mask(frame)
    return client.send(
        frame.image_path.read_bytes() if encoded else read_image(frame.image_path),
        pose=frame.c2w,
        camera=frame.camera,
        stamp_ns=frame.stamp_ns,
        params=frame.params,
        depth=depth,
        depth_unit_m=frame.depth_unit_m,
        mask=None if mask is None else cv2.imencode(".png", mask)[1].tobytes(),
    )

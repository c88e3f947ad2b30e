"""The frames of a capture that are kept back to judge a map by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from gs_decoder.metrics import WINDOW
from streamer.frames import Frame
from streamer.sources import Capture, CaptureFrame, load_frame


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A frame that was passed over: its files do not decode, or do not fit its camera."""

    frame: CaptureFrame
    reason: str


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Frames kept back, and the given frames next to them, which lend them their exposure.

    Attributes:
        views, neighbours: `seq` is the frame's index in the capture.
        unreadable: frames of either kind that cannot be read, and kept ones without an 11x11
            window of valid pixels.
    """

    views: list[Frame]
    neighbours: list[Frame]
    unreadable: list[Unreadable] = field(default_factory=list)

    @staticmethod
    def load(
        capture: Capture,
        given: Sequence[CaptureFrame],
        kept: Sequence[CaptureFrame],
        *,
        long_side: int,
        with_depth: bool = False,
        known_unreadable: Collection[int] = (),
    ) -> HeldOut:
        """Reads them at the working size.

        Args:
            given, kept: as `Capture.hold_out` splits them.
            with_depth: with the sensor depth of the kept frames.
            known_unreadable: indices of frames that were named already.
        """
        unreadable: list[Unreadable] = []

        def load(frame: CaptureFrame, depth: bool) -> Frame | None:
            try:
                loaded = load_frame(
                    capture, frame, seq=frame.index, long_side=long_side, with_depth=depth
                )
            except ValueError as error:
                unreadable.append(Unreadable(frame, str(error)))
                return None
            return loaded

        views = []
        for entry in kept:
            view = None if entry.index in known_unreadable else load(entry, with_depth)
            if view is not None and not _comparable(view):
                reason = (
                    f"{entry.image_path}: no {WINDOW}x{WINDOW} pixels of it can be compared: its "
                    "mask covers it, or --long-side is too small"
                )
                unreadable.append(Unreadable(entry, reason))
            elif view is not None:
                views.append(view)
        near = [frame for frame in _beside(given, kept) if frame.index not in known_unreadable]
        neighbours = [frame for entry in near if (frame := load(entry, False)) is not None]
        return HeldOut(views, neighbours, unreadable)

    def seen_before(self, index: int) -> list[Frame]:
        """The kept views that lie before the given frame of this index."""
        return [view for view in self.views if view.seq < index]


def _beside(given: Sequence[CaptureFrame], kept: Sequence[CaptureFrame]) -> list[CaptureFrame]:
    """Of every kept frame's camera, the given frame before it and the one after it."""
    of_camera: dict[str, list[CaptureFrame]] = {}
    for frame in given:
        of_camera.setdefault(frame.camera, []).append(frame)
    chosen: dict[int, CaptureFrame] = {}
    for frame in kept:
        others = of_camera.get(frame.camera, [])
        after = int(np.searchsorted([other.index for other in others], frame.index))
        for other in others[max(0, after - 1) : after + 1]:
            chosen[other.index] = other
    return [chosen[index] for index in sorted(chosen)]


def _comparable(view: Frame) -> bool:
    """Whether a window of the metrics lies wholly on valid pixels."""
    if min(view.image.shape[:2]) < WINDOW:
        return False
    if view.valid is None:
        return True
    counts = np.pad(np.cumsum(np.cumsum(view.valid.astype(np.int64), 0), 1), ((1, 0), (1, 0)))
    inside = (
        counts[WINDOW:, WINDOW:]
        - counts[:-WINDOW, WINDOW:]
        - counts[WINDOW:, :-WINDOW]
        + counts[:-WINDOW, :-WINDOW]
    )
    return bool((inside == WINDOW * WINDOW).any())

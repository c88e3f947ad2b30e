"""`splatstream run`: a capture to a map in one process, by the same engine as the daemon's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.frames import Frame
from streamer.session.engine import Engine
from streamer.sources import Capture, CaptureFrame, load_frame

_AHEAD = 16


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run did: frames taken, and wall seconds from the first frame read to the end."""

    frames_in: int
    frames_done: int
    stream_seconds: float
    seconds: float


class FrameReader:
    """Reads and prepares frames ahead in a thread, in order; bounded."""

    def __init__(
        self,
        capture: Capture,
        frames: Sequence[CaptureFrame],
        *,
        long_side: int,
        with_depth: bool = False,
    ) -> None:
        self._capture = capture
        self._frames = frames
        self._long_side = long_side
        self._with_depth = with_depth
        self._queue: queue.Queue[Frame | Exception | None] = queue.Queue(maxsize=_AHEAD)
        self._stop = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="frame-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop reading; frames read ahead are forgotten."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def take(self, count: int) -> list[Frame]:
        """The next `count` frames, waiting for them; fewer only at the end of the capture."""
        frames: list[Frame] = []
        while len(frames) < count and not self._ended:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                self._ended = True
            else:
                frames.append(item)
        return frames

    def _read(self) -> None:
        try:
            for number, entry in enumerate(self._frames):
                if self._stop.is_set():
                    break
                self._queue.put(
                    load_frame(
                        self._capture,
                        entry,
                        seq=number,
                        long_side=self._long_side,
                        with_depth=self._with_depth,
                    )
                )
            self._queue.put(None)
        except Exception as error:
            # Handed to the thread that takes frames: a broken file is the user's to know of.
            self._queue.put(error)


def run_capture(
    engine: Engine,
    reader: FrameReader,
    *,
    batch: int,
    time_limit: float,
    progress: Callable[[int, int], None] | None = None,
) -> RunOutcome:
    """Feed all frames to the engine, then refine until the time is up or the map has settled.

    Args:
        time_limit: wall seconds from the first frame read, for everything.
        progress: called with (frames done, refinement steps) after every batch and now and then.
    """
    reader.start()
    started = time.monotonic()
    frames_in = 0
    stream_seconds = 0.0
    while time.monotonic() - started < time_limit:
        frames = reader.take(batch)
        if not frames:
            break
        frames_in += len(frames)
        engine.process(frames)
        stream_seconds = time.monotonic() - started
        if progress:
            progress(engine.frames_done, engine.refiner.steps)
    while time.monotonic() - started < time_limit and engine.wants_refinement:
        engine.refine()
        if progress and engine.refiner.steps % 20 == 0:
            progress(engine.frames_done, engine.refiner.steps)
    engine.publish()
    reader.close()
    return RunOutcome(
        frames_in, engine.frames_done, stream_seconds, time.monotonic() - started
    )


def output_folder(path: Path) -> Path:
    """The folder for results, made where it is missing.

    Raises:
        NotADirectoryError: something else lies there.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: name a folder for the results")
    path.mkdir(parents=True, exist_ok=True)
    return path

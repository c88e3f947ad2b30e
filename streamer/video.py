"""Video files that browsers play, written by OpenCV."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np


class VideoError(ValueError):
    """A video that cannot be written; the message says why."""


class VideoFile:
    """An MP4 of VP9 pictures; a context manager. The file appears whole, at the end, or not at all.

    VP9, because OpenCV's packages bring its encoder and browsers its decoder; they bring none for
    H.264, and no browser plays the MPEG-4 Part 2 of OpenCV's `mp4v`.

    Args:
        path: ends in .mp4. width, height: pixels, even. fps: pictures a second.

    Raises:
        VideoError: another ending, odd sides, an OpenCV without the encoder, or, at the end of the
            block, a disk that did not take all of it.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        if path.suffix.lower() != ".mp4":
            raise VideoError(f"--out: {path} does not end in .mp4")
        if width % 2 or height % 2:
            raise VideoError(f"--size: {width}x{height}; a video needs even sides")
        self.path = path
        self._size = (width, height)
        self._written = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")
        self._writer = cv2.VideoWriter(
            str(self._aside), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"vp09"), fps, self._size
        )
        if not self._writer.isOpened():
            self._aside.unlink(missing_ok=True)
            raise VideoError(
                f"{path}: this OpenCV cannot write it: it has no VP9 encoder (the packages from "
                "PyPI have: pip install opencv-python), or the folder is not writable"
            )

    def write(self, rgb: np.ndarray) -> None:
        """Append a picture (H, W, 3) uint8."""
        assert rgb.shape == (self._size[1], self._size[0], 3) and rgb.dtype == np.uint8
        self._writer.write(np.ascontiguousarray(rgb[..., ::-1]))
        self._written += 1

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.release()
        try:
            if kind is None:
                self._must_be_whole()
                os.replace(self._aside, self.path)
        finally:
            self._aside.unlink(missing_ok=True)

    def _must_be_whole(self) -> None:
        # OpenCV says nothing of a write that failed; the index, which counts pictures, comes last.
        read = cv2.VideoCapture(str(self._aside), cv2.CAP_FFMPEG)
        count = round(read.get(cv2.CAP_PROP_FRAME_COUNT)) if read.isOpened() else 0
        read.release()
        if count != self._written:
            raise VideoError(
                f"{self.path}: {count} of {self._written} pictures are in the file as written: is "
                "the disk full? Nothing was left there"
            )

"""What a person can ask of the daemon from the page. Called in viser's threads, one per click."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import viser
import zmq

from streamer.requests import Requests
from viewer.feed import NEWEST, Feed
from viewer.state import FeedState

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The key frame that was clicked; None as `seq`: none any more."""

    seq: int | None
    caption: str
    image: np.ndarray | None
    """(H, W, 3) uint8 RGB."""


class Commands:
    """Requests to the daemon, with their outcome shown to the window that asked.

    Args:
        feed: says which session is shown.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        self._seq: int | None = None
        self._chosen: Chosen | None = None

    def pause(self, client: viser.ClientHandle | None) -> None:
        """Ask the session to stand still."""
        with self._asking(client, "Pause") as (requests, session):
            requests.pause(session)

    def resume(self, client: viser.ClientHandle | None) -> None:
        """Ask it to go on."""
        with self._asking(client, "Resume") as (requests, session):
            requests.resume(session)

    def save_ply(self, client: viser.ClientHandle | None) -> None:
        """Send the whole map to the window's downloads."""
        if client is None:
            return
        notice = client.add_notification("Save PLY", "The daemon writes the map…", loading=True)
        try:
            with self._asking(client, "Save PLY") as (requests, session):
                data = requests.export(session, "ply")
                client.send_file_download(f"{session}.ply", data, save_immediately=True)
        finally:
            notice.remove()

    def choose_key_frame(self, seq: int) -> None:
        """Fetch what a key frame saw, or put it away when it is clicked again."""
        with self._lock:
            again = self._seq == seq
            self._seq = None if again else seq
            if again:
                self._chosen = Chosen(None, "", None)
        if again:
            return
        state = self._feed.state()
        image = None
        with self._asking(None, "Key frame") as (requests, session):
            image = _thumbnail(requests, session, seq)
        with self._lock:
            if self._seq == seq:
                self._chosen = Chosen(seq, _caption(state, seq), image)

    def take_chosen(self) -> Chosen | None:
        """What `choose_key_frame` found since the last call."""
        with self._lock:
            chosen, self._chosen = self._chosen, None
        return chosen

    def forget(self) -> None:
        """Another map is shown: nothing is chosen."""
        with self._lock:
            self._seq = self._chosen = None

    @contextlib.contextmanager
    def _asking(
        self, client: viser.ClientHandle | None, what: str
    ) -> Iterator[tuple[Requests, str]]:
        """A connection for one request; what goes wrong is told to the window, not raised."""
        session = self._feed.state().session
        try:
            if session is None:
                raise ValueError("there is no session yet")
            with self._feed.open_requests() as requests:
                yield requests, session
        except (ValueError, OSError, zmq.ZMQError) as error:
            _log.warning("%s: %s", what, error)
            if client is not None:
                client.add_notification(
                    f"{what} did not work", str(error), color="red", auto_close_seconds=10.0
                )


def _thumbnail(requests: Requests, session: str, seq: int) -> np.ndarray | None:
    for keyframe in requests.keyframes(session, thumbnails=True, newest=NEWEST):
        if keyframe.seq == seq and keyframe.thumbnail:
            jpeg = np.frombuffer(keyframe.thumbnail, np.uint8)
            bgr = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
            return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return None


def _caption(state: FeedState, seq: int) -> str:
    keyframes = state.keyframes()
    found = next((k for k in keyframes if k.seq == seq), None)
    if found is None:
        return f"Frame {seq}"
    seconds = (found.stamp_ns - keyframes[0].stamp_ns) / 1e9
    text = f"Frame {seq} · camera {found.camera} · {seconds:+.2f} s"
    chunk = None if found.chunk is None else state.chunks.get(found.chunk)
    return text if chunk is None else f"{text} · {chunk.count:,} splats"

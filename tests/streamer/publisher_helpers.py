"""A publisher, a session that feeds it, and a line that loses messages: all over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import zmq
from map_strategies import perform

from gs_decoder import ChunkMeta, ChunkUpdate, SplatMap, Splats
from streamer.access.daemon import hand_out_own_keys, open_gate
from streamer.config import PublisherConfig
from streamer.control import PUBLISH, ControlLink, ipc_address
from streamer.protocol import Buffer, Header, decode, encode
from streamer.protocol.links import (
    Control,
    ControlDone,
    Keyframes,
    Resync,
    SessionHello,
    SyncBegin,
    SyncEnd,
)
from streamer.protocol.requests import KeyframeEntry
from streamer.protocol.update_headers import StatusHeader
from streamer.protocol.updates import encode_update
from streamer.publisher.server import Publisher
from streamer.requests import RequestRefused, Requests

LIMIT_S = 30.0


def wait_for(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Until ``condition()``, or fail after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s for: {what}"
        time.sleep(0.005)


@contextmanager
def running_publisher(
    run_dir: Path,
    updates: str = "tcp://127.0.0.1:*",
    requests: str = "tcp://127.0.0.1:*",
    config: PublisherConfig | None = None,
    keys: Path | None = None,
    session_dir: Path | None = None,
    control: bool = False,
) -> Iterator[dict[str, str]]:
    """A publisher in a thread, guarded where there is a folder of keys; yields its addresses.

    Args:
        control: it has a line to a supervisor.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    if keys is not None:
        hand_out_own_keys(keys, run_dir)
    gate = open_gate(context, keys, run_dir)
    link = ControlLink(run_dir, "publisher", context) if control else None
    publisher = Publisher(
        run_dir,
        updates,
        requests,
        config or PublisherConfig(),
        control=link,
        context=context,
        gate=gate,
        session_dir=session_dir,
    )
    stop = threading.Event()
    thread = threading.Thread(target=publisher.run, args=(stop.is_set,), daemon=True)
    thread.start()
    try:
        yield publisher.addresses
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        publisher.close()
        if link is not None:
            link.close()
        if gate is not None:
            gate.close()
        context.term()


class Feed:
    """A session as the publisher sees it: a map, its updates, its answers."""

    def __init__(self, run_dir: Path, name: str = "room", epoch: int = 1) -> None:
        self.name, self.epoch, self.seq = name, epoch, 0
        self.map = SplatMap()
        self.keyframes: list[KeyframeEntry] = []
        self.orders: list[str] = []
        self.resyncs = 0
        # Threads of a test share the socket.
        self.lock = threading.RLock()
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, name.encode())
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(ipc_address(run_dir, PUBLISH))
        self.hello()

    def hello(self) -> None:
        header = SessionHello(session=self.name, epoch=self.epoch, seq=self.seq)
        self._send(encode(header))

    def perform(self, step: tuple[str, int, int]) -> None:
        """Change the map and publish what changed."""
        perform(self.map, *step)
        self.publish()

    def publish(self) -> None:
        for update in self.map.drain_updates():
            self.seq += 1
            self._send(encode_update(update, session=self.name, epoch=self.epoch, seq=self.seq))

    def add_keyframe(self, entry: KeyframeEntry) -> None:
        self.keyframes.append(entry)
        thumbnail = f"jpeg {entry.seq}".encode()
        self._send(encode(Keyframes(add=[entry]), thumbnail))

    def add_room(self, splats: Splats, poses: np.ndarray) -> None:
        """A chunk of splats in the world's frame, and key frames (N, 4, 4) that look at it."""
        meta = ChunkMeta(frame_seq=0, stamp_ns=1, camera="front", T_world_chunk=np.eye(4))
        chunk = self.map.add(meta, splats)
        self.publish()
        for number, pose in enumerate(poses):
            c2w = pose.reshape(-1).tolist()
            self.add_keyframe(
                KeyframeEntry(seq=number, stamp_ns=number, camera="front", chunk=chunk, c2w=c2w)
            )

    def say_status(self, **counters: object) -> None:
        header = StatusHeader(session=self.name, epoch=self.epoch, seq=self.seq, **counters)  # type: ignore[arg-type]
        self._send(encode(header))

    def begin_epoch(self) -> None:
        """As after a restart: an empty map under a higher epoch."""
        self.epoch, self.seq, self.map = self.epoch + 1, 0, SplatMap()
        self.keyframes = []
        self.hello()

    def say(self, header: Header) -> None:
        """Any one message."""
        self._send(encode(header))

    def say_chunk(self, chunk: int) -> None:
        """One chunk as it is, under the present seq."""
        update = ChunkUpdate(self.map.chunks[chunk])
        self._send(encode_update(update, session=self.name, epoch=self.epoch, seq=self.seq))

    def _send(self, message: Sequence[Buffer]) -> None:
        with self.lock:
            self.socket.send_multipart(message)

    def serve(self) -> None:
        """Answer what the publisher asks."""
        with self.lock:
            self._serve()

    def _serve(self) -> None:
        while self.socket.poll(0):
            message = decode(self.socket.recv_multipart())
            if message.kind == Resync.KIND:
                self.resyncs += 1
                self._sync()
            else:
                order = message.read(Control)
                self.orders.append(order.op)
                refused = order.op == "reset"
                done = ControlDone(
                    id=order.id,
                    ok=not refused,
                    code="busy" if refused else None,
                    reason="not now" if refused else None,
                )
                self._send(encode(done))

    def _sync(self) -> None:
        self._send(encode(SyncBegin(seq=self.seq)))
        for entry in self.keyframes:
            thumbnail = f"jpeg {entry.seq}".encode()
            self._send(encode(Keyframes(add=[entry]), thumbnail))
        for chunk in self.map.chunks:
            self.say_chunk(chunk)
        self._send(encode(SyncEnd(seq=self.seq, chunks=len(self.map.chunks))))

    def close(self) -> None:
        self.socket.close()


def heard(requests: Requests, feed: Feed) -> None:
    """Until the publisher holds all that the session said."""

    def there() -> bool:
        feed.serve()
        try:
            return requests.manifest(feed.name).seq == feed.seq
        except RequestRefused as error:
            assert error.code in ("busy", "bad_session")
            return False

    wait_for(there, "the publisher to hold what the session said")


@contextmanager
def repeating(action: Callable[[], None], every: float = 0.01) -> Iterator[None]:
    """Does something over and over in a thread, for tests that block in a client."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(every):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LIMIT_S)


def serving(feed: Feed) -> AbstractContextManager[None]:
    """The feed answers what it is asked."""
    return repeating(feed.serve)


class LossyLine:
    """Relays updates from a publisher to subscribers, but for those that ``loses`` names."""

    def __init__(self, updates: str, loses: Callable[[int], bool]) -> None:
        context = zmq.Context.instance()
        self._inward = context.socket(zmq.SUB)
        self._inward.setsockopt(zmq.SUBSCRIBE, b"")
        self._inward.connect(updates)
        self._outward = context.socket(zmq.XPUB)
        self._outward.setsockopt(zmq.LINGER, 0)
        self._outward.bind("tcp://127.0.0.1:*")
        self.address = self._outward.getsockopt_string(zmq.LAST_ENDPOINT)
        self._loses = loses
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._relay, daemon=True)
        self._thread.start()
        self.lost = 0

    def _relay(self) -> None:
        number = 0
        while not self._stop.is_set():
            while self._outward.poll(0):
                self._outward.recv()
            if not self._inward.poll(5):
                continue
            frames = self._inward.recv_multipart()
            # Heartbeats come through in the end, or a loss at the tail would never show.
            if not frames[0].endswith(b"/heartbeat"):
                number += 1
                if self._loses(number):
                    self.lost += 1
                    continue
            self._outward.send_multipart(frames)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)
        self._inward.close()
        self._outward.close()

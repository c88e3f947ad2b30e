"""What the ingest alone takes in, against plain pyzmq with the same bytes on the same machine.

    python benchmarks/ingest_throughput.py --json benchmarks/results/ingest_throughput.json

The real ingest process, with a session's end that takes every batch at once and does nothing with
it. Two payloads: a JPEG of 72 kB, which the ingest decodes and scales, and 37 kB of raw rgb8 at the
working size, where nothing is left to decode. With the journal and without, from 1 client
and from 8, each with a session of its own; clients are sockets of one process that sends within its
credit. `plain` is one process with as many DEALERs that pushes the same messages to a ROUTER in
another, which receives and forgets them, with the ingest's own high-water mark.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import msgpack
import numpy as np
import zmq
from chaos import ROOT, Report, parser

sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "streamer")]

from ingest_harness import FakeSession, IngestHarness, running_ingest
from raw_client import frame, hello

from streamer.ingest.service import RECEIVE_HWM
from streamer.protocol.internal import NeedSession, SessionStarted

WORKING_SIZE = (128, 96)
PICTURE_SIZE = (640, 480)


def payloads(seed: int) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Header and part by name: a JPEG, and raw pixels of half as many bytes."""
    choice = np.random.default_rng(seed)
    width, height = PICTURE_SIZE
    coarse = choice.integers(0, 255, (height // 16, width // 16, 3), np.uint8)
    image = cv2.resize(coarse, PICTURE_SIZE, interpolation=cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    raw = choice.integers(0, 255, WORKING_SIZE[0] * WORKING_SIZE[1] * 3, np.uint8).tobytes()
    return {
        "jpeg, decoded": (_header("jpeg", PICTURE_SIZE), jpeg),
        "rgb8, nothing to decode": (_header("rgb8", WORKING_SIZE), raw),
    }


def _header(encoding: str, size: tuple[int, int]) -> dict[str, Any]:
    return frame(0, encoding=encoding, width=size[0], height=size[1])


class Sender:
    """One client: sends as fast as its credit allows."""

    def __init__(self, address: str, session: str, header: dict[str, Any], part: bytes) -> None:
        size = (header["width"], header["height"])
        camera = {"model": "PINHOLE", "width": size[0], "height": size[1],
                  "params": [100.0, 100.0, size[0] / 2, size[1] / 2]}  # fmt: skip
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        said = hello(session=session, client=session, cameras={"front": camera})
        self.socket.send_multipart([b"HELLO", msgpack.packb(said)])
        self._header, self._part = header, part
        self._next, self._limit = 0, -1
        self.acked = 0

    def turn(self) -> None:
        """Take what came, send what may go."""
        with suppress(zmq.Again):
            while True:
                kind, header, *_ = self.socket.recv_multipart(zmq.NOBLOCK)
                said = msgpack.unpackb(header)
                if kind == b"WELCOME":
                    self._limit = said["next_seq"] - 1 + said["credit"]
                elif kind == b"ACK":
                    self.acked, self._limit = said["seq"] + 1, said["seq"] + said["credit"]
                else:
                    raise RuntimeError(f"{kind!r}: {said}")
        while self._next <= self._limit:
            header = msgpack.packb({**self._header, "seq": self._next})
            self.socket.send_multipart([b"FRAME", header, self._part], copy=False)
            self._next += 1


class Sessions(threading.Thread):
    """The inner end: every session gets its process at once, and it takes all batches."""

    def __init__(self, ingest: IngestHarness) -> None:
        super().__init__(name="sessions", daemon=True)
        self._ingest = ingest
        self._ended = threading.Event()

    def run(self) -> None:
        taken: dict[str, FakeSession] = {}
        while not self._ended.is_set():
            with suppress(TimeoutError):
                name = self._ingest.order(NeedSession.KIND, 0.0).read(NeedSession).session
                self._ingest.say(SessionStarted(session=name))
                if name not in taken:
                    taken[name] = FakeSession(self._ingest.batches, name)
                    taken[name].want(32)
            for session in taken.values():
                while session.socket.poll(0):
                    _, header, *_ = session.socket.recv_multipart(copy=False)
                    frames = msgpack.unpackb(header.buffer).get("frames")
                    if frames:
                        session.next_seq = frames[-1]["seq"] + 1
                        session.want(32)
            time.sleep(0.001)
        for session in taken.values():
            session.close()

    def end(self) -> None:
        """Stop."""
        self._ended.set()
        self.join()


def drive(senders: Sequence[Any], seconds: float) -> float:
    """Frames a second that were acknowledged; the first fifth of the time does not count."""
    began = time.perf_counter()
    counted_from, before = began + seconds / 5, None
    poller = zmq.Poller()
    for sender in senders:
        poller.register(sender.socket, zmq.POLLIN)
    while (now := time.perf_counter()) < began + seconds:
        if before is None and now >= counted_from:
            before, counted_from = sum(sender.acked for sender in senders), now
        poller.poll(5)
        for sender in senders:
            sender.turn()
    return (sum(sender.acked for sender in senders) - (before or 0)) / (now - counted_from)


def through_ingest(
    header: dict[str, Any], part: bytes, clients: int, seconds: float, *, journal: bool
) -> float:
    """Frames a second."""
    with (
        tempfile.TemporaryDirectory(prefix="splatstream-ingest-") as name,
        running_ingest(
            Path(name), max_sessions=clients, journal=journal, long_side=WORKING_SIZE[0]
        ) as ingest,
    ):
        sessions = Sessions(ingest)
        sessions.start()
        senders = [Sender(ingest.address, f"s{n}", header, part) for n in range(clients)]
        rate = drive(senders, seconds)
        for sender in senders:
            sender.socket.close()
        sessions.end()
        return rate


def _forget(address: Any, counted: Any) -> None:
    """The plain ROUTER."""
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVHWM, RECEIVE_HWM)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    address.put(f"tcp://127.0.0.1:{port}")
    while True:
        router.recv_multipart(copy=False)
        counted.value += 1


def plain(header: dict[str, Any], part: bytes, clients: int, seconds: float) -> float:
    """Frames a second from DEALERs to a ROUTER in another process that does nothing."""
    context = multiprocessing.get_context("spawn")
    address, counted = context.Queue(), context.Value("q", 0, lock=False)
    receiver = context.Process(target=_forget, args=(address, counted), daemon=True)
    receiver.start()
    where = address.get(timeout=60)
    sockets = []
    for _ in range(clients):
        dealer = zmq.Context.instance().socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.SNDHWM, RECEIVE_HWM)
        dealer.connect(where)
        sockets.append(dealer)
    poller = zmq.Poller()
    for dealer in sockets:
        poller.register(dealer, zmq.POLLOUT)
    began, seq = time.perf_counter(), 0
    counted_from, before = began + seconds / 5, None
    while (now := time.perf_counter()) < began + seconds:
        if before is None and now >= counted_from:
            before, counted_from = counted.value, now
        for dealer, _ in poller.poll(5):
            packed = msgpack.packb({**header, "seq": seq})
            dealer.send_multipart([b"FRAME", packed, part], copy=False)
            seq += 1
    rate = (counted.value - (before or 0)) / (now - counted_from)
    receiver.kill()
    receiver.join()
    for dealer in sockets:
        dealer.close()
    return rate


def measure(options: argparse.Namespace) -> Report:
    """All of it, one after the other."""
    report = Report({"frames_per_second": []})
    for name, (header, part) in payloads(options.seed).items():
        for clients in (1, 8):
            row: dict[str, Any] = {"payload": name, "bytes": len(part), "clients": clients}
            rates = {
                "plain": plain(header, part, clients, options.seconds),
                "without_journal": through_ingest(
                    header, part, clients, options.seconds, journal=False
                ),
                "with_journal": through_ingest(
                    header, part, clients, options.seconds, journal=True
                ),
            }
            row |= {key: round(rate, 1) for key, rate in rates.items()}
            row["mb_per_second_with_journal"] = round(rates["with_journal"] * len(part) / 1e6, 1)
            report.figures["frames_per_second"].append(row)
            report.expect(rates["with_journal"] > 0, f"{name}: frames go through")
    return report


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=5.0, help="of each of the twelve")
    options = made.parse_args()
    command = f"ingest_throughput.py --seconds {options.seconds:g} --seed {options.seed}"
    measure(options).finish(command, options.json)


if __name__ == "__main__":
    main()

"""Mutated messages at the daemon's three sockets, and a valid client beside them.

    python benchmarks/fuzz.py --json benchmarks/results/fuzz.json

Records what real clients say (frames, corrections, every request, subscriptions, and the bytes of
whole connections), and sends `--messages` of them changed by a seed (`mutator.py`), besides
`--structured` headers that hypothesis makes of the protocol's own keys. Meanwhile an ordinary
client streams the demo capture into a session of its own, which a subscriber follows.
Exit code 1 where a promise is broken: no process of the daemon ends, none logs a traceback, every
socket goes on answering, memory and file descriptors of ingest and publisher are flat over the
second half, and for the valid client it is as if nothing happened: one connection, every frame
acknowledged, none rejected, the map the same for its subscriber and for the daemon.
"""

from __future__ import annotations

import argparse
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import msgpack
import numpy as np
import zmq
from chaos import SESSION, Followers, Report, check_history, parser, paused_map
from daemon_children import children
from hypothesis import strategies as st
from live_daemon import OFFICE, client, daemon, frames_done, requests, send, wait_until
from mutator import MessageTap, Mutator, Parts, recorded_bytes
from stream import Memory

from streamer import Client, PoseClient, Requests
from streamer.daemon_process import DaemonProcess
from streamer.protocol import encode
from streamer.protocol.messages import Bye, Hello, Ping, Welcome
from streamer.protocol.requests import REQUESTS, SessionsRequest
from streamer.protocol.update_headers import DAEMON_HEARTBEAT_TOPIC

FUZZED = "fuzzed"
FLAT_MB = 24.0
LONG_S = 120.0
ANSWER_MS = 60_000
EVERY = 50
"""Messages between two questions that must be answered."""
SOCKETS = ("ingest", "requests", "updates", "bytes")
SHARES = (0.45, 0.4, 0.1, 0.05)


def recorded(serving: DaemonProcess) -> dict[str, list[Parts]]:
    """What real clients say to ingest and requests."""
    ingest = MessageTap(serving.addresses["ingest"])
    asked = MessageTap(serving.addresses["requests"])
    options = {"cameras": OFFICE.cameras, "convention": OFFICE.convention}
    with Client(ingest.address, session=FUZZED, client="fuzz", **options) as sender:
        send(sender, OFFICE.frames[:6])
        (camera,) = OFFICE.cameras.values()
        height, width = camera.height, camera.width
        sender.send(
            np.zeros((height, width, 3), np.uint8),
            np.eye(4),
            depth=np.ones((height, width), np.uint16),
            depth_unit_m=0.001,
            mask=np.zeros((height, width), np.uint8),
        )
        sender.flush()
        assert sender.wait(60)
    with requests(serving) as asking:
        wait_until(lambda: frames_done(asking, FUZZED) >= 7, "the frames that are recorded")
    with PoseClient(ingest.address, session=FUZZED) as back_end:
        back_end.send_poses(1, {0: np.eye(4)}, upto=5)
    with Requests(asked.address, timeout=30) as asking:
        asking.sessions()
        asking.status(FUZZED)
        asking.manifest(FUZZED)
        asking.snapshot(FUZZED)
        asking.keyframes(FUZZED, thumbnails=True)
        asking.save(FUZZED)
        asking.pause(FUZZED)
        asking.resume(FUZZED)
        asking.reset(FUZZED)
    # What has no method with a session that is empty by now.
    camera = {"model": "PINHOLE", "width": 64, "height": 48, "params": [50.0, 50.0, 32.0, 24.0]}
    extra: list[tuple[bytes, dict[str, Any]]] = [
        (b"EXPORT", {"session": FUZZED, "format": "ply"}),
        (b"RENDER", {"session": FUZZED, "c2w": np.eye(4).ravel().tolist(), "camera": camera}),
        (
            b"LOCALIZE",
            {"session": FUZZED, "camera": camera, "encoding": "jpeg", "width": 64, "height": 48},
        ),
    ]
    ingest.close()
    asked.close()
    kinds = {bytes(message[0]) for message in ingest.messages}
    assert kinds >= {b"HELLO", b"FRAME", b"FLUSH", b"POSES", b"BYE"}, kinds
    added = [[kind, msgpack.packb(header)] for kind, header in extra]
    # A client that hears something all the time has no reason to ping.
    ping: Parts = [bytes(part) for part in encode(Ping(t=1.0))]
    return {"ingest": [*ingest.messages, ping], "requests": asked.messages + added}


class Bystander(threading.Thread):
    """The valid client: a frame now and then, and how long each waits for its ACK."""

    def __init__(self, serving: DaemonProcess, rate: float) -> None:
        super().__init__(name="bystander", daemon=True)
        self.sender = client(serving, SESSION)
        self.followers = Followers(serving, 1)
        self._rate = rate
        self._ended = threading.Event()
        self.sent = 0
        self.waits: list[float] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._ended.wait(1.0 / self._rate):
                send(self.sender, [OFFICE.frames[self.sent % len(OFFICE.frames)]])
                self.sent += 1
                began = time.monotonic()
                if not self.sender.wait(ANSWER_MS / 1e3):
                    raise TimeoutError(f"frame {self.sent - 1} was not acknowledged")
                self.waits.append(time.monotonic() - began)
        except Exception as error:
            self.error = error

    def end(self) -> None:
        """Stop sending."""
        self._ended.set()
        self.join()


class Attacker:
    """Says mutated messages, and asks between them whether the daemon still answers."""

    def __init__(self, serving: DaemonProcess, traffic: dict[str, list[Parts]], seed: int) -> None:
        self._addresses = serving.addresses
        self._choice = random.Random(seed)
        self._mutators = {name: Mutator(said, f"{seed} {name}") for name, said in traffic.items()}
        topics = [[b"\1/" + FUZZED.encode() + b"/"], [b"\1" + DAEMON_HEARTBEAT_TOPIC], [b"\0/"]]
        self._mutators["updates"] = Mutator(topics, f"{seed} updates")
        self._mutators["bytes"] = self._mutators["updates"]
        kind, hello = next(m for m in traffic["ingest"] if m[0] == Hello.KIND)
        self._hello = [kind, msgpack.packb({**msgpack.unpackb(hello), "resume": True})]
        self._wire = {
            name: recorded_bytes(self._addresses[name], kind, messages, 0.5)
            for name, kind, messages in (
                ("ingest", zmq.DEALER, [self._hello]),
                ("requests", zmq.DEALER, [traffic["requests"][0]]),
                ("updates", zmq.XSUB, [[b"\1/"]]),
            )
        }
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self.said: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    def run(self, messages: int) -> None:
        """Raises TimeoutError where a socket does not answer any more."""
        for number in range(messages):
            (name,) = self._choice.choices(SOCKETS, SHARES)
            if name == "bytes":
                self._say_bytes(self._choice.choice(("ingest", "requests", "updates")))
            else:
                self.say(name, self._mutators[name].message())
            self.said[name] += 1
            if number % EVERY == EVERY - 1:
                self.ask()

    def say(self, name: str, message: Parts) -> None:
        """One message, on the connection that there is or on a new one."""
        if name not in self._sockets or self._choice.random() < 0.02:
            self._open(name)
        elif name == "ingest" and self._choice.random() < 0.3:
            # Most of what is wrong ends with a connection that counts for nothing.
            self._greet()
            message = self._mutators[name].message() if message[0] == b"FRAME" else message
        try:
            self._sockets[name].send_multipart(message)
            self._mutators["ingest"].next_seq += message[0] == b"FRAME"
        except zmq.Again:
            raise TimeoutError(f"the {name} socket takes nothing any more") from None

    def ask(self) -> None:
        """An honest question to ingest and requests each, which must be answered."""
        self._drain()
        for name, question in (
            ("ingest", encode(Ping(t=1.0))),
            ("requests", encode(SessionsRequest())),
        ):
            with zmq.Context.instance().socket(zmq.DEALER) as asking:
                asking.setsockopt(zmq.LINGER, 0)
                asking.connect(self._addresses[name])
                asking.send_multipart(question)
                if not asking.poll(ANSWER_MS):
                    raise TimeoutError(f"{name} does not answer any more")

    def close(self) -> None:
        """Disconnect; the session can be taken up by nobody else before a BYE, and needs none."""
        for opened in self._sockets.values():
            opened.close()

    def _open(self, name: str) -> None:
        if name in self._sockets:
            self._sockets.pop(name).close()
        opened = zmq.Context.instance().socket(zmq.XSUB if name == "updates" else zmq.DEALER)
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.SNDTIMEO, ANSWER_MS)
        opened.setsockopt(zmq.RCVHWM, 64)
        opened.connect(self._addresses[name])
        self._sockets[name] = opened
        if name == "ingest":
            self._greet()

    def _greet(self) -> None:
        """Say HELLO and learn which frame comes next."""
        opened = self._sockets["ingest"]
        opened.send_multipart(self._hello)
        while opened.poll(1000):
            kind, header, *_ = opened.recv_multipart()
            self.answers[kind.decode()] += 1
            if kind == Welcome.KIND:
                self._mutators["ingest"].next_seq = msgpack.unpackb(header)["next_seq"]
                return
            if kind == b"ERROR" and msgpack.unpackb(header)["code"] in ("busy", "bad_session"):
                return

    def _drain(self) -> None:
        for name, opened in self._sockets.items():
            with suppress(zmq.Again):
                while True:
                    answer = opened.recv_multipart(zmq.NOBLOCK)
                    if name != "updates":
                        self.answers[answer[0].decode()] += 1

    def _say_bytes(self, name: str) -> None:
        parts = urlsplit(self._addresses[name])
        data = self._mutators["bytes"].stream(self._wire[name])
        with suppress(OSError), socket.create_connection((parts.hostname, parts.port), 5) as plain:
            plain.sendall(data)
            if self._choice.random() < 0.5:
                plain.settimeout(0.002)
                plain.recv(4096)


def structured(attacker: Attacker, examples: int, seed: int) -> None:
    """Headers of the protocol's keys with values of all kinds, by hypothesis."""
    keys = sorted({name for header in REQUESTS.values() for name in header.__struct_fields__})
    keys += ["seq", "stamp_ns", "camera", "encoding", "width", "height", "pose", "depth", "params"]
    plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    values = st.recursive(
        plain | st.just(FUZZED), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
    kinds = {
        "ingest": [Hello.KIND, b"FRAME", b"POSES", b"CAMERAS", b"PING", b"FLUSH", Bye.KIND],
        "requests": sorted(REQUESTS),
    }
    said = Counter({"structured": 0})

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        name=st.sampled_from(sorted(kinds)),
        place=st.integers(0, 100),
        header=st.dictionaries(st.sampled_from(keys), values),
        session=st.booleans(),
        parts=st.lists(st.binary(max_size=30), max_size=3),
    )
    def one(name: str, place: int, header: Any, session: bool, parts: list[bytes]) -> None:
        if session:
            header["session"] = FUZZED
        kind = kinds[name][place % len(kinds[name])]
        attacker.say(name, [kind, msgpack.packb(header), *parts])
        said["structured"] += 1
        if said["structured"] % EVERY == 0:
            attacker.ask()

    one()
    attacker.said += said


def measure(options: argparse.Namespace) -> Report:
    """The attack, and what is left of the daemon."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="splatstream-fuzz-") as name:
        folder = Path(name)
        log = folder / "daemon.log"
        with daemon(folder / "sessions", log=log) as serving, requests(serving) as asking:
            traffic = recorded(serving)
            before = children(serving.pid)
            memory, bystander = Memory(serving.pid), Bystander(serving, options.rate)
            bystander.start()
            memory.start()
            attacker = Attacker(serving, traffic, options.seed)
            began = time.monotonic()
            try:
                attacker.run(options.messages)
                structured(attacker, options.structured, options.seed)
            except TimeoutError as error:
                report.expect(False, str(error))
            ended = time.monotonic()
            attacker.close()
            bystander.end()
            memory.end()
            after = children(serving.pid)
            for role in ("ingest", "publisher"):
                report.expect(before[role] == after.get(role), f"{role} is still the same process")
            check_bystander(bystander, serving, asking, report)
            slopes = memory.slopes(began + (ended - began) / 2, ended)
            report.figures |= {
                "messages": dict(attacker.said),
                "answers": dict(attacker.answers),
                "seconds": round(ended - began, 1),
                "memory_second_half": slopes,
            }
            # In its first seconds every process grows: libraries are loaded, pools are filled.
            long_enough = ended - began >= LONG_S
            for role in ("ingest", "publisher"):
                if role in slopes and long_enough:
                    grown = slopes[role]["mb_per_minute"] * (ended - began) / 120.0
                    report.expect(grown < FLAT_MB, f"{role} grew by {grown:.0f} MB")
        said = log.read_text()
        for word in ("Traceback", "ended with status"):
            lines = [line for line in said.splitlines() if word in line]
            report.expect(not lines, f"{len(lines)} x {word!r} in the log: {lines[:2]}")
        frames = [OFFICE.frames[n % len(OFFICE.frames)] for n in range(bystander.sent)]
        check_history(folder / "sessions" / SESSION, OFFICE, frames, report)
        if options.keep_log:
            options.keep_log.write_text(said)
    return report


def check_bystander(
    bystander: Bystander, serving: DaemonProcess, asking: Requests, report: Report
) -> None:
    """The valid client noticed nothing."""
    sender, waits = bystander.sender, bystander.waits
    report.expect(bystander.error is None, f"the valid client goes on: {bystander.error!r}")
    report.expect(sender.acked == bystander.sent - 1, "all of its frames are acknowledged")
    report.expect(not sender.rejected, f"none is rejected: {sender.rejected[:2]}")
    report.expect(sender.connects == 1, f"it connected {sender.connects} times")
    sender.close()
    wait_until(lambda: frames_done(asking, SESSION) == bystander.sent, "its frames to be done")
    paused_map(serving, bystander.followers, report)
    bystander.followers.close()
    report.figures["valid_frames"] = bystander.sent
    if waits:
        p50, p95 = np.percentile(np.array(waits) * 1e3, (50, 95))
        report.figures["valid_ack_ms"] = {"p50": round(p50, 1), "p95": round(p95, 1)}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--messages", type=int, default=100_000)
    made.add_argument("--structured", type=int, default=2_000)
    made.add_argument("--rate", type=float, default=3.0, help="the valid client's frames a second")
    made.add_argument("--keep-log", type=Path, help="the daemon's log")
    options = made.parse_args()
    command = f"fuzz.py --messages {options.messages} --structured {options.structured}"
    measure(options).finish(f"{command} --seed {options.seed}", options.json)


if __name__ == "__main__":
    main()

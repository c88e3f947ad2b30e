"""Valid traffic, recorded on its way, and what a seed makes of it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgpack
import zmq

Parts = list[bytes]
NASTY: Sequence[Any] = (
    None, True, False, -1, 0, 1, 255, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**64 - 1, -(2**63),
    0.0, -0.0, 1e308, -1e308, 1e-320, float("nan"), float("inf"), "", "x", "\0", "../../etc/passwd",
    "x" * 300, "jpeg", "rgb8", "lossless", "opengl", "mesh", "f16", b"", b"\xff" * 16, [], {}, [[]],
    [0] * 16, [float("nan")] * 16, [1e200] * 16, [[0, [0.0] * 16]] * 40, {"": {}}, {"front": {}},
)  # fmt: skip


def nested(depth: int) -> Any:
    """Arrays in arrays."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


class Mutator:
    """Makes bad messages of good ones.

    Args:
        recorded: what real clients sent to one socket.
    """

    def __init__(self, recorded: Sequence[Parts], seed: str) -> None:
        self._recorded = recorded
        self._choice = random.Random(seed)
        self.next_seq = 0
        """What the daemon expects: frames of another number get no further than that."""

    def message(self) -> Parts:
        """The next one; now and then it is as it was."""
        choice = self._choice
        parts = list(choice.choice(self._recorded))
        if parts[0] == b"FRAME" and choice.random() < 0.9:
            header = msgpack.unpackb(parts[1])
            parts[1] = msgpack.packb({**header, "seq": self.next_seq})
        for _ in range(choice.choice((0, 1, 1, 1, 2, 3))):
            change = choice.choice((self._header, self._header, self._header, self._bytes))
            if choice.random() < 0.2:
                change = self._arrange
            parts = change(parts)
        return parts or [b""]

    def stream(self, data: bytes) -> bytes:
        """Bytes of a whole connection, changed."""
        for _ in range(self._choice.choice((1, 1, 2, 8))):
            data = self._changed(data)
        return data

    def _header(self, parts: Parts) -> Parts:
        """Another value, key or place somewhere in the header."""
        if len(parts) < 2:
            return self._arrange(parts)
        try:
            header = msgpack.unpackb(parts[1], strict_map_key=False)
        except (ValueError, TypeError):
            return self._bytes(parts)
        holder, key = header, None
        while isinstance(holder, dict | list) and holder:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = self._choice.choice(keys)
            if not isinstance(holder[key], dict | list) or self._choice.random() < 0.4:
                break
            holder = holder[key]
        if not isinstance(holder, dict | list) or key is None or not holder:
            return self._bytes(parts)
        kind = self._choice.random()
        if kind < 0.15:
            del holder[key]
        elif kind < 0.25 and isinstance(holder, dict):
            holder[self._choice.choice(("pose", "resume", "upto", "by", "id", "\0", ""))] = (
                self._value()
            )
        elif kind < 0.35 and isinstance(holder, list):
            holder *= self._choice.choice((2, 50))
        else:
            holder[key] = self._value()
        try:
            return [parts[0], msgpack.packb(header), *parts[2:]]
        except (ValueError, OverflowError, TypeError):
            return self._bytes(parts)

    def _value(self) -> Any:
        if self._choice.random() < 0.03:
            return self._choice.choice((nested(400), "y" * 70_000, [0] * 70_000))
        return self._choice.choice(NASTY)

    def _bytes(self, parts: Parts) -> Parts:
        if not parts:
            return [b""]
        place = self._choice.randrange(len(parts))
        return [*parts[:place], self._changed(parts[place]), *parts[place + 1 :]]

    def _changed(self, data: bytes) -> bytes:
        choice, array = self._choice, bytearray(data)
        place = choice.randrange(len(array) + 1)
        match choice.randrange(5):
            case 0:
                return bytes(array[:place])
            case 1:
                array[place:place] = choice.randbytes(choice.choice((1, 4, 300)))
            case 2:
                del array[place : place + choice.choice((1, 8, 500))]
            case 3:
                for _ in range(choice.choice((1, 4, 64))):
                    if array:
                        array[choice.randrange(len(array))] ^= 1 << choice.randrange(8)
            case _:
                array[place : place + 8] = b"\xff" * choice.randrange(9)
        return bytes(array)

    def _arrange(self, parts: Parts) -> Parts:
        choice, other = self._choice, self._choice.choice(self._recorded)
        match choice.randrange(6):
            case 0:
                return parts[: choice.randrange(len(parts) + 1)]
            case 1:
                return parts + other[-1:] * choice.choice((1, 2, 20))
            case 2:
                return choice.sample(parts, len(parts))
            case 3:
                return [*other[:1], *parts[1:]]
            case 4:
                return [*parts[:1], *other[1:]]
            case _:
                return [choice.randbytes(choice.choice((0, 3, 40))), *parts[1:]]


class MessageTap:
    """Stands between clients and one ROUTER of the daemon and keeps what clients say.

    Attributes:
        address: where clients connect.
        messages: what they said so far.
    """

    def __init__(self, target: str) -> None:
        self.messages: list[Parts] = []
        self._target = target
        self._context = zmq.Context.instance()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.setsockopt(zmq.LINGER, 0)
        self.address = f"tcp://127.0.0.1:{self._front.bind_to_random_port('tcp://127.0.0.1')}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        behind: dict[bytes, zmq.Socket[bytes]] = {}
        while not self._ended.is_set():
            if self._front.poll(5):
                identity, *parts = self._front.recv_multipart()
                self.messages.append(parts)
                if identity not in behind:
                    behind[identity] = self._context.socket(zmq.DEALER)
                    behind[identity].setsockopt(zmq.LINGER, 0)
                    behind[identity].connect(self._target)
                behind[identity].send_multipart(parts)
            for identity, dealer in behind.items():
                while dealer.poll(0):
                    self._front.send_multipart([identity, *dealer.recv_multipart()])
        for dealer in (*behind.values(), self._front):
            dealer.close()


def recorded_bytes(target: str, kind: int, messages: Sequence[Parts], seconds: float) -> bytes:
    """What a libzmq socket of this kind puts on the wire to say these messages: handshake, frames
    and all."""
    parts = urlsplit(target)
    said = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = zmq.Context.instance().socket(kind)
        client.setsockopt(zmq.LINGER, 0)
        client.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        client.setsockopt(zmq.SNDTIMEO, int(seconds * 1e3))
        near, _ = server.accept()
        with near, socket.create_connection((parts.hostname, parts.port)) as far:
            near.settimeout(seconds)
            far.settimeout(seconds)
            answers = threading.Thread(target=_copy, args=(far, near, None), daemon=True)
            answers.start()
            for message in messages:
                client.send_multipart(message)
            _copy(near, far, said)
        client.close()
    return bytes(said)


def _copy(source: socket.socket, target: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if kept is not None:
                kept += data
            target.sendall(data)

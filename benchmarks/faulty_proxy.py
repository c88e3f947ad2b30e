"""TCP proxies that treat connections badly, by a seed: delays, stalls, cuts, and connections that
overtake each other. Bytes of one connection stay in order, as TCP keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing send RST."""


@dataclass(frozen=True)
class Faults:
    """How often and how much; times in seconds."""

    cut_after: float = 4.0
    """Mean life of a connection."""
    delay: float = 0.03
    """Of every piece, at most."""
    stall_share: float = 0.01
    """Of pieces, which wait `stall`."""
    stall: float = 2.0
    hold_share: float = 0.4
    """Of new connections, which reach the daemon up to `hold` later: later ones overtake them."""
    hold: float = 1.5
    ghost_share: float = 0.4
    """Of cuts, at which the client is rid of the connection at once and what it had sent reaches
    the daemon `hold` later: behind what it says on its next connection."""


class FaultyProxy:
    """One listener for each address, in a thread with a loop of its own. A context manager.

    Attributes:
        addresses: where to connect instead, by the same names.
        counts: what was done to connections so far.
    """

    def __init__(self, targets: Mapping[str, str], faults: Faults, seed: int) -> None:
        self._targets = dict(targets)
        self._faults = faults
        self._seed = seed
        self._calm = False
        self._numbers: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.addresses: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def calm_down(self) -> None:
        """From now on every byte passes at once and no connection is cut."""
        self._calm = True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _listen(self) -> None:
        for name, target in self._targets.items():
            parts = urlsplit(target)

            async def serve(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                name: str = name,
                where: tuple[str | None, int | None] = (parts.hostname, parts.port),
            ) -> None:
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await self._serve(name, where, reader, writer)

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            self.addresses[name] = f"tcp://127.0.0.1:{port}"

    async def _serve(
        self,
        name: str,
        where: tuple[str | None, int | None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        number = self._numbers[name]
        self._numbers[name] += 1
        self.counts["connections"] += 1
        choice = random.Random(f"{self._seed} {name} {number}")
        faults = self._faults
        if not self._calm and choice.random() < faults.hold_share:
            self.counts["held back"] += 1
            await asyncio.sleep(choice.uniform(0.0, faults.hold))
        up_reader, up_writer = await asyncio.open_connection(*where)
        upwards = asyncio.ensure_future(self._pass(reader, up_writer, choice))
        downwards = asyncio.ensure_future(self._pass(up_reader, writer, choice))
        cut = asyncio.ensure_future(self._cut(choice))
        try:
            await asyncio.wait({upwards, downwards, cut}, return_when=asyncio.FIRST_COMPLETED)
            if cut.done():
                self.counts["cut"] += 1
                if choice.random() < faults.ghost_share:
                    self.counts["cut, with what was under way arriving late"] += 1
                    downwards.cancel()
                    _close(writer, reset=True)
                    await asyncio.sleep(choice.uniform(0.0, faults.hold))
                    await asyncio.wait({upwards}, timeout=faults.hold)
        finally:
            for task in (upwards, downwards, cut):
                task.cancel()
            _close(writer, reset=choice.random() < 0.5)
            _close(up_writer, reset=choice.random() < 0.5)

    async def _cut(self, choice: random.Random) -> None:
        await asyncio.sleep(choice.expovariate(1.0 / self._faults.cut_after))
        while self._calm:
            await asyncio.sleep(3600.0)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, choice: random.Random
    ) -> None:
        faults = self._faults
        with contextlib.suppress(OSError):
            while data := await reader.read(choice.choice((7, 512, 65536))):
                if not self._calm:
                    if choice.random() < faults.stall_share:
                        self.counts["stalled"] += 1
                        await asyncio.sleep(choice.uniform(0.0, faults.stall))
                    await asyncio.sleep(choice.uniform(0.0, faults.delay))
                writer.write(data)
                await writer.drain()


def _close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    plain = writer.get_extra_info("socket")
    if reset and plain is not None:
        with contextlib.suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()

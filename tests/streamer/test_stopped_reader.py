"""A subscriber that stops reading costs the others nothing, and catches up when it wakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from map_strategies import random_similarity, random_splats
from publisher_helpers import LIMIT_S, Feed, serving, wait_for
from publisher_process import PublisherProcess
from reader_process import digest, news

from streamer.process_stats import process_stats
from streamer.subscriber import Subscriber

HWM = 16
CHUNKS = 10
SPLATS = 20_000
CHUNK_MB = SPLATS * 4 * (3 + 4 + 3 + 1 + 3) / 1e6
PUBLISHED = 100
"""Updates while one reader stands still: 101 MB of them."""


class Listener:
    """What a subscriber says, noted by a thread."""

    def __init__(self, lines: Iterable[dict[str, object]]) -> None:
        self.news: list[dict[str, object]] = []
        self._thread = threading.Thread(target=self._listen, args=(lines,), daemon=True)
        self._thread.start()

    def _listen(self, lines: Iterable[dict[str, object]]) -> None:
        for line in lines:
            self.news.append(line)

    @property
    def seq(self) -> object:
        """Up to which it has everything."""
        return self.news[-1]["seq"] if self.news else None


class Reader(Listener):
    """A subscriber in a thread of this process."""

    def __init__(self, publisher: PublisherProcess, session: str) -> None:
        self._subscriber = Subscriber(publisher.updates, publisher.requests, session)
        self._ended = threading.Event()
        super().__init__(news(self._subscriber, self._ended))

    def end(self) -> str:
        """The digest of its map."""
        self._ended.set()
        self._thread.join(LIMIT_S)
        return digest(self._subscriber.mirror)

    def close(self) -> None:
        """Wherever it is."""
        self._ended.set()
        self._thread.join(LIMIT_S)
        self._subscriber.close()


class ReaderProcess(Listener):
    """The same in a process of its own, which can be stopped."""

    def __init__(self, publisher: PublisherProcess, session: str) -> None:
        script = Path(__file__).with_name("reader_process.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), publisher.updates, publisher.requests, session],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        super().__init__(map(json.loads, self.process.stdout))

    def end(self) -> str:
        """The digest of its map."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(LIMIT_S) == 0
        self._thread.join(LIMIT_S)
        return str(self.news[-1]["digest"])

    def close(self) -> None:
        """Whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def publishing(folder: Path) -> Iterator[PublisherProcess]:
    """A publisher for any session: one under a supervisor hears those that it has started."""
    publisher = PublisherProcess(folder, HWM)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.kill()


def wait_for_all(readers: Sequence[Listener], seq: int) -> None:
    """Until every one of them has everything up to `seq`."""
    wait_for(lambda: all(reader.seq == seq for reader in readers), f"everybody at {seq}", 120.0)


def megabytes(pid: int) -> float:
    """Resident memory."""
    stats = process_stats(pid)
    assert stats is not None
    return stats.resident_bytes / 1e6


def change(feed: Feed, number: int) -> None:
    """New splats for one of the later chunks, now and then a move; the first one stays."""
    chunk = sorted(feed.map.chunks)[1 + number % (CHUNKS - 1)]
    if number % 10 == 9:
        feed.map.move({chunk: random_similarity(number)})
    else:
        feed.map.replace(chunk, random_splats(number, SPLATS, 0))
    feed.publish()


def test_one_of_five_stands_still(tmp_path: Path) -> None:
    with ExitStack() as stack:
        publisher = stack.enter_context(publishing(tmp_path))
        feed = Feed(tmp_path)
        stack.callback(feed.close)
        stack.enter_context(serving(feed))
        stopped = ReaderProcess(publisher, feed.name)
        stack.callback(stopped.close)
        others = [Reader(publisher, feed.name) for _ in range(4)]
        for reader in others:
            stack.callback(reader.close)
        readers = [stopped, *others]
        for seed in range(CHUNKS):
            feed.perform(("add", 3 * seed, SPLATS))
        wait_for_all(readers, feed.seq)
        joined = [reader.news[-1]["snapshots"] for reader in readers]
        stopped.process.send_signal(signal.SIGSTOP)
        before, came = megabytes(publisher.pid), [len(reader.news) for reader in others]
        heaviest = 0.0
        for number in range(PUBLISHED):
            change(feed, number)
            # Whoever reads has every update before the next one is made: no delay adds up.
            wait_for_all(others, feed.seq)
            heaviest = max(heaviest, megabytes(publisher.pid))
        # Nobody else missed anything.
        for reader, first, snapshots in zip(others, came, joined[1:]):
            assert [line["seq"] for line in reader.news[first:]] == list(
                range(CHUNKS + 1, CHUNKS + PUBLISHED + 1)
            )
            assert reader.news[-1]["snapshots"] == snapshots
        # What waits for the one that stands still is bounded, and the rest is on its way only.
        assert heaviest - before < (HWM + 2 * CHUNKS) * CHUNK_MB + 20.0

        asleep = len(stopped.news)
        stopped.process.send_signal(signal.SIGCONT)
        wait_for_all([stopped], feed.seq)
        repaired = [line for line in stopped.news[asleep:] if line["snapshots"] != joined[0]]
        assert repaired, "nothing was missed: the test shows nothing"
        # It said what it has: the chunk that nobody touched did not come again.
        assert min(feed.map.chunks) not in repaired[0]["chunks"]  # type: ignore[operator]
        assert {reader.end() for reader in readers} == {digest(feed.map)}

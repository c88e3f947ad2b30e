"""Training sequences from a folder that background processes fill."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType

import numpy as np

from ttt_core.errors import ConfigError, SequenceCacheError, SequenceWorkerError
from ttt_core.training.build import StreamSpec
from ttt_core.training.cache import SequenceCache
from ttt_core.training.samples import TrainingSequence
from ttt_core.training.sources import SceneSource, SequenceSource
from ttt_core.training.worker import Failed, Job, Made, work

_LOOK_EVERY_S = 1.0
_POLL_S = 0.05
_END_WITHIN_S = 5.0


class SequencePool:
    """Gives out sequences at random; those that are missing are made by processes of its own.

    Several pools, also of different programs, may share a folder: no sequence is made twice, and
    each pool sees what the others made. Sequence number n depends on the specification and on n
    alone, so that a folder that was begun is simply gone on with.

    Args:
        cache_dir: folder of the sequences.
        spec: how sequences become streams.
        workers: processes to start; 0 only reads what is there, and what others add to it.
        source: where sequences come from.
        count: sequences in the folder, at most; None: without an end.
        max_bytes: no further sequence is begun once the folder holds so many.
        niceness: added to that of this process.

    Raises:
        ConfigError: a value out of range, or workers without any limit.
        SequenceCacheError: the folder was made by another specification.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        spec: StreamSpec | None = None,
        workers: int = 1,
        *,
        source: SequenceSource | None = None,
        count: int | None = None,
        max_bytes: int | None = None,
        niceness: int = 10,
    ) -> None:
        if workers < 0:
            raise ConfigError(f"workers is {workers}: give 0 or more")
        for name, limit in (("count", count), ("max_bytes", max_bytes)):
            if limit is not None and limit < 1:
                raise ConfigError(f"{name} is {limit}: give 1 or more, or None for no limit")
        if workers and count is None and max_bytes is None:
            raise ConfigError("workers would fill the disk: give count or max_bytes")
        self.spec = spec or StreamSpec()
        self.source: SequenceSource = source or SceneSource()
        self.cache = SequenceCache(cache_dir, self.spec, self.source)
        self.reports: list[Made] = []
        """What this pool's workers made, in the order in which it was heard of."""
        self._count = count
        self._made: list[int] = []
        self._looked = 0.0
        self._look(now=True)
        self._workers: list[tuple[ForkServerProcess, Connection]] = []
        job = Job(
            folder=self.cache.folder,
            spec=self.spec,
            source=self.source,
            count=count,
            max_bytes=max_bytes,
            niceness=niceness,
        )
        try:
            for number in range(workers):
                self._start(number, job)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SequencePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Sequences that can be sampled; above the limit there may be others, which are not."""
        self._look()
        return len(self._made)

    @property
    def indices(self) -> Sequence[int]:
        """Numbers of the sequences that can be sampled, ascending."""
        self._look()
        return tuple(self._made)

    @property
    def working(self) -> bool:
        """Whether a worker is still at it."""
        return any(process.is_alive() for process, _ in self._workers)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process numbers of the workers that were started."""
        return tuple(process.pid for process, _ in self._workers if process.pid is not None)

    def sample(self, rng: np.random.Generator, timeout_s: float | None = None) -> TrainingSequence:
        """A sequence drawn evenly from those that are there; waits for the first one.

        The same `rng` gives the same sequence only once the folder is full: while it grows, what
        is drawn depends on how much is there.

        Raises:
            SequenceWorkerError: a worker failed or died.
            SequenceCacheError: nothing there, and nobody to make it (within `timeout_s`).
            SequenceError: a file cannot be read.
        """
        self.wait(1, timeout_s)
        return self.cache.load(self._made[int(rng.integers(len(self._made)))])

    def load(self, index: int) -> TrainingSequence:
        """Sequence number `index`, for those who keep an order of their own.

        Raises:
            SequenceError: it is not there, or cannot be read.
        """
        return self.cache.load(index)

    def wait(self, count: int, timeout_s: float | None = None) -> None:
        """Returns once at least `count` sequences can be sampled.

        Raises:
            SequenceWorkerError: a worker failed or died.
            SequenceCacheError: the workers are done (or there are none and no `timeout_s`) and
                there are fewer, or `timeout_s` has passed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.check()
        while len(self._made) < count:
            done = not self.working and (bool(self._workers) or deadline is None)
            self._look(now=done)
            if len(self._made) >= count:
                return
            self.check()
            if done or (deadline is not None and time.monotonic() > deadline):
                raise SequenceCacheError(
                    f"{self.cache.folder}: holds {len(self._made)} of {count} sequences"
                    + ("" if self.working else ", and no worker makes more; start some")
                )
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Hears the workers' reports.

        Raises:
            SequenceWorkerError: one of them failed or died.
        """
        self._look()
        for number, (process, reports) in enumerate(self._workers):
            # Before the pipe is emptied: what a process wrote before its end is then all there.
            code = process.exitcode
            try:
                while reports.poll():
                    report = reports.recv()
                    if isinstance(report, Failed):
                        raise SequenceWorkerError(
                            f"worker {number} could not make sequence {report.index} in "
                            f"{self.cache.folder}:\n{report.trace}"
                        )
                    self.reports.append(report)
            except EOFError:
                pass
            if code:
                raise SequenceWorkerError(
                    f"worker {number} (process {process.pid}) died with "
                    + (f"signal {-code}" if code < 0 else f"exit code {code}")
                    + "; if memory ran out take fewer workers. What is made stays: start again"
                )

    def close(self) -> None:
        """Ends the workers; what they have finished stays."""
        for process, _ in self._workers:
            if process.is_alive():
                process.terminate()
        for process, reports in self._workers:
            process.join(_END_WITHIN_S)
            if process.is_alive():
                process.kill()
                process.join()
            reports.close()
        self._workers = []
        self.cache.close()

    def _start(self, number: int, job: Job) -> None:
        # Forked from a process that has only imported: torch and the rest once for all workers.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([work.__module__])
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=work, args=(job, theirs), name=f"sequences-{number}", daemon=True
        )
        process.start()
        theirs.close()
        self._workers.append((process, ours))

    def _look(self, now: bool = False) -> None:
        if now or time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._made = [n for n in self.cache.made() if self._count is None or n < self._count]
            self._looked = time.monotonic()

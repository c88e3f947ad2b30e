"""The process that makes training sequences in the background."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numba
import torch

from ttt_core.matching import MatchingPrior
from ttt_core.training.build import StreamSpec, build_sequence
from ttt_core.training.cache import SequenceCache
from ttt_core.training.sources import SequenceSource


@dataclass(frozen=True, slots=True)
class Made:
    """A sequence is there. Seconds are CPU time of the worker, all its threads."""

    index: int
    scene_s: float
    build_s: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker could not make sequence `index` (-1: could not begin) and has ended."""

    index: int
    trace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is to do."""

    folder: Path
    spec: StreamSpec
    source: SequenceSource
    count: int | None
    max_bytes: int | None
    niceness: int


def work(job: Job, reports: Connection) -> None:
    """Makes the sequences that are neither there nor in the making, until a limit is reached.

    Ends silently when the process that started this one has gone. One thread; each sequence is
    written whole.
    """
    # An interrupt reaches the whole group of processes: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    index = -1
    try:
        os.nice(job.niceness)
        torch.set_num_threads(1)
        numba.set_num_threads(1)
        cv2.setNumThreads(1)
        cache = SequenceCache(job.folder, job.spec, job.source)
        prior = MatchingPrior(job.spec.prior)
        parent = multiprocessing.parent_process()
        index = 0
        while job.count is None or index < job.count:
            if parent is not None and not parent.is_alive():
                return
            if job.max_bytes is not None and cache.nbytes() >= job.max_bytes:
                return
            if not cache.path(index).exists():
                with cache.claim(index) as mine:
                    if mine:
                        reports.send(_make(index, job, cache, prior))
            index += 1
    except BrokenPipeError:
        return
    except Exception:
        with contextlib.suppress(BrokenPipeError):
            reports.send(Failed(index, traceback.format_exc()))
        raise SystemExit(1) from None


def _make(index: int, job: Job, cache: SequenceCache, prior: MatchingPrior) -> Made:
    start = time.process_time()
    posed = job.source(index)
    rendered = time.process_time()
    sequence = build_sequence(posed, job.spec, seed=index, prior=prior)
    cache.save(index, sequence)
    end = time.process_time()
    return Made(index, rendered - start, end - rendered, cache.path(index).stat().st_size)

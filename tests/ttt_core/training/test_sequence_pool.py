"""Sequences made in the background: once each, whole, the same again, and errors that are heard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from posed_rooms import SMALL, RoomSource
from sequence_cases import sequence

from ttt_core.errors import ConfigError, SequenceCacheError, SequenceWorkerError
from ttt_core.training.cache import SequenceCache
from ttt_core.training.generate import read_spec
from ttt_core.training.pool import SequencePool


def test_making_restarting_and_refusing_another_spec(tmp_path: Path) -> None:
    with SequencePool(tmp_path, SMALL, 2, source=RoomSource(), count=3) as pool:
        one = pool.sample(np.random.default_rng(0))
        assert len(one.image) == 6
        pool.wait(3)
        while pool.working:
            time.sleep(0.02)
        pool.check()
        assert sorted(report.index for report in pool.reports) == [0, 1, 2]
    contents = {n: pool.cache.path(n).read_bytes() for n in range(3)}
    stamps = {n: pool.cache.path(n).stat().st_mtime_ns for n in range(3)}
    # one was lost, one was half written, and there are to be more
    pool.cache.path(1).unlink()
    (tmp_path / ".00000001.safetensors.tmp").write_bytes(b"half")
    with SequencePool(tmp_path, SMALL, 1, source=RoomSource(), count=4) as pool:
        pool.wait(4)
        assert list(pool.indices) == [0, 1, 2, 3]
    assert pool.cache.path(1).read_bytes() == contents[1]
    assert {n: pool.cache.path(n).stat().st_mtime_ns for n in (0, 2)} == {
        n: stamps[n] for n in (0, 2)
    }
    with pytest.raises(SequenceCacheError, match=r"source\.rooms is 6, wanted 7"):
        SequencePool(tmp_path, SMALL, 0, source=RoomSource(views=7))
    with SequencePool(tmp_path, SMALL, 0, source=RoomSource(), count=2) as pool:
        assert len(pool) == 2
        with pytest.raises(SequenceCacheError, match="holds 2 of 3"):
            pool.wait(3, timeout_s=0.01)


def test_draws_are_the_same_again_once_the_folder_is_full(tmp_path: Path) -> None:
    made = [sequence(seed) for seed in range(3)]
    cache = SequenceCache(tmp_path, SMALL, RoomSource())

    def drawn() -> list[int]:
        with SequencePool(tmp_path, SMALL, 0, source=RoomSource(), count=2) as pool:
            rng = np.random.default_rng(0)
            pictures = [pool.sample(rng).image for _ in range(8)]
        return [
            next(n for n, one in enumerate(made) if torch.equal(picture, one.image))
            for picture in pictures
        ]

    cache.save(0, made[0])
    assert drawn() == [0] * 8
    cache.save(1, made[1])
    full = drawn()
    assert set(full) == {0, 1}
    cache.save(2, made[2])  # beyond the limit
    assert drawn() == full
    cache.close()


def test_failed_and_killed_workers_are_heard(tmp_path: Path) -> None:
    source = RoomSource(broken=(1,))
    with (
        SequencePool(tmp_path / "a", SMALL, 1, source=source, count=3) as pool,
        pytest.raises(SequenceWorkerError, match="no room 1"),
    ):
        pool.wait(3)
    with SequencePool(tmp_path / "b", SMALL, 1, source=RoomSource(), max_bytes=10**12) as pool:
        pool.wait(1)
        (pid,) = pool.pids
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SequenceWorkerError, match="signal 9"):
            pool.wait(10**6)
    assert pool.pids == ()


def test_limits(tmp_path: Path) -> None:
    with SequencePool(tmp_path, SMALL, 1, source=RoomSource(), max_bytes=1) as pool:
        with pytest.raises(SequenceCacheError, match="holds 1 of 2"):
            pool.wait(2)
        assert len(pool) == 1
    with pytest.raises(ConfigError, match="fill the disk"):
        SequencePool(tmp_path, SMALL, 1, source=RoomSource())


def test_strange_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SequenceCacheError, match="is a file"):
        SequenceCache(tmp_path / "file", SMALL, RoomSource())
    with pytest.raises(SequenceCacheError, match=r"no manifest\.json"):
        SequenceCache(tmp_path, SMALL, RoomSource())
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(SequenceCacheError, match="damaged"):
        SequenceCache(tmp_path, SMALL, RoomSource())


def test_a_claim_is_one_process_s(tmp_path: Path) -> None:
    cache = SequenceCache(tmp_path, SMALL, RoomSource())
    ask = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'ab')\n"
        "try:\n"
        "    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]) + 1)\n"
        "except OSError:\n"
        "    sys.exit(7)\n"
    )

    def other(index: int) -> int:
        command = [sys.executable, "-c", ask, str(tmp_path / "claims"), str(index)]
        return subprocess.run(command, check=False).returncode

    with cache.claim(4) as mine:
        assert mine
        assert other(4) == 7
        assert other(5) == 0
    assert other(4) == 0
    cache.path(4).write_bytes(b"")
    with cache.claim(4) as mine:
        assert not mine
    cache.close()


def test_spec_files(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "stream: {batches: 4, noise: {share: 1.0}}\n"
        "scenes: {split: validation, config: {views: 12}}\n"
    )
    stream, source = read_spec(path)
    assert (stream.batches, stream.views_per_batch, stream.noise.share) == (4, 3, 1.0)
    assert (source.split, source.config.views) == ("validation", 12)
    assert read_spec(None)[0].views == 24
    for text, message in {
        "stream: {bathces: 4}": "stream.bathces is unknown",
        "streams: {}": "sections named stream and scenes",
        "stream: {batches: 0}": "batches is 0",
        "stream: {batches: 90}": "needs 270",
        "stream: [1]": "give fields and values",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_spec(path)

"""Chunks out of sight rest on the disk and come back: nothing is lost, and memory stays bounded."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from spilling_helpers import AWAY, STEPS, assert_whole, make, quality, resting, walk
from strip_walk import pose, there_and_back, wall_frame

from gs_decoder import ChunkUpdate, DropUpdate
from streamer.session.corrections import rigid
from streamer.session.spill_files import SpillFolder, numbers

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)


def test_what_was_left_behind_is_there_again_when_the_camera_is(tmp_path: Path) -> None:
    frames = there_and_back(STEPS)
    engine, reader = make(tmp_path)
    walk(engine, frames[:8])
    before = quality(reader)
    first = set(reader.mirror.chunks)
    for start in range(8, len(frames), 4):
        # On the way back nothing is refined: it would mend a poorer map too.
        walk(engine, frames[start : start + 4], steps=8 if start < AWAY else 0)
        assert engine.refiner.parameters.count <= 1300
        if start == AWAY:
            # Nobody looks at it, so nothing changes it.
            assert {0, 1, 2, 3} <= resting(engine)
            assert abs(quality(reader) - before) < 0.5
            assert engine.map.count > 1.4 * 1300
    assert_whole(engine, reader)
    assert not {0, 1, 2, 3} & resting(engine)
    assert first <= set(reader.mirror.chunks)
    after = quality(reader)
    engine.close()

    thinned, poorer = make(None)
    walk(thinned, frames[:AWAY])
    walk(thinned, frames[AWAY:], steps=0)
    thinned.close()
    assert thinned.map.count <= 1300
    assert after > before - 1.5
    assert after > quality(poorer) + 0.8


def test_a_place_that_is_on_the_disk_is_not_built_twice(tmp_path: Path) -> None:
    frames = there_and_back(STEPS)
    engine, reader = make(tmp_path)
    walk(engine, frames[:AWAY])
    assert {0, 1} <= resting(engine)
    count = engine.map.count
    # Where it began, from where it was seen first: all of that is known.
    walk(engine, [wall_frame(seq, 0.0 + 0.01 * seq) for seq in range(32, 36)])
    assert not {0, 1} & resting(engine)
    assert engine.map.count < 1.05 * count
    assert_whole(engine, reader)
    engine.close()


def test_chunks_on_the_disk_follow_corrections_without_being_read(tmp_path: Path) -> None:
    world = np.eye(4)
    world[:3, :3] = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]]) * 1.5
    world[:3, 3] = 300.0, -20.0, 4.0
    frames = there_and_back(STEPS)
    engine, reader = make(tmp_path)
    walk(engine, frames[:AWAY])
    before, files = quality(reader), sorted(tmp_path.iterdir())
    asleep, stamps = resting(engine), [path.stat().st_mtime_ns for path in files]
    assert asleep
    outcome = engine.apply_poses(
        1, {f.seq: world @ pose(f) for f in frames[:AWAY]}, by="seq", upto=None
    )
    assert outcome.moved == len(engine.chunk_of_seq)
    assert resting(engine) == asleep
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == stamps
    assert_whole(engine, reader)
    assert abs(quality(reader, world) - before) < 0.1
    back = [
        replace(f, c2w=rigid(world @ pose(f)), depth=f.depth * np.float32(1.5))
        for f in frames[AWAY:]
        if f.depth is not None
    ]
    walk(engine, back)
    assert_whole(engine, reader)
    assert not {0, 1, 2, 3} & resting(engine)
    assert quality(reader, world) > before - 0.3
    # Views came back with their cameras and their sensor's depth in the corrected world.
    for key, view in engine.refiner.views.items():
        assert np.allclose(view.c2w, rigid(engine.trajectory.pose(key)))
        assert view.depth is not None
        assert np.allclose(view.depth, 3.0)
    engine.close()


def test_a_full_map_drops_what_is_far_and_shows_it_again(tmp_path: Path) -> None:
    frames = there_and_back(STEPS)
    engine, reader = make(tmp_path, map_budget=2000)
    walk(engine, frames[:AWAY])
    hidden = resting(engine) - set(reader.mirror.chunks)
    assert hidden
    assert reader.mirror.count <= 2000
    # The file of a map holds them all the same.
    assert engine.splats_world().count > 2000
    assert any(isinstance(update, DropUpdate) for update in reader.log)
    seqs = {seq for seq, chunk in engine.chunk_of_seq.items() if chunk in hidden}
    assert all(reader.chunks[seq] is None for seq in seqs)
    revision = engine.map.clock
    for start in range(AWAY, len(frames), 4):
        walk(engine, frames[start : start + 4])
        assert reader.mirror.count <= 2000
        assert_whole(engine, reader)
    shown = [u.chunk for u in reader.log if isinstance(u, ChunkUpdate) and u.chunk.id in hidden]
    assert any(chunk.revision > revision for chunk in shown)
    assert hidden & set(reader.mirror.chunks)
    engine.close()


def test_without_a_place_on_the_disk_the_map_is_thinned_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = there_and_back(STEPS)
    engine, reader = make(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        walk(engine, frames[:AWAY], steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert engine.refiner.parameters.count <= 1300
    assert not resting(engine)
    assert len([r for r in caplog.records if "free the disk" in r.getMessage()]) == 1
    assert list(tmp_path.iterdir()) == []
    assert_whole(engine, reader)
    walk(engine, frames[AWAY:], steps=2)
    assert resting(engine)
    assert_whole(engine, reader)
    engine.close()


def test_a_damaged_file_costs_its_chunk_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = there_and_back(STEPS)
    engine, reader = make(tmp_path)
    walk(engine, frames[:AWAY], steps=2)
    held = {rest.id: rest for rest in engine.residence.resting}
    assert {0, 1} <= set(held)
    (tmp_path / held[0].file.name).unlink()
    path = tmp_path / held[1].file.name
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    walk(engine, frames[AWAY:], steps=2)
    assert {c for c in (0, 1) if c in engine.map.chunks} == set()
    lost = [r.getMessage() for r in caplog.records if "a chunk is lost" in r.getMessage()]
    assert len(lost) == 2
    assert all(str(tmp_path) in message and "replay" in message for message in lost)
    assert_whole(engine, reader)
    engine.close()


def test_a_reset_leaves_nothing_behind(tmp_path: Path) -> None:
    engine, _ = make(None)
    engine.spill_to(SpillFolder(tmp_path, kept=False))
    walk(engine, there_and_back(STEPS)[:AWAY], steps=1)
    assert resting(engine)
    assert len(numbers(tmp_path)) == sum(len(held.files) for held in engine.residence.resting)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())
    engine.reset()
    assert not resting(engine)
    assert list(tmp_path.iterdir()) == []
    walk(engine, there_and_back(STEPS), steps=1)
    assert {0, 1} & set(engine.refiner.parameters.chunks())
    engine.close()


def test_what_leaves_and_comes_back_is_the_same_within_rounding(tmp_path: Path) -> None:
    engine, reader = make(tmp_path)
    frames = there_and_back(STEPS)
    walk(engine, frames[:AWAY], steps=1)
    held = {rest.id: engine.map.chunks[rest.id].splats for rest in engine.residence.resting}
    engine.process(frames[-4:])
    engine.publish()
    back = set(held) - resting(engine)
    assert back
    for identity in back:
        now = engine.map.chunks[identity].splats
        if now.count == held[identity].count:
            assert torch.allclose(now.means, held[identity].means, atol=1e-5)
            assert torch.allclose(now.sh, held[identity].sh, atol=1e-5)
    assert_whole(engine, reader)
    engine.close()

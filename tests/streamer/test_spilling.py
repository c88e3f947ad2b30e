"""Chunks out of sight rest on the disk and come back: nothing is lost, and memory stays bounded."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import Reader, make_engine, picture, truth
from strip_walk import HEIGHT, WIDTH, beginning, pose, there_and_back, wall_frame

from gs_decoder import ChunkUpdate, DropUpdate, psnr
from gs_decoder.refine import RefineView
from gs_decoder.refine.parameters import SPLATS
from streamer.frames import Frame
from streamer.session.corrections import rigid
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state, restore_engine
from streamer.session.spill_files import SPILLED, SpillError, SpillFolder, numbers
from streamer.session.spilled_views import pack_views, unpack_views
from streamer.session.state_files import Cursor, StateDamaged, read_chunks, read_state
from streamer.session.storage import save_state
from ttt_core.streaming import StreamingConfig, StreamingModel

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)

STEPS = 16
AWAY = 16
"""Frames of the way out."""


def make(folder: Path | None, **options: object) -> tuple[Engine, Reader]:
    """An engine with room for a part of the wall, and one that cannot spill without a folder."""
    model = StreamingModel(StreamingConfig(network=None)).eval()
    settings = {"chunk_budget": 400, "resident_budget": 1300, "map_budget": 20_000, **options}
    engine, reader = make_engine(model=model, **settings)
    if folder is not None:
        engine.spill_to(SpillFolder(folder, kept=True))
    return engine, reader


def walk(engine: Engine, frames: Sequence[Frame], steps: int = 8) -> None:
    for start in range(0, len(frames), 4):
        engine.process(frames[start : start + 4])
        for _ in range(steps):
            engine.refine()
    engine.publish()


def quality(reader: Reader, world: np.ndarray | None = None) -> float:
    """PSNR of views of the walk's beginning that nothing was made from."""
    T = np.eye(4) if world is None else world
    views = [(frame, rigid(T @ pose(frame))) for frame in beginning()]
    return float(
        np.mean([psnr(picture(reader.mirror, f, c).clip(0, 1), truth(f)) for f, c in views])
    )


def resting(engine: Engine) -> set[int]:
    return {held.id for held in engine.residence.resting}


def assert_whole(engine: Engine, reader: Reader) -> None:
    """Every chunk is in one place, and readers have what the map has."""
    engine.publish()
    parameters = engine.refiner.parameters
    ready = set(parameters.chunks())
    assert not ready & resting(engine)
    assert ready | resting(engine) == set(engine.chunk_of_seq.values())
    assert ready <= set(engine.map.chunks) <= ready | resting(engine)
    assert reader.mirror.equals(engine.map)
    assert {c for c in reader.chunks.values() if c is not None} == set(reader.mirror.chunks)
    status = engine.status()
    assert status.splats == engine.map.count
    assert status.splats_ready + status.splats_on_disk == engine.splats_world().count
    for chunk in engine.map.chunks.values():
        chunk.splats.check_values()


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


# Saved states --------------------------------------------------------------------------------


def saved(engine: Engine, folder: Path, next_seq: int) -> Path:
    cursor = Cursor(epoch=1, next_seq=next_seq, settings={})
    return save_state(engine_state(engine), folder, cursor)


def restored(path: Path, frames: Sequence[Frame], **options: object) -> Engine:
    engine, _ = make(path.parents[1] / SPILLED, **options)
    engine.map.go_on_from(1 << 32)
    state = read_state(path, engine.model)
    views = {f.seq: f for f in frames if f.seq in state.refiner.view_keys}
    restore_engine(engine, state, views)
    return engine


def test_an_engine_restored_with_chunks_on_the_disk_goes_on_bit_for_bit(tmp_path: Path) -> None:
    frames = there_and_back(STEPS)
    first, _ = make(tmp_path / SPILLED, map_budget=2000)
    walk(first, frames[:AWAY])
    asleep = resting(first)
    assert asleep - set(first.map.chunks)
    assert asleep & set(first.map.chunks)
    second = restored(saved(first, tmp_path, AWAY), frames[:AWAY], map_budget=2000)
    assert resting(second) == asleep
    assert first.chunk_of_seq == second.chunk_of_seq
    assert second.splats_world().count == first.splats_world().count
    for engine in (first, second):
        walk(engine, frames[AWAY:])
    assert first.map.chunks.keys() == second.map.chunks.keys()
    for identity, chunk in first.map.chunks.items():
        assert chunk.splats.equals(second.map.chunks[identity].splats)
    assert resting(first) == resting(second) != asleep
    for name in SPLATS:
        mine, other = (getattr(e.refiner.parameters, name) for e in (first, second))
        count = first.refiner.parameters.count
        assert np.array_equal(mine[:count], other[:count])
    assert list(first.refiner.views) == list(second.refiner.views)
    for key, view in first.refiner.views.items():
        again = second.refiner.views[key]
        assert np.array_equal(view.image, again.image)
        assert np.array_equal(view.log_gain, again.log_gain)
        assert view.far == again.far
    first.close()
    second.close()


def test_fast_weights_of_other_places_are_saved_and_taken_up_again(tmp_path: Path) -> None:
    model = StreamingModel(StreamingConfig()).eval().requires_grad_(False)
    first, _ = make_engine(model=model, refine_enabled=False)
    frames = [wall_frame(seq, 100.0 * (seq // 2) + 0.3 * (seq % 2)) for seq in range(4)]
    for start in (0, 2):
        first.process(frames[start : start + 2])
    assert [submap.anchor.key for submap in first.model_state.left] == [0]
    path = saved(first, tmp_path, 4)
    second, _ = make_engine(model=model, refine_enabled=False)
    restore_engine(second, read_state(path, model), {f.seq: f for f in frames})
    for engine in (first, second):
        # Back where it began, and a correction of what was written elsewhere.
        engine.process([wall_frame(4, 0.6)])
        engine.apply_poses(1, {2: pose(wall_frame(2, 100.2))}, by="seq", upto=3)
        assert engine.model_state.anchor.key == 0
    mine, other = (engine.model_state.to_tensors() for engine in (first, second))
    assert mine.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    first.close()
    second.close()


def test_files_stay_as_long_as_a_state_needs_them(tmp_path: Path) -> None:
    frames = there_and_back(STEPS)
    engine, _ = make(tmp_path / SPILLED)
    states = []
    for start in range(0, len(frames), 4):
        walk(engine, frames[start : start + 4], steps=1)
        states.append(saved(engine, tmp_path, start + 4))
        needed = {file.number for held in engine.residence.resting for file in held.files}
        there = set(numbers(tmp_path / SPILLED))
        assert needed <= there
        for path in states[-2:]:
            again = restored(path, frames)
            assert again.frames_done == int(path.name) * 4 + 4
            again.close()
        files = [
            {f.number for held in read_state(p, engine.model).residence.resting for f in held.files}
            for p in states[-2:]
        ]
        # Nothing is kept that no state refers to.
        assert there == set().union(*files)
    assert len(numbers(tmp_path / SPILLED)) < engine.residence.state().next_file
    engine.close()


def test_a_state_without_its_files_is_damaged(tmp_path: Path) -> None:
    frames = there_and_back(STEPS)
    engine, _ = make(tmp_path / SPILLED, map_budget=2000)
    walk(engine, frames[:AWAY], steps=1)
    path = saved(engine, tmp_path, AWAY)
    cursor, chunks = read_chunks(path)
    assert cursor.next_seq == AWAY
    assert {chunk.id for chunk in chunks} == set(engine.chunk_of_seq.values())
    hidden = next(h for h in engine.residence.resting if h.id not in engine.map.chunks)
    file = tmp_path / SPILLED / hidden.file.name
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(StateDamaged, match=f"{file.name} is not as it was written"):
        read_state(path, engine.model)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StateDamaged, match=r"a chunk is lost"):
        read_chunks(path)
    file.unlink()
    with pytest.raises(StateDamaged, match=r"No such file"):
        read_state(path, engine.model)
    engine.close()


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    folder = SpillFolder(tmp_path / SPILLED, kept=True)
    arrays = {"rows": np.arange(12, dtype=np.float32).reshape(3, 4)}
    file = folder.write(arrays)
    assert np.array_equal(folder.read(file)["rows"], arrays["rows"])
    assert (tmp_path / SPILLED).stat().st_mode & 0o777 == 0o700
    # Numbers go on in another process.
    assert SpillFolder(tmp_path / SPILLED, kept=True).write(arrays).number == file.number + 1
    with pytest.raises(SpillError, match="not as it was written"):
        folder.read(replace(file, crc32=file.crc32 ^ 1))
    (tmp_path / "file").write_text("")
    with pytest.raises(SpillError, match="free the disk"):
        SpillFolder(tmp_path / "file" / SPILLED, kept=True).write(arrays)


def test_views_come_back_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    views = [
        RefineView(
            key=key,
            image=rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
            K=np.eye(3) * key,
            c2w=np.eye(4),
            valid=rng.random((HEIGHT, WIDTH)) > 0.5 if key % 2 else None,
            depth=rng.random((HEIGHT, WIDTH), np.float32) if key % 3 else None,
            far=float(key),
            log_gain=rng.random(3, np.float32),
            visits=key,
            psnr=20.0 if key % 2 else None,
        )
        for key in range(1, 6)
    ]
    for view, again in zip(
        views, unpack_views(pack_views(views, lambda _: np.eye(4)), lambda _: np.eye(4))
    ):
        for name in ("image", "K", "c2w", "valid", "depth", "log_gain"):
            before, after = getattr(view, name), getattr(again, name)
            assert (before is None) == (after is None)
            assert before is None or np.array_equal(before, after)
        assert (view.key, view.far, view.psnr) == (again.key, again.far, again.psnr)
        assert view.visits == again.visits


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

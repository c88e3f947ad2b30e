"""Spilled chunks and views in saved states, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import make_engine
from spilling_helpers import AWAY, STEPS, make, resting, walk
from strip_walk import HEIGHT, WIDTH, pose, there_and_back, wall_frame

from gs_decoder.refine import RefineView
from gs_decoder.refine.parameters import SPLATS
from streamer.frames import Frame
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state, restore_engine
from streamer.session.spill_files import SPILLED, SpillError, SpillFolder, numbers
from streamer.session.spilled_views import pack_views, unpack_views
from streamer.session.state_files import Cursor, StateDamaged, read_chunks, read_state
from streamer.session.storage import save_state
from ttt_core.streaming import StreamingConfig, StreamingModel

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)


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

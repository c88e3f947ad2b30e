"""A session's folder: epochs that grow, and states that load as they were."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import feed, make_engine, office, remembering

from gs_decoder import MapMirror
from gs_decoder.refine.parameters import SPLATS
from gs_decoder.updates import ChunkUpdate
from streamer.frames import Frame
from streamer.session.batching import view_batch
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state, restore_engine, room_maker
from streamer.session.folder import (
    SessionFile,
    SessionFolderError,
    begin_epoch,
    begin_life,
    end_life,
    last_epoch,
    read_session_file,
    states,
)
from streamer.session.state_files import (
    FORMAT,
    Cursor,
    StateDamaged,
    StateVersion,
    load_chunks,
    read_cursor,
    read_state,
)
from streamer.session.storage import save_state, set_aside
from ttt_core import StreamingModel, load_streaming_state

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine, _ = make_engine(model=remembering())
    feed(engine, office(0, 8))
    for _ in range(3):
        engine.refine()
    engine.publish()
    engine.apply_poses(3, {4: np.diag([2.0, 2.0, 2.0, 1.0])}, by="seq", upto=None)
    yield engine
    engine.close()


def test_epochs_grow_and_are_written_down_first(tmp_path: Path) -> None:
    folder = tmp_path / "sessions" / "office"
    assert last_epoch(folder) == 0
    assert [begin_epoch(folder) for _ in range(3)] == [1, 2, 3]
    assert last_epoch(folder) == 3
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["session.json"]


def test_lives_are_counted_within_an_epoch(tmp_path: Path) -> None:
    assert begin_life(tmp_path, anew=False) == SessionFile(epoch=1, life=1, running=True)
    assert begin_life(tmp_path, anew=False) == SessionFile(epoch=1, life=2, running=True)
    end_life(tmp_path)
    assert read_session_file(tmp_path) == SessionFile(epoch=1, life=2, running=False)
    assert begin_life(tmp_path, anew=True) == SessionFile(epoch=2, life=1, running=True)
    (tmp_path / "session.json").write_text('{"format": 9, "epoch": 4}')
    with pytest.raises(SessionFolderError, match="format 9"):
        read_session_file(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"epoch": "soon"}', '{"epoch": null}', "\0"])
def test_a_session_file_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "session.json").write_text(content)
    with pytest.raises(SessionFolderError, match=r"session\.json"):
        begin_epoch(tmp_path)
    assert (tmp_path / "session.json").read_text() == content


def save(engine: Engine, folder: Path, *, next_seq: int = 8) -> Path:
    """The state of an engine."""
    cursor = Cursor(epoch=7, next_seq=next_seq, settings={"long_side": 64})
    return save_state(engine_state(engine), folder, cursor)


def test_a_folder_that_cannot_be_is_named(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionFolderError, match="--session-dir"):
        begin_epoch(tmp_path / "file" / "office")
    with pytest.raises(SessionFolderError, match="--session-dir"):
        save(engine, tmp_path / "file")


def test_a_state_loads_bit_for_bit(tmp_path: Path, engine: Engine) -> None:
    state = save(engine, tmp_path)
    assert {path.name for path in state.iterdir()} == {
        "fast_weights.safetensors",
        "chunks.safetensors",
        "refiner.safetensors",
        "frames.safetensors",
        "residence.safetensors",
        "cursor.json",
    }
    mirror = MapMirror()
    for chunk in load_chunks(state / "chunks.safetensors"):
        mirror.apply(ChunkUpdate(chunk))
    assert mirror.count > 100
    assert mirror.equals(engine.map)
    assert list(mirror.chunks) == list(engine.map.chunks)
    # A pose with a scale survives as well.
    assert any(abs(np.linalg.det(c.T_world_chunk[:3, :3]) - 8) < 1 for c in mirror.chunks.values())

    held = engine.model_state
    loaded = load_streaming_state(state / "fast_weights.safetensors")
    before, after = held.to_tensors(), loaded.to_tensors()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name])
    assert read_cursor(state) == Cursor(epoch=7, next_seq=8, settings={"long_side": 64})
    header = json.loads((state / "cursor.json").read_text())
    assert (header["frames_done"], header["pose_revision"]) == (8, 3)


def test_a_loaded_state_goes_on_as_the_saved_one(tmp_path: Path, engine: Engine) -> None:
    state = save(engine, tmp_path)
    loaded = load_streaming_state(state / "fast_weights.safetensors")
    frames = office(8, 10)
    poses = {frame.seq: np.asarray(frame.c2w) for frame in frames}
    nothing = [np.zeros(frame.image.shape[:2], np.float32) for frame in frames]
    batch = view_batch(frames, poses, nothing)
    (first, mine), (second, others) = (
        engine.model.stream(origin, batch) for origin in (engine.model_state, loaded)
    )
    assert torch.equal(mine.depth, others.depth)
    assert torch.equal(mine.confidence, others.confidence)
    after, expected = first.to_tensors(), second.to_tensors()
    assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_the_last_two_states_stay(tmp_path: Path, engine: Engine) -> None:
    states = tmp_path / "state"
    for number in range(4):
        assert save(engine, tmp_path) == states / str(number)
        kept = sorted(int(path.name) for path in states.iterdir())
        assert kept == list(range(max(0, number - 1), number + 1))


def test_what_a_crash_left_half_written_is_in_nobodys_way(tmp_path: Path, engine: Engine) -> None:
    save(engine, tmp_path)
    half = tmp_path / "state" / ".writing"
    half.mkdir()
    (half / "chunks.safetensors").write_bytes(b"half")
    (half / "other").write_bytes(b"")
    state = save(engine, tmp_path)
    assert state.name == "1"
    assert len(list(state.iterdir())) == 6
    assert sorted(os.listdir(tmp_path / "state")) == ["0", "1"]
    assert load_chunks(state / "chunks.safetensors")


def test_a_full_disk_is_named_and_costs_no_state(tmp_path: Path, engine: Engine) -> None:
    save(engine, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Files stop to grow, as they do on a full disk: within the one of the two, within the other.
    sizes = [path.stat().st_size for path in (tmp_path / "state" / "0").glob("*.safetensors")]
    assert len(sizes) == 5
    for limit in (size // 2 for size in sizes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(SessionFolderError, match="--session-dir"):
                save(engine, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path / "state") == ["0"]
    assert save(engine, tmp_path).name == "1"


def test_an_empty_session_saves_too(tmp_path: Path) -> None:
    engine, _ = make_engine()
    state = save(engine, tmp_path, next_seq=0)
    assert load_chunks(state / "chunks.safetensors") == []
    loaded = load_streaming_state(state / "fast_weights.safetensors")
    assert loaded.views == ()
    assert loaded.frame is None
    engine.close()


def undisturbed_and_restored(
    folder: Path, model: StreamingModel | None = None
) -> tuple[Engine, Engine, list[Frame]]:
    """An engine after 12 frames, refined and corrected, and another one from its saved state."""
    first, _ = make_engine(model=model or remembering())
    frames = office(0, 20)
    feed(first, frames[:12])
    for _ in range(7):
        first.refine()
    turned = np.array(frames[4].c2w)
    turned[:3, 3] += 0.02
    # Frame 13 is still to come: it will take the pose that it is given here.
    coming = {13: 13}
    first.apply_poses(
        2, {4: turned, 13: np.asarray(frames[13].c2w)}, by="seq", upto=13, coming=coming
    )
    for _ in range(4):
        first.refine()
    path = save(first, folder, next_seq=12)
    second, _ = make_engine(model=first.model)
    second.map.go_on_from(1 << 32)
    views = {frame.seq: frame for frame in frames[:12]}
    restore_engine(second, read_state(path, second.model), views)
    return first, second, frames


def carry_on(engine: Engine, frames: list[Frame]) -> None:
    for start in (12, 16):
        engine.process(frames[start : start + 4])
        for _ in range(5):
            engine.refine()
    engine.apply_poses(3, {14: np.asarray(frames[14].c2w)}, by="seq", upto=None)
    for _ in range(5):
        engine.refine()
    engine.publish()


def test_a_restored_engine_goes_on_bit_for_bit(tmp_path: Path) -> None:
    first, second, frames = undisturbed_and_restored(tmp_path)
    for engine in (first, second):
        carry_on(engine, frames)
    assert first.map.count > 500
    assert first.map.chunks.keys() == second.map.chunks.keys()
    for identity, chunk in first.map.chunks.items():
        other = second.map.chunks[identity]
        assert chunk.splats.equals(other.splats)
        assert np.array_equal(chunk.T_world_chunk, other.T_world_chunk)
        assert chunk.header()[3:] == other.header()[3:]
        # Whoever holds what the lost map became after the save must be told of all of it.
        assert other.revision > 1 << 32
        assert other.content > 1 << 32
    assert first.frames_done == second.frames_done == 20
    assert first.refiner.steps == second.refiner.steps
    assert first.trajectory.revision == second.trajectory.revision == 3
    assert np.array_equal(first.trajectory.state().poses, second.trajectory.state().poses)
    before, after = first.model_state.to_tensors(), second.model_state.to_tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(first.keyframes) == list(second.keyframes)
    for seq, keyframe in first.keyframes.items():
        assert keyframe.thumbnail == second.keyframes[seq].thumbnail
        assert keyframe.chunk == second.keyframes[seq].chunk
        assert np.array_equal(keyframe.c2w, second.keyframes[seq].c2w)
    first.close()
    second.close()


def test_a_copy_is_none_of_the_engines_business(tmp_path: Path) -> None:
    engine, _ = make_engine(model=remembering())
    feed(engine, office(0, 4))
    copied = engine_state(engine)
    at_once = save_state(copied, tmp_path / "a", Cursor(epoch=1, next_seq=4, settings={}))
    feed(engine, office(4, 8))
    for _ in range(3):
        engine.refine()
    engine.apply_poses(1, {2: np.diag([2.0, 2.0, 2.0, 1.0])}, by="seq", upto=None)
    engine.publish()
    later = save_state(copied, tmp_path / "b", Cursor(epoch=1, next_seq=4, settings={}))
    engine.close()
    assert (at_once / "cursor.json").read_bytes() == (later / "cursor.json").read_bytes()


@pytest.mark.parametrize("ahead", [False, True])
def test_a_copy_shares_what_is_never_changed_and_nothing_else(engine: Engine, ahead: bool) -> None:
    copied = engine_state(engine, room_maker(engine)() if ahead else None)
    assert copied.model is engine.model_state
    assert all(chunk is engine.map.chunks[chunk.id] for chunk in copied.chunks)
    assert list(copied.keyframes) == list(engine.keyframes)
    assert not np.shares_memory(copied.keyframes.columns.poses, engine.keyframes.columns.poses)
    for name, live in engine.trajectory.used().items():
        array = getattr(copied.trajectory, name)
        assert np.array_equal(array, live)
        assert not np.shares_memory(array, live)
    for name in SPLATS:
        live, array = getattr(engine.refiner.parameters, name), copied.refiner.arrays[name]
        assert len(array) == engine.refiner.parameters.count
        assert not np.shares_memory(array, live)
        assert np.array_equal(array, live[: len(array)])


@pytest.mark.parametrize("name", ["fast_weights", "chunks", "refiner", "frames", "residence"])
def test_a_damaged_state_is_named(tmp_path: Path, engine: Engine, name: str) -> None:
    path = save(engine, tmp_path)
    file = path / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StateDamaged, match=f"{name}.safetensors is not as it was written"):
        read_state(path, engine.model)
    file.unlink()
    with pytest.raises(StateDamaged, match=name):
        read_state(path, engine.model)


def test_a_cursor_that_is_none_is_named(tmp_path: Path, engine: Engine) -> None:
    path = save(engine, tmp_path)
    cursor = path / "cursor.json"
    whole = cursor.read_text()
    for content in (whole[: len(whole) // 2], "", "[]", "{}", f'{{"format": {FORMAT}}}'):
        cursor.write_text(content)
        with pytest.raises(StateDamaged, match=r"damaged"):
            read_cursor(path)
    cursor.write_text(whole.replace(f'"format": {FORMAT}', '"format": 9'))
    with pytest.raises(StateVersion, match="format 9"):
        read_state(path, engine.model)
    set_aside(path)
    assert states(tmp_path) == []
    assert (tmp_path / "state" / "0.damaged").is_dir()

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
from engine_helpers import feed, make_engine, office

from gs_decoder import MapMirror
from gs_decoder.updates import ChunkUpdate
from streamer.session.batching import view_batch
from streamer.session.engine import Engine
from streamer.session.folder import (
    SessionFile,
    SessionFolderError,
    begin_epoch,
    begin_life,
    end_life,
    last_epoch,
    read_session_file,
)
from streamer.session.storage import load_chunks, save_state
from ttt_core import load_streaming_state

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine, _ = make_engine()
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


def test_a_folder_that_cannot_be_is_named(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionFolderError, match="--session-dir"):
        begin_epoch(tmp_path / "file" / "office")
    with pytest.raises(SessionFolderError, match="--session-dir"):
        save_state(engine, tmp_path / "file", epoch=1, next_seq=8)


def test_a_state_loads_bit_for_bit(tmp_path: Path, engine: Engine) -> None:
    state = save_state(engine, tmp_path, epoch=7, next_seq=8)
    assert {path.name for path in state.iterdir()} == {
        "fast_weights.safetensors",
        "chunks.safetensors",
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
    assert json.loads((state / "cursor.json").read_text()) == {
        "format": 1,
        "epoch": 7,
        "next_seq": 8,
        "frames_done": 8,
        "pose_revision": 3,
    }


def test_a_loaded_state_goes_on_as_the_saved_one(tmp_path: Path, engine: Engine) -> None:
    state = save_state(engine, tmp_path, epoch=1, next_seq=8)
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
        assert save_state(engine, tmp_path, epoch=1, next_seq=8) == states / str(number)
        kept = sorted(int(path.name) for path in states.iterdir())
        assert kept == list(range(max(0, number - 1), number + 1))


def test_what_a_crash_left_half_written_is_in_nobodys_way(tmp_path: Path, engine: Engine) -> None:
    save_state(engine, tmp_path, epoch=1, next_seq=8)
    half = tmp_path / "state" / ".writing"
    half.mkdir()
    (half / "chunks.safetensors").write_bytes(b"half")
    (half / "other").write_bytes(b"")
    state = save_state(engine, tmp_path, epoch=1, next_seq=8)
    assert state.name == "1"
    assert len(list(state.iterdir())) == 3
    assert sorted(os.listdir(tmp_path / "state")) == ["0", "1"]
    assert load_chunks(state / "chunks.safetensors")


def test_a_full_disk_is_named_and_costs_no_state(tmp_path: Path, engine: Engine) -> None:
    save_state(engine, tmp_path, epoch=1, next_seq=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Files stop to grow, as they do on a full disk: within the one of the two, within the other.
    sizes = [path.stat().st_size for path in (tmp_path / "state" / "0").glob("*.safetensors")]
    assert len(sizes) == 2
    for limit in (size // 2 for size in sizes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(SessionFolderError, match="--session-dir"):
                save_state(engine, tmp_path, epoch=1, next_seq=8)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path / "state") == ["0"]
    assert save_state(engine, tmp_path, epoch=1, next_seq=8).name == "1"


def test_an_empty_session_saves_too(tmp_path: Path) -> None:
    engine, _ = make_engine()
    state = save_state(engine, tmp_path, epoch=1, next_seq=0)
    assert load_chunks(state / "chunks.safetensors") == []
    loaded = load_streaming_state(state / "fast_weights.safetensors")
    assert loaded.views == ()
    assert loaded.frame is None
    engine.close()

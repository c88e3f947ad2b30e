"""Cameras that refinement found, in the engine: shown, corrected, saved and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_helpers import feed, make_engine, office
from numpy.typing import NDArray
from wall_capture import WIDTH, picture_of, reference, shifted, wall, write_wall

from gs_decoder import write_ply
from gs_decoder.refine import RefineConfig, offset_motion
from streamer.evaluation.job import poses_path, read_offsets, write_offsets
from streamer.evaluation.judge import Judge
from streamer.frames import Frame
from streamer.held_out import HeldOut
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state, restore_engine
from streamer.session.state_files import Cursor, read_state
from streamer.session.storage import save_state
from streamer.sources import open_capture

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)

BLACK = np.zeros(3, np.float32)
REFINE = RefineConfig(workers=2, refine_poses=True, pose_after=1)


def disturbed(frames: list[Frame]) -> list[Frame]:
    """Poses off by half a degree and a centimetre."""
    random = np.random.default_rng(5)
    moved = []
    for frame in frames:
        assert frame.c2w is not None
        noise = random.normal(size=6) * np.repeat((0.008, 0.01), 3)
        moved.append(replace(frame, c2w=frame.c2w @ offset_motion(noise)))
    return moved


def expected(engine: Engine, seq: int) -> NDArray[np.float64]:
    return engine.refiner.offsets.camera(seq, engine.refiner.views[seq].c2w)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine, _ = make_engine(refine=REFINE)
    feed(engine, disturbed(office(0, 8)))
    for _ in range(16):
        engine.refine()
    yield engine
    engine.close()


def test_readers_see_key_frames_where_refinement_has_them() -> None:
    engine, reader = make_engine(refine=REFINE)
    frames = disturbed(office(0, 8))
    feed(engine, frames)
    given = {frame.seq: frame.c2w for frame in frames}
    engine.publish()
    assert all(np.allclose(reader.cameras[seq], given[seq]) for seq in engine.keyframes)
    for _ in range(16):
        engine.refine()
    engine.publish()
    assert len(engine.keyframes) > 2
    for seq, keyframe in engine.keyframes.items():
        assert not np.allclose(reader.cameras[seq], given[seq], atol=1e-5)
        assert np.allclose(reader.cameras[seq], expected(engine, seq), atol=1e-12)
        assert np.array_equal(keyframe.c2w, reader.cameras[seq])
    # Where a chunk is, is not the camera's to say.
    for seq, chunk in engine.chunk_of_seq.items():
        assert np.allclose(engine.map.chunks[chunk].T_world_chunk, given[seq])

    before = dict(reader.cameras)
    motion = offset_motion(np.array([0.1, -0.3, 0.2, 1.0, -2.0, 0.5]))
    scaled = motion @ np.diag([2.0, 2.0, 2.0, 1.0])
    corrected = {seq: scaled @ pose for seq, pose in given.items() if pose is not None}
    engine.apply_poses(1, corrected, by="seq", upto=None)
    for seq in engine.keyframes:
        carried = scaled @ before[seq]
        carried[:3, :3] /= 2.0
        assert np.allclose(reader.cameras[seq], carried, atol=1e-9)
        assert np.allclose(reader.cameras[seq], expected(engine, seq), atol=1e-9)
    engine.close()


def test_without_it_nothing_moves() -> None:
    engine, reader = make_engine()
    frames = disturbed(office(0, 4))
    feed(engine, frames)
    for _ in range(8):
        engine.refine()
    engine.publish()
    assert not engine.refiner.offsets
    for frame in frames:
        if frame.seq in engine.keyframes:
            assert frame.c2w is not None
            assert np.allclose(reader.cameras[frame.seq], frame.c2w)
    engine.close()


def test_a_saved_engine_goes_on_with_its_cameras_to_the_bit(engine: Engine, tmp_path: Path) -> None:
    assert len(engine.refiner.offsets) == 8
    # A view that is gone left its offset.
    del engine.refiner.views[min(engine.refiner.views)]
    state = save_state(engine_state(engine), tmp_path, Cursor(epoch=1, next_seq=8, settings={}))
    restored, _ = make_engine(refine=REFINE, model=engine.model)
    restore_engine(restored, read_state(state, engine.model), {f.seq: f for f in office(0, 8)})
    for other in (engine, restored):
        for seq, view in other.refiner.views.items():
            view.c2w = engine.refiner.views[seq].c2w
        for _ in range(6):
            other.refine()
        other.publish()
    assert list(engine.refiner.offsets) == list(restored.refiner.offsets)
    for seq, offset in engine.refiner.offsets.items():
        assert np.array_equal(offset, restored.refiner.offsets[seq])
    for one, other_chunk in zip(engine.map.chunks.values(), restored.map.chunks.values()):
        assert np.array_equal(one.splats.means, other_chunk.splats.means)
    for seq, keyframe in engine.keyframes.items():
        assert np.array_equal(keyframe.c2w, restored.keyframes[seq].c2w)
    restored.close()


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wall(tmp_path_factory.mktemp("poses") / "wall")


def judge_of(root: Path) -> Judge:
    opened = open_capture(root)
    given, kept = opened.hold_out(8)
    return Judge(HeldOut.load(opened, given, kept, long_side=WIDTH))


def along_x(metres: float) -> NDArray[np.float64]:
    """The offset of a camera that stands that far to the right; the wall's look along z."""
    return np.array([0.0, 0.0, 0.0, metres, 0.0, 0.0])


def psnr_by_hand(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(-10.0 * np.log10(np.square(np.clip(a, 0.0, 1.0) - b).mean()))


def test_held_out_cameras_follow_their_neighbours_by_time(capture: Path, tmp_path: Path) -> None:
    """The map stands 2 cm to the right: cameras that stand there as well see the pictures."""
    judge = judge_of(capture)
    path = tmp_path / "shifted.ply"
    write_ply(path, shifted(wall(), 0.02))
    plain = judge.score_file(path, BLACK)[1]
    assert {view.psnr_poses for view in plain.views} == {None}
    assert plain.mean("psnr_gain_poses") is None

    # A steady drift, known exactly between two neighbours: frame 8 lies between 7 and 9.
    write_offsets(path, {1: along_x(0.02), 7: along_x(0.01), 9: along_x(0.03)})
    scores = judge.score_file(path, BLACK)[1]
    for view, before in zip(scores.views, plain.views, strict=True):
        assert (view.psnr, view.ssim, view.psnr_gain) == (
            before.psnr,
            before.ssim,
            before.psnr_gain,
        )
    first, middle, last = scores.views
    for view in (first, middle):
        assert view.psnr < 40.0
        assert view.psnr_poses is not None
        # Only the rounding of the picture to 8 bits is left.
        assert view.psnr_poses == pytest.approx(10.0 * np.log10(12.0 * 255.0**2), abs=0.5)
    # The neighbour of the last one did not move.
    assert last.psnr_poses == pytest.approx(last.psnr, abs=1e-6)

    # Nearer to the one before it, it takes more of that one's: three quarters of 1 cm, one of 3.
    stamps = {frame.seq: frame.stamp_ns for frame in judge.held_out.neighbours}
    early = replace(judge.held_out.views[1], stamp_ns=stamps[7] + (stamps[9] - stamps[7]) // 4)
    shown = judge.score_file(path, BLACK, [early])[1].views[0]
    rgb, _ = reference(shifted(wall(), 0.02 - 0.015), 8)
    by_hand = psnr_by_hand(rgb, picture_of(capture, 8))
    assert by_hand < 50.0
    assert shown.psnr_poses == pytest.approx(by_hand, abs=0.05)


def test_a_held_out_picture_is_never_looked_at_for_its_pose(capture: Path, tmp_path: Path) -> None:
    """Whatever the held-out picture shows, the camera that it is compared with is the same."""
    judge = judge_of(capture)
    path = tmp_path / "shifted.ply"
    write_ply(path, shifted(wall(), 0.02))
    write_offsets(path, {7: along_x(0.01), 9: along_x(0.01)})
    view = judge.held_out.views[1]
    grey = replace(view, image=np.full_like(view.image, 100))
    shown = judge.score_file(path, BLACK, [grey])[1].views[0]
    rgb, _ = reference(shifted(wall(), 0.01), 8)
    by_hand = psnr_by_hand(rgb, np.full(rgb.shape, 100.0 / 255.0))
    assert shown.psnr_poses == pytest.approx(by_hand, abs=1e-3)


def test_offsets_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "at_10s.ply"
    assert read_offsets(path) == {}
    random = np.random.default_rng(0)
    offsets = {17: random.normal(size=6), 3: random.normal(size=6) * 1e-9}
    write_offsets(path, offsets)
    assert poses_path(path).parent == tmp_path
    back = read_offsets(path)
    assert list(back) == [17, 3]
    assert all(np.array_equal(back[index], offsets[index]) for index in offsets)

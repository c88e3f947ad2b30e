"""The engine on real frames: hard input, budgets, pauses, repeatability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import (
    NEVER,
    Reader,
    assert_sound,
    feed,
    make_engine,
    numbered,
    office,
    refine,
    remembering,
    with_depth,
)

from gs_decoder import ChunkUpdate
from streamer.frames import Frame
from streamer.session.engine import Engine
from streamer.session.settings import EngineConfig
from ttt_core.streaming import StreamingConfig, StreamingModel

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)


def of_two_cameras() -> list[Frame]:
    pairs = zip(office(0, 8), office(0, 8, long_side=48))
    return numbered(
        frame for pair in pairs for frame in (pair[0], replace(pair[1], camera="small"))
    )


def of_one_picture() -> list[Frame]:
    return numbered(office(3, 4) * 8)


def of_pure_rotation() -> list[Frame]:
    frames = []
    for number, frame in enumerate(office(0, 8)):
        turn = np.radians(4.0 * number)
        c2w = np.eye(4)
        c2w[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)
        frames.append(replace(frame, c2w=c2w))
    return frames


def of_darkness() -> list[Frame]:
    return [replace(frame, image=np.zeros_like(frame.image)) for frame in office(0, 8)]


def wholly_masked() -> list[Frame]:
    return [replace(f, valid=np.zeros(f.image.shape[:2], np.bool_)) for f in office(0, 8)]


def masked_in_turn() -> list[Frame]:
    """Every other frame says nothing at all; the rest have no mask."""
    masked = wholly_masked()
    return [masked[n] if n % 2 else frame for n, frame in enumerate(office(0, 8))]


def with_no_depth_known() -> list[Frame]:
    return [replace(f, depth=np.zeros(f.image.shape[:2], np.float32)) for f in office(0, 8)]


def with_impossible_depth() -> list[Frame]:
    """Infinite, far beyond any sensor, negative, not a number."""
    wrong = np.array([np.inf, 1e30, -1.0, np.nan, 2.0, 1e-6], np.float32)
    frames = []
    for frame in office(0, 8):
        height, width = frame.image.shape[:2]
        frames.append(replace(frame, depth=np.resize(wrong, (height, width))))
    return frames


def of_a_line_of_pixels() -> list[Frame]:
    """Pictures of 64x3 and of one pixel in turn."""
    frames = []
    for number, frame in enumerate(office(0, 8)):
        height, width = (3, 64) if number % 2 else (1, 1)
        image = np.ascontiguousarray(frame.image[:height, :width])
        frames.append(replace(frame, image=image))
    return frames


def far_away() -> list[Frame]:
    """In UTM coordinates."""
    shift = np.eye(4)
    shift[:3, 3] = 450_000.0, 5_400_000.0, 300.0
    return [replace(frame, c2w=shift @ frame.c2w) for frame in office(0, 8)]


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (of_two_cameras, 4),
        (of_one_picture, 4),
        (of_one_picture, 1),
        (of_pure_rotation, 4),
        (of_darkness, 4),
        (wholly_masked, 4),
        (masked_in_turn, 4),
        (masked_in_turn, 1),
        (with_depth, 4),
        (with_depth, 1),
        (with_no_depth_known, 4),
        (with_impossible_depth, 4),
        (of_a_line_of_pixels, 4),
        (far_away, 3),
    ],
)
def test_no_input_makes_splats_that_cannot_be(make: Callable[[], list[Frame]], batch: int) -> None:
    engine, reader = make_engine(model=remembering())
    frames = make()
    feed(engine, frames, batch)
    assert_sound(engine, reader)
    for _ in range(4):
        engine.refine()
    assert_sound(engine, reader)
    assert engine.frames_done == len(frames)
    status = engine.status()
    assert status.psnr is None or np.isfinite(status.psnr)
    assert status.latency_ms is not None
    assert status.splats == reader.mirror.count
    engine.close()


def test_sensor_depth_sets_where_splats_are() -> None:
    engine, _ = make_engine(refine_enabled=False)
    frame = with_depth()[0]
    engine.process([frame])
    (chunk,) = engine.map.chunks.values()
    x, y, z = chunk.splats.means.numpy().T
    u = x / z * frame.K[0, 0] + frame.K[0, 2]
    v = y / z * frame.K[1, 1] + frame.K[1, 2]
    assert frame.depth is not None
    height, width = frame.depth.shape
    sensed = frame.depth[v.astype(int).clip(0, height - 1), u.astype(int).clip(0, width - 1)]
    known = sensed > 0
    assert known.sum() > 100
    assert np.median(np.abs(z[known] / sensed[known] - 1.0)) < 0.02
    engine.close()


def test_masked_pixels_make_no_splats() -> None:
    engine, reader = make_engine()
    frames = []
    for frame in office(0, 4):
        valid = np.ones(frame.image.shape[:2], np.bool_)
        valid[:, : valid.shape[1] // 2] = False
        frames.append(replace(frame, valid=valid))
    engine.process(frames)
    assert reader.mirror.count > 100
    for chunk in reader.mirror.chunks.values():
        x, _, z = chunk.splats.means.numpy().T
        u = x / z * frames[0].K[0, 0] + frames[0].K[0, 2]
        # Coarse cells may reach over the edge.
        assert u.min() > valid.shape[1] / 2 - 4
    engine.close()


def test_the_budget_holds_and_the_newest_views_stay() -> None:
    engine, reader = make_engine(chunk_budget=300, map_budget=1000)
    for start in range(0, 24, 4):
        engine.process(office(start, start + 4))
        engine.refine()
        engine.publish()
        assert engine.refiner.parameters.count <= 1000
        assert reader.mirror.count <= 1000
        assert max(chunk.count for chunk in reader.mirror.chunks.values()) <= 300
        newest = [f.chunk for f in engine.keyframes.values() if f.chunk is not None][-2:]
        assert all(reader.mirror.chunks[chunk].count > 0 for chunk in newest)
        # What there is room for is not only there, it shows: the newest view is never empty.
        latest = list(engine.keyframes.values())[-1]
        frame = office(latest.seq, latest.seq + 1)[0]
        rendered = engine.refiner.render(latest.c2w, frame.K, *frame.image.shape[1::-1])
        assert rendered is not None and rendered[2].mean() > 0.6
    assert_sound(engine, reader)
    assert engine.map.count > 500
    engine.close()


def test_key_frames_name_no_chunk_that_is_gone() -> None:
    engine, reader = make_engine(chunk_budget=300, map_budget=400)
    feed(engine, office(0, 4))
    first = dict(reader.chunks)
    for start in range(4, 24, 4):
        feed(engine, office(start, start + 4))
    gone = [seq for seq, chunk in first.items() if chunk not in reader.mirror.chunks]
    assert gone
    assert all(reader.chunks[seq] is None for seq in gone)
    assert_sound(engine, reader)
    engine.close()


def test_a_budget_of_less_than_the_newest_views_holds_too() -> None:
    engine, reader = make_engine(chunk_budget=300, map_budget=400)
    for start in range(0, 16, 4):
        engine.process(office(start, start + 4))
        assert engine.refiner.parameters.count <= 400
        assert_sound(engine, reader)
        newest = [f.chunk for f in engine.keyframes.values() if f.chunk is not None][-1]
        assert reader.mirror.chunks[newest].count > 0
    engine.close()


def test_redundant_frames_are_done_and_make_no_key_frames() -> None:
    engine, reader = make_engine()
    feed(engine, office(0, 8))
    held = len(engine.keyframes), reader.mirror.count
    feed(engine, numbered(office(0, 8), first=8))
    assert (len(engine.keyframes), reader.mirror.count) == held
    assert engine.frames_done == 16
    # They serve refinement all the same.
    assert len(engine.refiner.views) == 16
    engine.close()


def test_refinement_ends_by_itself_and_begins_again_with_what_is_new() -> None:
    engine, _ = make_engine(chunk_budget=100, idle_steps=None)
    engine.process(office(0, 2, long_side=32))
    steps = 0
    while engine.wants_refinement:
        engine.refine()
        steps += 1
        assert steps < 20_000
    assert steps > 300
    engine.process(office(2, 4, long_side=32))
    assert engine.wants_refinement
    engine.close()


def test_the_state_of_the_model_does_not_grow() -> None:
    kept = 6
    # One sub-map: that several are bounded is for tests of theirs to show.
    config = StreamingConfig(kept_views=kept, recent_views=2, kept_records=kept, submap_reach=1e9)
    model = StreamingModel(config).eval()
    engine = Engine(EngineConfig(refine_enabled=False), model=model.requires_grad_(False))
    sizes, totals = [], []
    for start in range(0, 24, 4):
        frames = office(start, start + 4)
        # Far apart, so that every one is a key frame.
        for frame in frames:
            assert frame.c2w is not None
            frame.c2w[:3, 3] *= 3.0
        engine.process(frames)
        sizes.append(engine.model_state.memory.nbytes)
        totals.append(engine.model_state.nbytes)
        assert len(engine.model_state.views) <= kept
        assert len(engine.model_state.records) <= kept
    assert len(engine.keyframes) > kept + 8
    assert len(set(sizes)) == 1
    assert len(set(totals[-4:])) == 1
    engine.close()


def test_the_same_frames_make_the_same_map_to_the_bit() -> None:
    def once() -> tuple[Engine, Reader]:
        engine, reader = make_engine(model=remembering())
        for start in range(0, 16, 4):
            engine.process(office(start, start + 4))
            for _ in range(3):
                engine.refine()
        engine.publish()
        engine.close()
        return engine, reader

    (engine, reader), (twin, second) = once(), once()
    assert reader.mirror.count > 500
    assert reader.mirror.equals(second.mirror)
    mine, others = engine.model_state.to_tensors(), twin.model_state.to_tensors()
    assert mine.keys() == others.keys()
    assert all(np.array_equal(mine[name], others[name]) for name in mine)


def test_nothing_leaves_a_paused_engine() -> None:
    engine, reader = make_engine()
    feed(engine, office(0, 4))
    for _ in range(3):
        engine.refine()
    engine.paused = True
    assert not engine.wants_refinement
    came = len(reader.log)
    engine.publish()
    cameras = dict(reader.cameras)
    outcome = engine.apply_poses(1, {0: np.eye(4)}, by="seq", upto=None)
    assert outcome.moved > 0
    engine.publish()
    assert len(reader.log) == came
    assert all(reader.cameras[seq] is pose for seq, pose in cameras.items())
    engine.paused = False
    engine.publish()
    assert len(reader.log) > came
    assert np.array_equal(reader.cameras[0], np.eye(4))
    assert_sound(engine, reader)
    engine.close()


def test_refined_chunks_are_not_sent_with_every_batch() -> None:
    engine, reader = make_engine(chunk_interval=NEVER)
    for start in range(0, 12, 4):
        engine.process(office(start, start + 4))
        refine(engine, 2)
    sent = [update.chunk.id for update in reader.log if isinstance(update, ChunkUpdate)]
    assert len(sent) == len(set(sent)) > 1
    # New ones were not held back by that.
    assert set(sent) == set(engine.map.chunks)
    assert_sound(engine, reader)
    engine.close()


def test_reset_forgets_everything() -> None:
    engine, _ = make_engine(model=remembering())
    feed(engine, office(0, 8))
    engine.reset()
    assert engine.frames_done == len(engine.keyframes) == engine.map.count == 0
    assert not engine.wants_refinement
    engine.outbox = reader = Reader()
    feed(engine, office(4, 8))
    fresh, expected = make_engine(model=engine.model)
    feed(fresh, office(4, 8))
    assert reader.mirror.equals(expected.mirror)
    engine.close()
    fresh.close()

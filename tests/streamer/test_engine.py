"""The engine on real frames: hard input, budgets, corrections, pauses, repeatability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import (
    NEVER,
    Reader,
    feed,
    make_engine,
    mean_psnr,
    numbered,
    office,
    picture,
)

from gs_decoder import ChunkUpdate, MoveUpdate, psnr
from streamer.frames import Frame
from streamer.session.corrections import StaleRevision, rigid
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


def with_depth() -> list[Frame]:
    """Of a slanted wall, with holes; every third frame brings none."""
    frames = []
    for number, frame in enumerate(office(0, 8)):
        height, width = frame.image.shape[:2]
        depth = np.linspace(1.5, 3.0, width, dtype=np.float32)[None].repeat(height, 0)
        depth[: height // 3, : width // 3] = 0.0
        frames.append(frame if number % 3 == 2 else replace(frame, depth=depth))
    return frames


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


def assert_sound(engine: Engine, reader: Reader) -> None:
    """Finite splats, and everybody holds the same."""
    engine.publish()
    for chunk in engine.map.chunks.values():
        chunk.splats.check_values()
        assert chunk.count > 0
    assert engine.map.count == engine.refiner.parameters.count
    assert reader.mirror.equals(engine.map)
    assert set(reader.cameras) == set(engine.keyframes)
    assert {c for c in reader.chunks.values() if c is not None} == set(reader.mirror.chunks)


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
    engine, reader = make_engine()
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
    engine.process(office(0, 2))
    steps = 0
    while engine.wants_refinement:
        engine.refine()
        steps += 1
        assert steps < 20_000
    assert steps > 300
    engine.process(office(2, 4))
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
        engine, reader = make_engine()
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
    engine, _ = make_engine()
    feed(engine, office(0, 8))
    engine.reset()
    assert engine.frames_done == len(engine.keyframes) == engine.map.count == 0
    assert not engine.wants_refinement
    engine.outbox = reader = Reader()
    feed(engine, office(4, 8))
    fresh, expected = make_engine()
    feed(fresh, office(4, 8))
    assert reader.mirror.equals(expected.mirror)
    engine.close()
    fresh.close()


# Corrections ---------------------------------------------------------------------------------


def motion(scale: float, shift: tuple[float, float, float]) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]]) * scale
    turn[:3, 3] = shift
    return turn


MOTIONS = {
    "rigid": motion(1.0, (3.0, -1.0, 2.0)),
    "scaled": motion(1.7, (3.0, -1.0, 2.0)),
    "georeferenced": motion(1.0, (450_000.0, 5_400_000.0, 300.0)),
}


def refine(engine: Engine, steps: int) -> None:
    for _ in range(steps):
        engine.refine()


@pytest.fixture(scope="module")
def uncorrected() -> float:
    """PSNR of all 16 frames' map where nothing was corrected, as a measure."""
    engine, reader = make_engine()
    frames = office(0, 16)
    feed(engine, frames[:12])
    refine(engine, 30)
    feed(engine, frames[12:])
    refine(engine, 30)
    engine.publish()
    engine.close()
    return mean_psnr(reader.mirror, frames, {f.seq: f.c2w for f in frames})


@pytest.mark.parametrize("name", MOTIONS)
def test_a_corrected_map_looks_the_same_from_corrected_cameras(
    name: str, uncorrected: float
) -> None:
    engine, reader = make_engine()
    frames = office(0, 12)
    feed(engine, frames)
    refine(engine, 20)
    engine.publish()
    before = {f.seq: picture(reader.mirror, f) for f in frames}
    quality = mean_psnr(reader.mirror, frames, {f.seq: f.c2w for f in frames})
    chunks = dict(reader.mirror.chunks)
    came = len(reader.log)
    world = MOTIONS[name]
    named = {f.seq: world @ f.c2w for f in frames[::5]}
    outcome = engine.apply_poses(1, named, by="seq", upto=None)
    assert (outcome.moved, outcome.unknown) == (len(chunks), [])

    # One message of moves, splats untouched.
    (update,) = reader.log[came:]
    assert isinstance(update, MoveUpdate)
    for identity, chunk in reader.mirror.chunks.items():
        assert chunk.content == chunks[identity].content
        assert chunk.revision > chunks[identity].revision
        assert chunk.splats.equals(chunks[identity].splats)
    cameras = {f.seq: rigid(world @ f.c2w) for f in frames}
    for frame in frames:
        assert psnr(picture(reader.mirror, frame, cameras[frame.seq]), before[frame.seq]) > 45.0
    for seq, camera in reader.cameras.items():
        assert np.allclose(camera, cameras[seq], atol=1e-6)

    # Refinement holds the same map, and goes on from it.
    refine(engine, 10)
    assert_sound(engine, reader)
    assert any(isinstance(update, ChunkUpdate) for update in reader.log[came + 1 :])
    assert mean_psnr(reader.mirror, frames, cameras) > quality - 0.1

    # Frames given in the corrected world fit in as they would have in the old one.
    later = [replace(f, c2w=rigid(world @ f.c2w)) for f in office(12, 16)]
    feed(engine, later)
    refine(engine, 30)
    assert_sound(engine, reader)
    cameras |= {f.seq: f.c2w for f in later}
    # So few steps leave half a decibel to chance (seeds 0-3); frames out of place cost more.
    assert mean_psnr(reader.mirror, frames + later, cameras) > uncorrected - 1.0
    engine.close()


def test_refined_splats_keep_their_place_in_a_moved_map() -> None:
    """What refinement holds and what was published are one map, wherever it was moved to."""
    engine, reader = make_engine()
    frames = office(0, 8)
    feed(engine, frames)
    for revision, world in enumerate(MOTIONS.values()):
        poses = {seq: world @ engine.trajectory.pose(seq) for seq in range(8)}
        engine.apply_poses(revision, poses, by="seq", upto=None)
        pose = rigid(engine.trajectory.pose(5))
        height, width = frames[5].image.shape[:2]
        rendered = engine.refiner.render(pose, frames[5].K, width, height)
        assert rendered is not None
        seen = picture(reader.mirror, frames[5], pose)
        background = engine.refiner.background * (1.0 - rendered[2])[..., None]
        assert psnr(rendered[0] - background, seen) > 45.0
    engine.close()


def test_sensor_depth_grows_with_a_scaled_world() -> None:
    engine, reader = make_engine()
    frames = with_depth()
    feed(engine, frames[:4])
    kept = {view.key: view.depth for view in engine.model_state.views}
    engine.apply_poses(
        1, {s: MOTIONS["scaled"] @ frames[s].c2w for s in range(4)}, by="seq", upto=7
    )
    # What the prior compares with has grown as well.
    assert kept
    for view in engine.model_state.views:
        assert np.allclose(view.depth, 1.7 * kept[view.key], rtol=1e-5)
        assert np.allclose(view.c2w, rigid(MOTIONS["scaled"] @ frames[view.key].c2w))
    feed(engine, frames[4:])
    for frame in frames:
        depth = engine.refiner.views[frame.seq].depth
        if frame.depth is None:
            assert depth is None
        else:
            assert np.allclose(depth, 1.7 * frame.depth)
    for _ in range(4):
        engine.refine()
    assert_sound(engine, reader)
    engine.close()


def test_unknown_and_stale_corrections_change_nothing() -> None:
    engine, reader = make_engine()
    feed(engine, office(0, 8))
    came = len(reader.log)
    outcome = engine.apply_poses(5, {77: np.eye(4), 99: np.eye(4)}, by="seq", upto=None)
    assert (outcome.moved, outcome.unknown) == (0, [77, 99])
    for revision in (5, 4):
        with pytest.raises(StaleRevision, match="revision"):
            engine.apply_poses(revision, {0: np.eye(4)}, by="seq", upto=None)
    assert len(reader.log) == came
    assert_sound(engine, reader)
    engine.close()


def drifted(frames: list[Frame], degrees: float, metres: float, *, at_once: bool) -> list[Frame]:
    """As a tracker would have it that loses its way: more and more, or all at once half way."""
    found = []
    for number, frame in enumerate(frames):
        share = number / (len(frames) - 1)
        if at_once:
            share = float(number >= len(frames) // 2)
        angle = np.radians(degrees) * share
        drift = np.eye(4)
        drift[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        drift[:3, 3] = metres * share
        found.append(replace(frame, c2w=drift @ frame.c2w))
    return found


@pytest.mark.parametrize(
    ("degrees", "metres", "at_once", "loss_db"), [(1.0, 0.03, False, 2.0), (10.0, 0.5, True, 0.7)]
)
def test_a_corrected_drift_renders_as_if_the_poses_had_been_right(
    degrees: float, metres: float, at_once: bool, loss_db: float
) -> None:
    """Seen from the true cameras, after as much refinement. Where neighbours were wrong among
    themselves the matching saw less, and that stays."""
    frames = office(0, 24)
    cameras = {frame.seq: frame.c2w for frame in frames}
    wrong = drifted(frames, degrees, metres, at_once=at_once)
    quality = {}
    for name, poses in (("right", frames), ("corrected", wrong), ("wrong", wrong)):
        engine, reader = make_engine()
        feed(engine, poses)
        refine(engine, 20)
        if name == "corrected":
            engine.apply_poses(1, cameras, by="seq", upto=23)
            for seq, chunk in engine.chunk_of_seq.items():
                assert np.allclose(engine.map.chunks[chunk].T_world_chunk, cameras[seq], atol=1e-6)
            for seq, view in engine.refiner.views.items():
                assert np.allclose(view.c2w, cameras[seq], atol=1e-6)
        refine(engine, 80)
        engine.publish()
        quality[name] = mean_psnr(reader.mirror, frames, cameras)
        assert_sound(engine, reader)
        engine.close()
    assert quality["corrected"] > quality["right"] - loss_db
    assert quality["corrected"] > quality["wrong"] + 2.0

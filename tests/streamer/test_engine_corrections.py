"""Corrected poses move an engine's map: it looks as if they had been right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import (
    assert_sound,
    feed,
    make_engine,
    mean_psnr,
    office,
    picture,
    refine,
    remembering,
    with_depth,
)

from gs_decoder import ChunkUpdate, MoveUpdate, psnr
from streamer.frames import Frame
from streamer.session.corrections import StaleRevision, rigid

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)


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


@pytest.fixture(scope="module")
def uncorrected() -> float:
    """PSNR of all 16 frames' map where nothing was corrected, as a measure."""
    engine, reader = make_engine(model=remembering())
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
    engine, reader = make_engine(model=remembering())
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


def quality(poses: list[Frame], corrected: bool = False) -> float:
    """PSNR from the true cameras, where the map was made with `poses` and perhaps corrected."""
    cameras = {frame.seq: frame.c2w for frame in office(0, 24)}
    engine, reader = make_engine()
    feed(engine, poses)
    refine(engine, 20)
    if corrected:
        engine.apply_poses(1, cameras, by="seq", upto=23)
        for seq, chunk in engine.chunk_of_seq.items():
            assert np.allclose(engine.map.chunks[chunk].T_world_chunk, cameras[seq], atol=1e-6)
        for seq, view in engine.refiner.views.items():
            assert np.allclose(view.c2w, cameras[seq], atol=1e-6)
    refine(engine, 40)
    engine.publish()
    found = mean_psnr(reader.mirror, office(0, 24), cameras)
    assert_sound(engine, reader)
    engine.close()
    return found


@pytest.fixture(scope="module")
def right() -> float:
    return quality(office(0, 24))


@pytest.mark.parametrize(
    ("degrees", "metres", "at_once", "loss_db"), [(1.0, 0.03, False, 2.0), (10.0, 0.5, True, 0.7)]
)
def test_a_corrected_drift_renders_as_if_the_poses_had_been_right(
    degrees: float, metres: float, at_once: bool, loss_db: float, right: float
) -> None:
    """Seen from the true cameras, after as much refinement. Where neighbours were wrong among
    themselves the matching saw less, and that stays."""
    wrong = drifted(office(0, 24), degrees, metres, at_once=at_once)
    corrected = quality(wrong, corrected=True)
    assert corrected > right - loss_db
    assert corrected > quality(wrong) + 2.0

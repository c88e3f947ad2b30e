"""Cameras found while a map is refined: the step, what holds it, and what becomes of it."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gs_decoder import Splats
from gs_decoder.refine import (
    PoseOffsets,
    RefineConfig,
    Refiner,
    RefineView,
    offset_motion,
    refiner_state,
    restore_refiner,
)
from gs_decoder.refine.poses import PoseEvidence, align, carried
from gs_decoder.refine.renderers import NumbaViewRenderer, TorchViewRenderer

Float64 = NDArray[np.float64]

WIDTH, HEIGHT = 80, 60
K = np.array([[70.0, 0, 41.0], [0, 68.0, 28.5], [0, 0, 1]])
VIEWS = 30


def scene() -> Splats:
    """A bumpy wall of blobs that fills every view, about 2 units away."""
    x, y = np.meshgrid(np.linspace(-2.4, 2.4, 48), np.linspace(-1.8, 1.8, 36))
    random = np.random.default_rng(0)
    z = 2.0 + 0.6 * np.sin(2.1 * x) * np.cos(1.7 * y)
    colour = random.normal(0.0, 1.0, (x.size, 1, 3))
    count = x.size
    return Splats(
        means=torch.tensor(np.stack([x, y, z], -1).reshape(-1, 3), dtype=torch.float32),
        quats_wxyz=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        scales=torch.full((count, 3), 0.08),
        opacities=torch.full((count,), 0.95),
        sh=torch.tensor(colour, dtype=torch.float32),
    )


def rig(**options: object) -> Refiner:
    refiner = Refiner(NumbaViewRenderer(2), RefineConfig(**{"workers": 2, **options}))  # type: ignore[arg-type]
    refiner.add_splats(0, scene())
    return refiner


def cameras() -> list[Float64]:
    """Right ones, around the middle of the wall."""
    random = np.random.default_rng(7)
    spread = np.array([0.08, 0.1, 0.3, 0.3, 0.25, 0.1])
    return [offset_motion(random.uniform(-1.0, 1.0, 6) * spread) for _ in range(VIEWS)]


def disturbances(seed: int, turn: float = 0.008, shift: float = 0.016) -> list[Float64]:
    """Half a degree and 16 thousandths, which together do nothing."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(VIEWS, 6)) * np.repeat((turn, shift), 3) / np.sqrt(3.0)
    return list(noise - noise.mean(axis=0))


def add_views(refiner: Refiner, noise: list[Float64]) -> None:
    """Pictures from the right cameras, said to be taken from disturbed ones."""
    for key, (camera, wrong) in enumerate(zip(cameras(), noise, strict=True)):
        rendered = refiner.render(camera, K, WIDTH, HEIGHT)
        assert rendered is not None
        assert (rendered[2] > 0.9).mean() > 0.99
        image = (np.clip(rendered[0], 0, 1) * 255 + 0.5).astype(np.uint8)
        c2w = camera @ np.linalg.inv(offset_motion(wrong))
        refiner.add_view(RefineView(key=key, image=image, K=K, c2w=c2w))


def pixels_off(refiner: Refiner) -> float:
    """Root mean square, over views and what they see, of how far off its place in the picture a
    point is drawn. A turn and a shift that look alike may stand for each other."""
    means = scene().means.numpy().astype(np.float64)
    squares = []
    for key, right in enumerate(cameras()):
        found = refiner.offsets.camera(key, refiner.views[key].c2w)
        (u, seen), (v, _) = (_project(means, c2w) for c2w in (right, found))
        squares.append(np.square(u - v).sum(axis=1)[seen].mean())
    return float(np.sqrt(np.mean(squares)))


def _project(points: Float64, c2w: Float64) -> tuple[Float64, NDArray[np.bool_]]:
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    pixels = (local / local[:, 2:]) @ K.T
    return pixels[:, :2], ((pixels[:, :2] > 0) & (pixels[:, :2] < (WIDTH, HEIGHT))).all(axis=1)


@settings(deadline=None)
@given(st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6))
def test_an_offset_is_a_rotation_vector_and_a_translation(values: list[float]) -> None:
    motion = offset_motion(np.array(values))
    assert np.allclose(motion[:3, :3], cv2.Rodrigues(np.array(values[:3]))[0], atol=1e-12)
    assert np.array_equal(motion[:3, 3], values[3:])
    assert np.array_equal(motion[3], (0, 0, 0, 1))


@pytest.mark.parametrize("axis", range(6))
def test_one_step_finds_a_small_motion_along_each_axis(axis: int) -> None:
    refiner = rig()
    camera = cameras()[4]
    there = np.zeros(6)
    there[axis] = 0.003 if axis < 3 else 0.006
    taken = refiner.render(camera @ offset_motion(there), K, WIDTH, HEIGHT)
    rendered = refiner.render(camera, K, WIDTH, HEIGHT)
    assert taken is not None
    assert rendered is not None
    rgb, depth, alpha = rendered
    evidence = align(rgb, taken[0], depth, alpha > 0.9, K)
    assert evidence is not None
    assert evidence.depth == pytest.approx(np.median(depth), rel=1e-3)
    found = np.linalg.solve(evidence.curvature, evidence.slope)
    found[3:] *= evidence.depth
    after = refiner.render(camera @ offset_motion(found), K, WIDTH, HEIGHT)
    assert after is not None
    # In the picture: a turn and a shift that look alike may stand for each other. In the middle of
    # the errors: splats that change their order are no motion.
    before = np.median(np.abs(rgb - taken[0]))
    assert before > 1e-3
    assert np.median(np.abs(after[0] - taken[0])) < 0.2 * before
    refiner.close()


def test_masked_pixels_say_nothing_of_the_pose() -> None:
    refiner = rig()
    camera = cameras()[4]
    rendered = refiner.render(camera, K, WIDTH, HEIGHT)
    taken = refiner.render(camera @ offset_motion(np.array([0, 0.004, 0, 0, 0, 0])), K, WIDTH, 60)
    assert rendered is not None
    assert taken is not None
    rgb, depth, _ = rendered
    shown = np.ones((HEIGHT, WIDTH), np.bool_)
    shown[:, :30] = False
    clean = align(rgb, taken[0], depth, shown, K)
    spoiled = taken[0].copy()
    spoiled[:, :30] = np.random.default_rng(1).random((HEIGHT, 30, 3))
    masked = align(rgb, spoiled, depth, shown, K)
    assert clean is not None
    assert masked is not None
    assert np.array_equal(clean.curvature, masked.curvature)
    assert np.array_equal(clean.slope, masked.slope)
    everything = align(rgb, spoiled, depth, np.ones_like(shown), K)
    assert everything is not None
    assert not np.allclose(everything.slope, masked.slope, rtol=0.1, atol=0.0)
    # Nothing to see, and nothing in what is seen.
    assert align(rgb, taken[0], depth, np.zeros_like(shown), K) is None
    grey = np.full_like(rgb, 0.5)
    assert align(grey, grey, depth, shown, K) is None
    refiner.close()


def test_refinement_brings_disturbed_cameras_back() -> None:
    psnrs = []
    for refine_poses in (True, False):
        # Harmonics would explain a part of it away.
        refiner = rig(refine_poses=refine_poses, dropout_views=0.0, sh_degree=0)
        add_views(refiner, disturbances(1))
        before = pixels_off(refiner)
        assert before > 0.5
        for _ in range(150):
            refiner.step()
        if refine_poses:
            assert pixels_off(refiner) < 0.5 * before
        else:
            assert not refiner.offsets
        psnrs.append(refiner.psnr() or 0.0)
        refiner.close()
    assert psnrs[0] > psnrs[1] + 1.0


def test_right_cameras_stay_where_they_are() -> None:
    refiner = rig(refine_poses=True)
    add_views(refiner, [np.zeros(6)] * VIEWS)
    for _ in range(150):
        refiner.step()
    assert len(refiner.offsets) == VIEWS
    # Pictures are rounded, splats left out and the map moves as well: not nothing, but little.
    assert pixels_off(refiner) < 0.15
    refiner.close()


def test_a_camera_waits_until_its_view_was_looked_at() -> None:
    refiner = rig(refine_poses=True, pose_after=3, workers=1)
    add_views(refiner, disturbances(2))
    for _ in range(4 * VIEWS + 10):
        refiner.step()
        looked_at = {key for key, view in refiner.views.items() if view.visits > 3}
        assert set(refiner.offsets) == looked_at
    assert looked_at
    refiner.close()


def test_both_renderers_find_the_same_evidence() -> None:
    refiner = rig()
    add_views(refiner, disturbances(3))
    view = refiner.views[2]
    view.log_gain = np.array([0.1, -0.05, 0.02], np.float32)
    arguments = (0, refiner.parameters, refiner.view_matrix(view.c2w), view)
    options = {"background": refiner.background, "ssim_weight": 0.2, "depth_weight": 0.0}
    kernels = NumbaViewRenderer(1).gradient(*arguments, **options, find_pose=True)  # type: ignore[arg-type]
    autograd = TorchViewRenderer("reference", "cpu").gradient(*arguments, **options, find_pose=True)  # type: ignore[arg-type]
    assert kernels.pose is not None
    assert autograd.pose is not None
    for name in ("curvature", "slope"):
        ours, theirs = getattr(kernels.pose, name), getattr(autograd.pose, name)
        assert np.linalg.norm(ours - theirs) < 2e-3 * np.linalg.norm(theirs), name
    assert NumbaViewRenderer(1).gradient(*arguments, **options).pose is None  # type: ignore[arg-type]
    refiner.close()


def test_the_same_seed_gives_the_same_cameras_and_a_restored_refiner_goes_on_to_the_bit() -> None:
    one, other = rig(refine_poses=True), rig(refine_poses=True)
    for refiner in (one, other):
        add_views(refiner, disturbances(4))
        for _ in range(60):
            refiner.step()
    assert len(one.offsets) > VIEWS // 2
    assert list(one.offsets) == list(other.offsets)
    assert all(np.array_equal(one.offsets[key], other.offsets[key]) for key in one.offsets)

    state = refiner_state(one)
    views = {key: dataclasses.replace(view) for key, view in one.views.items()}
    restored = Refiner(NumbaViewRenderer(2), one.config)
    restore_refiner(restored, state, views)
    assert restored.offsets.take_changed(range(VIEWS)) == sorted(one.offsets)
    for refiner in (one, restored):
        for _ in range(20):
            refiner.step()
    assert list(one.offsets) == list(restored.offsets)
    assert all(np.array_equal(one.offsets[key], restored.offsets[key]) for key in one.offsets)
    assert np.array_equal(one.parameters.splats().means, restored.parameters.splats().means)
    for refiner in (one, other, restored):
        refiner.close()


def test_a_correction_carries_offsets_along_and_scales_them() -> None:
    refiner = rig(refine_poses=True)
    add_views(refiner, disturbances(5))
    for _ in range(30):
        refiner.step()
    before = {
        key: refiner.offsets.camera(key, view.c2w).copy() for key, view in refiner.views.items()
    }
    motion = offset_motion(np.array([0.3, -0.2, 0.5, 1.0, 2.0, -0.7]))
    motion[:3, :3] *= 1.5
    corrected = {}
    for key, view in refiner.views.items():
        corrected[key] = motion @ view.c2w
        corrected[key][:3, :3] /= 1.5
    del refiner.views[3]
    refiner.move_views(corrected, dict.fromkeys(corrected, 1.5))
    for key, camera in before.items():
        expected = motion @ camera
        expected[:3, :3] /= 1.5
        assert np.allclose(refiner.offsets.camera(key, corrected[key]), expected, atol=1e-12)
    refiner.close()


def evidence(best: Float64, depth: float = 1.0) -> PoseEvidence:
    """A picture that says exactly this of the camera, all directions alike."""
    return PoseEvidence(np.eye(6), best, depth)


def held(**options: float) -> PoseOffsets:
    """Offsets that never come to rest and that nothing holds, but for `options`."""
    usual = {"share": 0.5, "settling": 1e12, "hold": 0.0, "alike": 0.0, "bound": 1.0}
    return PoseOffsets(**{**usual, **options}, reach=3)


def test_offsets_are_drawn_to_their_neighbours_and_to_nothing_without_any() -> None:
    """Where picture and hold balance: curvature x (best - offset) = alike x (offset - mean)."""
    offsets = held(alike=0.5)
    best, beside = np.full(6, 0.03), [np.full(6, 0.01), np.full(6, 0.02)]
    for near, expected in ((beside, (0.03 + 0.5 * 0.015) / 1.5), ([], 0.03 / 1.5)):
        for _ in range(60):
            missing = best - offsets.get(0, np.zeros(6))
            offsets.learn(0, evidence(missing), near=near)
        assert np.allclose(offsets[0], expected, rtol=1e-6)


def test_what_one_visit_has_by_chance_counts_less_and_less() -> None:
    """Noise of one picture's size moves a camera by its tenth in the end, and not by its half."""
    random = np.random.default_rng(0)
    moved = {}
    for settling in (1e12, 8.0):
        offsets, places = held(settling=settling), []
        for visit in range(200):
            missing = random.normal(0.0, 0.01, 6) - offsets.get(0, np.zeros(6))
            offsets.learn(0, evidence(missing), before=visit)
            places.append(offsets[0].copy())
        moved[settling] = float(np.std(places[100:]))
    assert moved[8.0] < 0.25 * moved[1e12]


@settings(deadline=None)
@given(st.lists(st.floats(-0.02, 0.02), min_size=6, max_size=6), st.integers(0, 2**31))
def test_an_offset_is_carried_to_a_camera_of_the_same_rig(values: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    first = offset_motion(random.normal(size=6))
    second = first @ offset_motion(random.normal(size=6) * np.repeat((1.0, 0.3), 3))
    offset = np.array(values)
    moved = first @ offset_motion(offset) @ np.linalg.inv(first) @ second
    found = second @ offset_motion(carried(offset, np.linalg.inv(second) @ first))
    assert np.allclose(found, moved, atol=2e-3)
    assert np.linalg.norm(found - moved) <= 0.1 * np.linalg.norm(moved - second) + 1e-12


def test_neighbours_are_the_nearest_on_either_side_that_were_found() -> None:
    offsets = held()
    views = {
        key: RefineView(key=key, image=np.zeros((4, 4, 3), np.uint8), K=K, c2w=np.eye(4))
        for key in (2, 4, 5, 6, 9, 13)
    }
    offsets.restore({key: np.full(6, float(key)) for key in (2, 4, 7, 9, 13)})
    assert [near[0] for near in offsets.near(views[5], views)] == [4.0]
    assert [near[0] for near in offsets.near(views[6], views)] == [4.0, 9.0]
    assert offsets.near(views[13], views) == []
    assert [near[0] for near in offsets.near(views[4], views)] == [2.0]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1.0, 1.0), st.floats(0.1, 50.0)), max_size=30),
)
def test_offsets_stay_within_their_bound_and_changes_are_told_once(
    steps: list[tuple[float, float]],
) -> None:
    offsets = held(hold=0.1, bound=0.03)
    for motion, depth in steps:
        offsets.learn(7, evidence(np.full(6, motion), depth))
        assert np.abs(offsets[7][:3]).max() <= 0.03
        assert np.abs(offsets[7][3:]).max() <= 0.03 * depth * (1.0 + 1e-12)
    offsets.learn(3, evidence(np.zeros(6)))
    assert offsets.take_changed(range(5)) == [3]
    assert offsets.take_changed(range(5)) == []


def test_what_a_picture_says_little_of_is_held_back() -> None:
    """Where hold and picture balance: curvature x (best - offset) = hold x mean x offset."""
    offsets = held(hold=0.1)
    best = np.array([0.01, -0.02, 0.005, 0.02, 0.01, -0.01])
    known = np.array([2.0, 2.0, 1.0, 0.9, 0.09, 0.01])
    unit = np.repeat((1.0, 2.0), 3)
    for _ in range(80):
        missing = best - offsets.get(0, np.zeros(6)) / unit
        offsets.learn(0, PoseEvidence(np.diag(known), known * missing, 2.0))
    assert np.allclose(offsets[0], known / (known + 0.1) * best * unit, rtol=1e-6)

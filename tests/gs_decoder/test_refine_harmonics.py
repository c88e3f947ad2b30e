"""Colours by direction under refinement: gradients, motion, storage, and what is learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder import Splats, evaluate_sh
from gs_decoder.raster import rasterize
from gs_decoder.refine import (
    RefineConfig,
    Refiner,
    RefineView,
    SplatParameters,
    put_back,
    refiner_state,
    resting_rows,
    resting_splats,
    restore_refiner,
)
from gs_decoder.refine.adam import COLUMNS
from gs_decoder.refine.harmonics import accumulate_harmonics, harmonic_columns
from gs_decoder.refine.renderers import NumbaViewRenderer, TorchViewRenderer

WIDTH, HEIGHT = 48, 32
K = np.array([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]])
DEGREES = st.integers(0, 3)


def coloured(seed: int, degree: int, count: int = 200, strength: float = 0.3) -> Splats:
    """Splats in front of the origin whose colours stay positive."""
    rng = np.random.default_rng(seed)
    sh = rng.normal(0, 0.1, (count, (degree + 1) ** 2, 3))
    sh[:, 1:] *= strength / 0.1
    sh[:, 0] += 1.0
    fields = {
        "means": rng.uniform([-1.2, -0.8, 1.5], [1.2, 0.8, 3.0], (count, 3)),
        "quats_wxyz": rng.normal(size=(count, 4)),
        "scales": rng.uniform(0.03, 0.15, (count, 3)),
        "opacities": rng.uniform(0.2, 0.9, count),
        "sh": sh,
    }
    return Splats.from_numpy({name: value.astype(np.float32) for name, value in fields.items()})


def store(splats: Splats, degree: int | None = None) -> SplatParameters:
    parameters = SplatParameters(splats.count, splats.sh_degree if degree is None else degree)
    parameters.add(0, splats)
    return parameters


def turned(angle: float, shift: tuple[float, float, float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = [
        [math.cos(angle), 0, math.sin(angle)],
        [0, 1, 0],
        [-math.sin(angle), 0, math.cos(angle)],
    ]
    pose[:3, 3] = shift
    return pose


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), DEGREES)
def test_colours_and_their_gradient_are_those_of_the_harmonics(seed: int, degree: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = store(coloured(seed, degree, 9))
    center = rng.normal(0, 3, 3).astype(np.float32)
    sh = parameters.splats().sh.double().requires_grad_()
    means = torch.from_numpy(parameters.means[:9]).double()
    away = torch.nn.functional.normalize(means - torch.from_numpy(center).double(), dim=-1)
    # Far above 0, where nothing is clamped.
    lift = torch.zeros_like(sh)
    lift[:, 0] = 100.0
    expected = evaluate_sh(sh + lift, away) - 100.0 * 0.28209479177387814
    some = np.array([1, 4, 8])
    seen = parameters.seen_from(center, some)
    assert np.allclose(seen, expected.detach().numpy()[some], atol=1e-5)
    d_colors = rng.normal(size=(9, 3)).astype(np.float32)
    (d_sh,) = torch.autograd.grad(expected, sh, torch.from_numpy(d_colors).double())
    gradient = np.ones_like(parameters.rows)
    if degree:
        which = np.arange(2, 9)
        accumulate_harmonics(
            0, 5, center, degree, parameters.rows, gradient, which, d_colors[which]
        )
        added = gradient[2:7, COLUMNS:].reshape(5, -1, 3) - 1.0
        assert np.allclose(added, d_sh[2:7, 1:].numpy(), atol=1e-5)
    assert (gradient[:, :COLUMNS] == 1.0).all(), "the rest of a row is the other kernel's"
    assert (gradient[[0, 1, 7, 8]] == 1.0).all(), "others' splats are left alone"


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_view_is_what_the_rasteriser_makes_of_the_harmonics(degree: int) -> None:
    # The rasteriser clamps colours at 0, refinement does not: these stay above.
    parameters = store(coloured(3, degree, strength=0.1))
    splats = parameters.splats()
    viewmat = np.linalg.inv(turned(0.2, (0.4, -0.1, 0.2))).astype(np.float32)
    rgb, _, _ = NumbaViewRenderer(1).render(
        parameters, viewmat, K.astype(np.float32), WIDTH, HEIGHT, np.zeros(3, np.float32)
    )
    expected = rasterize(
        splats.means, splats.quats_wxyz, splats.scales, splats.opacities, splats.sh,
        torch.from_numpy(viewmat), torch.tensor(K, dtype=torch.float32), WIDTH, HEIGHT,
        sh_degree=degree, backend="reference",
    )  # fmt: skip
    assert np.abs(rgb - expected.rgb.numpy()).max() < 1e-3


def test_kernels_and_autograd_agree_on_a_view_with_harmonics() -> None:
    parameters = store(coloured(4, 2))
    pose = turned(-0.1, (0.3, 0.1, 0.0))
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    view = RefineView(key=0, image=image, K=K, c2w=pose)
    arguments = (0, parameters, np.linalg.inv(pose).astype(np.float32), view)
    options = {"background": np.zeros(3, np.float32), "ssim_weight": 0.2, "depth_weight": 0.0}
    kernels = NumbaViewRenderer(1).gradient(*arguments, **options)
    autograd = TorchViewRenderer("reference", "cpu").gradient(*arguments, **options)
    assert np.allclose(kernels.center, pose[:3, 3], atol=1e-6)
    for name in ("means", "colors"):
        ours, theirs = np.zeros((2, 200, 3), np.float32)
        ours[kernels.which] = getattr(kernels, name)
        theirs[autograd.which] = getattr(autograd, name)
        assert np.linalg.norm(ours - theirs) <= 2e-3 * np.linalg.norm(theirs), name


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), DEGREES)
def test_a_moved_chunk_turns_its_harmonics_and_the_others_keep_theirs(
    seed: int, degree: int
) -> None:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rng.uniform(0.5, 2.0) * rotation, rng.normal(size=3)
    parts = [coloured(seed, degree, 12), coloured(seed + 1, degree, 7)]
    parameters = SplatParameters(32, degree)
    for chunk, splats in enumerate(parts):
        parameters.add(chunk, splats)
    parameters.moment1[:19] = 1.0
    parameters.transform({0: motion})
    expected = parts[0].transform(motion)
    for arrays in (parameters.rows, parameters.average):
        rest = arrays[:12, COLUMNS:].reshape(12, -1, 3)
        assert np.allclose(rest, expected.sh[:, 1:], atol=1e-5)
    assert torch.allclose(parameters.splats(np.arange(12)).sh, expected.sh, atol=1e-5)
    assert torch.allclose(parameters.splats(np.arange(12, 19)).sh, parts[1].sh, atol=1e-6)
    assert not parameters.moment1[:12, COLUMNS:].any(), "it pointed along the old axes"
    assert parameters.moment1[12:19].all()


@pytest.mark.parametrize(("have", "wanted"), [(0, 2), (2, 1), (3, 0), (1, 1)])
def test_splats_of_another_degree_are_cut_or_filled_up(have: int, wanted: int) -> None:
    """A session's next process may have another `sh_degree` than the one that saved its state."""
    splats = coloured(6, have, 30)
    source = store(splats)
    source.moment2[:30] = 2.0
    saved = {
        name: getattr(source, name)[:30]
        for name in ("rows", "average", "moment1", "moment2", "steps", "chunk")
    }
    for parameters in (store(splats, wanted), SplatParameters(64, wanted)):
        # Junk of splats that have left, where a lower degree says nothing.
        parameters.rows[:] = parameters.average[:] = parameters.moment2[:] = 7.0
        parameters.load(saved)
        expected = splats.with_sh_degree(have).with_sh_degree(wanted)
        got = parameters.splats()
        assert got.sh_degree == wanted
        assert torch.allclose(got.sh, expected.sh, atol=1e-6)
        known = COLUMNS + harmonic_columns(min(have, wanted))
        assert (parameters.moment2[:30, :known] == 2.0).all()
        assert (parameters.moment2[:30, known:] == 0.0).all()


def test_without_splats_there_is_nothing_to_turn_or_to_show() -> None:
    parameters = SplatParameters(4, 2)
    parameters.add(1, Splats.empty(2))
    parameters.add(2, Splats.empty())
    assert parameters.splats().sh.shape == (0, 9, 3)
    parameters.add(3, coloured(1, 2, 3))
    parameters.transform({1: turned(0.5, (1.0, 0.0, 0.0))})
    assert torch.allclose(parameters.splats().sh, coloured(1, 2, 3).sh, atol=1e-6)
    assert parameters.splats(np.zeros(0, np.int64)).sh.shape == (0, 9, 3)
    assert Splats.empty(2).seen_from(np.zeros(3)).sh.shape == (0, 1, 3)


def glossy_refiner(degree: int, **options: float) -> tuple[Refiner, list[tuple[np.ndarray, ...]]]:
    """A refiner that holds splats of no view dependence, with views of some that have it; and
    pictures of them that it is not given."""
    truth = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1, sh_degree=1))
    truth.add_splats(0, coloured(8, 1, strength=0.6))
    config = RefineConfig(workers=2, sh_degree=degree, dropout_views=0.0, **options)
    refiner = Refiner(NumbaViewRenderer(2), config)
    refiner.add_splats(7, coloured(8, 1, strength=0.6).with_sh_degree(0))
    kept = []
    for number in range(24):
        angle = 0.7 * math.sin(number * 2.4)
        pose = turned(angle, (-2.2 * math.sin(angle), 0.3 * math.cos(number), 0.0))
        rgb, _, _ = truth.render(pose, K, WIDTH, HEIGHT)
        if number % 4 == 0:
            kept.append((pose, rgb))
        else:
            image = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
            refiner.add_view(RefineView(key=number, image=image, K=K, c2w=pose))
    truth.close()
    return refiner, kept


def held_out_error(splats: Splats, kept: list[tuple[np.ndarray, ...]]) -> float:
    """Of what is shown to others."""
    shown = store(splats)
    errors = []
    for pose, rgb in kept:
        viewmat = np.linalg.inv(pose).astype(np.float32)
        seen, _, _ = NumbaViewRenderer(1).render(
            shown, viewmat, K.astype(np.float32), WIDTH, HEIGHT, np.zeros(3, np.float32)
        )
        errors.append(np.square(seen - rgb).mean())
    return float(np.mean(errors))


def test_gloss_is_learnt_as_views_that_were_not_given_show() -> None:
    errors = {}
    for degree in (0, 1):
        refiner, kept = glossy_refiner(degree)
        for _ in range(250):
            refiner.step()
        ((chunk, splats),) = refiner.take({7: np.eye(4)})
        assert (chunk, splats.sh_degree) == (7, degree)
        errors[degree] = held_out_error(splats, kept)
        refiner.close()
    assert errors[1] < 0.7 * errors[0]


def test_a_state_goes_on_to_the_bit_with_harmonics() -> None:
    refiner, _ = glossy_refiner(2)
    for _ in range(10):
        refiner.step()
    state = refiner_state(refiner)
    other, _ = glossy_refiner(2)
    restore_refiner(other, state, dict(other.views))
    for _ in range(10):
        refiner.step()
        other.step()
    for name, array in refiner_state(other).arrays.items():
        assert np.array_equal(array, refiner_state(refiner).arrays[name], equal_nan=True), name
    assert refiner.parameters.rows[: refiner.parameters.count, COLUMNS:].any()
    refiner.close()
    other.close()


def test_a_chunk_that_rested_comes_back_turned_with_its_harmonics() -> None:
    refiner = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1, sh_degree=2))
    refiner.origin = np.array([4.0, -2.0, 1.0])
    splats = coloured(9, 2, 50)
    pose, corrected = turned(0.4, (4.5, -2.0, 1.0)), turned(-1.1, (6.0, -1.0, 0.5))

    def local(world: np.ndarray) -> np.ndarray:
        shifted = world.copy()
        shifted[:3, 3] -= refiner.origin
        return shifted

    refiner.add_splats(3, splats.transform(local(pose)))
    rows = resting_rows(refiner, 3, pose)
    assert torch.allclose(resting_splats(rows).sh, splats.sh, atol=1e-5), "in its own frame"
    refiner.remove(np.arange(50))
    put_back(refiner, 3, rows, corrected)
    back = refiner.parameters.splats()
    expected = splats.transform(local(corrected))
    assert torch.allclose(back.sh, expected.sh, atol=1e-5)
    assert torch.allclose(back.means, expected.means, atol=1e-5)
    refiner.close()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), DEGREES)
def test_splats_seen_from_a_place_look_the_same_from_there_alone(seed: int, degree: int) -> None:
    splats = coloured(seed, degree, 20)
    center = np.random.default_rng(seed).normal(size=3)
    flat = splats.seen_from(center)
    assert flat.sh_degree == 0
    away = splats.means - torch.from_numpy(center).float()
    directions = torch.nn.functional.normalize(away, dim=-1)
    for shown in (directions, -directions):
        same = torch.allclose(
            evaluate_sh(flat.sh, shown), evaluate_sh(splats.sh, directions), atol=1e-5
        )
        assert same, "whatever direction it is looked at in"

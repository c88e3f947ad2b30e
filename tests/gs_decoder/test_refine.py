"""Refinement: gradients through the activations, steps that improve, moves that change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder import Splats
from gs_decoder.refine import RefineConfig, Refiner, RefineView, SplatParameters, adam
from gs_decoder.refine.adam import accumulate_rows
from gs_decoder.refine.parameters import SPLATS
from gs_decoder.refine.renderers import (
    NumbaViewRenderer,
    TorchViewRenderer,
    image_gradient,
)

WIDTH, HEIGHT = 48, 32
K = np.array([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]])


def some_splats(seed, count=300, shift=0.0):
    rng = np.random.default_rng(seed)
    means = rng.uniform([-1.2, -0.8, 1.5], [1.2, 0.8, 3.0], (count, 3)) + shift
    return Splats(
        means=torch.tensor(means, dtype=torch.float32),
        quats_wxyz=torch.nn.functional.normalize(
            torch.tensor(rng.normal(size=(count, 4)), dtype=torch.float32), dim=-1
        ),
        scales=torch.tensor(rng.uniform(0.03, 0.15, (count, 3)), dtype=torch.float32),
        opacities=torch.tensor(rng.uniform(0.2, 0.9, count), dtype=torch.float32),
        sh=torch.tensor(rng.normal(0, 0.6, (count, 1, 3)), dtype=torch.float32),
    )


def poses(count, origin=(0.0, 0.0, 0.0)):
    result = []
    for number in range(count):
        pose = np.eye(4)
        pose[:3, 3] = origin
        pose[0, 3] += 0.06 * number
        result.append(pose)
    return result


def refiner_with_views(seed, *, workers=2, noise=0.1, origin=(0.0, 0.0, 0.0), **config):
    """A refiner whose views show the true splats, while it holds disturbed ones."""
    truth = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1))
    truth.origin = np.array(origin)
    truth.add_splats(0, some_splats(seed))
    refiner = Refiner(NumbaViewRenderer(workers), RefineConfig(workers=workers, **config))
    refiner.origin = np.array(origin)
    for key, pose in enumerate(poses(6, origin)):
        rgb, depth, _ = truth.render(pose, K, WIDTH, HEIGHT)
        image = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
        refiner.add_view(RefineView(key=key, image=image, K=K, c2w=pose, depth=depth))
    truth.close()
    disturbed = some_splats(seed)
    generator = torch.Generator().manual_seed(seed)
    wrong = disturbed.sh + noise * torch.randn(disturbed.sh.shape, generator=generator)
    refiner.add_splats(
        7,
        Splats(
            disturbed.means + 0.1 * noise * torch.randn(disturbed.means.shape, generator=generator),
            disturbed.quats_wxyz,
            disturbed.scales,
            disturbed.opacities,
            wrong,
        ),
    )
    return refiner


def view_error(refiner):
    total = 0.0
    for view in refiner.views.values():
        rgb, _, _ = refiner.render(view.c2w, view.K, WIDTH, HEIGHT)
        total += float(np.square(rgb - view.image / 255.0).mean())
    return total / len(refiner.views)


def test_steps_bring_the_map_closer_to_its_views():
    refiner = refiner_with_views(0, noise=0.4)
    before = view_error(refiner)
    for _ in range(120):
        refiner.step()
    assert view_error(refiner) < 0.25 * before
    assert refiner.psnr() > 25.0
    refiner.close()


def test_far_from_the_worlds_origin_refinement_is_the_same():
    """UTM coordinates: float32 would lose the centimetres without the refiner's own origin."""
    near, far = refiner_with_views(1), refiner_with_views(1, origin=(5e5, 4.2e6, 300.0))
    for _ in range(10):
        near.step()
        far.step()
    used = slice(0, near.parameters.count)
    assert np.allclose(near.parameters.rows[used], far.parameters.rows[used], atol=1e-3)
    near.close()
    far.close()


def test_the_same_seed_gives_the_same_bits():
    one, other = refiner_with_views(2), refiner_with_views(2)
    for _ in range(15):
        one.step()
        other.step()
    assert np.array_equal(one.parameters.rows, other.parameters.rows)
    assert np.array_equal(one.parameters.average, other.parameters.average)
    one.close()
    other.close()


def of_all(gradient, name, count):
    """What a view says of all splats, whether it works on all or on those that it shows."""
    part = getattr(gradient, name)
    full = np.zeros((count, *part.shape[1:]), np.float32)
    full[gradient.which] = part
    return full


def test_kernels_and_autograd_give_the_same_gradient():
    refiner = refiner_with_views(3)
    view = refiner.views[2]
    view.log_gain = np.array([0.1, -0.05, 0.02], np.float32)
    arguments = (0, refiner.parameters, refiner.view_matrix(view.c2w), view)
    options = {"background": refiner.background, "ssim_weight": 0.2, "depth_weight": 0.3}
    kernels = NumbaViewRenderer(1).gradient(*arguments, **options)
    autograd = TorchViewRenderer("reference", "cpu").gradient(*arguments, **options)
    assert kernels.loss == pytest.approx(autograd.loss, rel=1e-4)
    assert np.allclose(kernels.gain_step, autograd.gain_step, rtol=2e-3)
    count = refiner.parameters.count
    for name in ("means", "quats", "scales", "opacities", "colors"):
        ours, theirs = of_all(kernels, name, count), of_all(autograd, name, count)
        assert np.linalg.norm(ours - theirs) <= 2e-3 * np.linalg.norm(theirs) + 1e-7, name
    present = (np.random.default_rng(0).random(count) > 0.4).astype(np.float32)
    kernels = NumbaViewRenderer(1).gradient(*arguments, present, **options)
    autograd = TorchViewRenderer("reference", "cpu").gradient(*arguments, present, **options)
    assert kernels.loss == pytest.approx(autograd.loss, rel=1e-4)
    for name in ("means", "opacities", "colors"):
        ours, theirs = of_all(kernels, name, count), of_all(autograd, name, count)
        assert not ours[present == 0].any(), "a splat that is left out is left alone"
        assert np.linalg.norm(ours - theirs) <= 2e-3 * np.linalg.norm(theirs) + 1e-7, name
    refiner.close()


def test_few_views_leave_out_more_splats_and_never_more_than_allowed():
    shares = []
    for dropout_views, max_dropout in ((4.0, 0.2), (0.3, 0.2), (0.0, 0.2)):
        refiner = refiner_with_views(5, dropout_views=dropout_views, max_dropout=max_dropout)
        drawn = [refiner._presence() for _ in range(40)]
        shares.append(np.mean([0.0 if d is None else (d == 0).mean() for d in drawn]))
        refiner.close()
    assert shares[0] == pytest.approx(0.2, abs=0.02)  # six views: 4 / 6 is more than is allowed
    assert shares[1] == pytest.approx(0.05, abs=0.02)
    assert shares[2] == 0.0


def adam_step(rows, average, ages, gradient, **options):
    """One step of Adam without memory, on all splats but those in `unseen`."""
    count = len(rows)
    seen = ~np.isin(np.arange(count), options.get("unseen", ()))
    eagerness = np.ones(14, np.float32)
    eagerness[11:] = options.get("eager", 8.0)
    moments = np.zeros((2, count, 14), np.float32)
    rates = np.full(14, options.get("rate", 0.01), np.float32)
    tail, longest = options.get("tail", 16.0), options.get("longest", 400.0)
    adam.adam_rows(
        0, count, rows, average, *moments, ages, gradient, seen, rates, eagerness, 200.0, tail,
        longest, 0.0, 0.0, 1e-12,
    )  # fmt: skip


def test_faint_young_splats_are_eager_and_settle():
    """The first step of Adam is the rate itself: it tells the factor."""

    def first_step(logit, age, **options):
        rows = np.zeros((1, 14), np.float32)
        rows[0, 10] = logit
        before = rows.copy()
        ages = np.array([age], np.int32)
        adam_step(rows, rows.copy(), ages, np.ones((1, 14), np.float32), **options)
        return float((before - rows)[0, 12]) / 0.01

    assert first_step(-9.0, 0) == pytest.approx(8.0, rel=0.01)
    assert first_step(0.0, 0) == pytest.approx(4.5, rel=0.01)
    assert first_step(9.0, 0) == pytest.approx(1.0, rel=0.01)
    assert first_step(-9.0, 200) == pytest.approx(4.5, rel=0.02)
    assert first_step(-9.0, 0, eager=1.0) == pytest.approx(1.0, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 16))
def test_the_average_is_over_the_last_part_of_a_splats_own_steps(seed, steps, tail):
    """Against the weights in closed form: step i of n counts C(i + tail - 2, tail - 1) times."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((2, 14), np.float32)
    average = rng.normal(size=(2, 14)).astype(np.float32)
    unseen = average[1].copy()
    ages = np.zeros(2, np.int32)
    history = []
    for _ in range(steps):
        gradient = rng.normal(size=(2, 14)).astype(np.float32)
        adam_step(rows, average, ages, gradient, unseen=(1,), tail=float(tail), longest=1e9)
        history.append(rows[0].astype(np.float64))
    counts = np.array([math.comb(i + tail - 2, tail - 1) for i in range(1, steps + 1)], np.float64)
    expected = counts @ np.array(history) / counts.sum()
    assert np.allclose(average[0], expected, atol=1e-5)
    assert np.array_equal(average[1], unseen), "who was not seen stays as shown"
    assert ages.tolist() == [steps, 0]


def test_an_old_splats_average_forgets_at_the_pace_of_the_longest_one():
    rows, average = np.zeros((1, 14), np.float32), np.ones((1, 14), np.float32)
    ages = np.array([100_000], np.int32)
    for _ in range(20):
        adam_step(rows, average, ages, np.ones((1, 14), np.float32), rate=0.0, longest=10.0)
    assert np.allclose(average, 0.9**20, rtol=1e-4)


def test_what_is_shown_is_calmer_than_the_steps():
    """Rates stay high, so the last step is off by its noise; the average is not."""
    refiner = refiner_with_views(4, dropout_views=0.0)
    for _ in range(300):
        refiner.step()
    parameters = refiner.parameters
    errors = {}
    for name in ("rows", "average"):
        shown = SplatParameters(parameters.count)
        arrays = {key: getattr(parameters, key)[: parameters.count] for key in SPLATS}
        shown.load({**arrays, "rows": arrays[name]})
        errors[name] = []
        for view in refiner.views.values():
            rgb, _, _ = refiner._renderer.render(
                shown, refiner.view_matrix(view.c2w), K.astype(np.float32), WIDTH, HEIGHT,
                refiner.background,
            )  # fmt: skip
            errors[name].append(np.square(rgb - view.image / 255.0).mean())
    assert np.mean(errors["average"]) < 0.8 * np.mean(errors["rows"])
    assert torch.equal(parameters.splats().means, torch.from_numpy(shown.means))
    refiner.close()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_gradients_pass_the_activations_as_autograd_says(seed):
    rng = np.random.default_rng(seed)
    parameters = SplatParameters(8)
    parameters.add(0, some_splats(seed, 8))
    given_gradients = {
        "means": rng.normal(size=(8, 3)),
        "quats": rng.normal(size=(8, 4)),
        "scales": rng.normal(size=(8, 3)),
        "opacities": rng.normal(size=8),
        "colors": rng.normal(size=(8, 3)),
    }
    arrays = {name: value.astype(np.float32) for name, value in given_gradients.items()}
    # Of another step there may be anything.
    gradient, seen = np.full((8, 14), 7.0, np.float32), np.zeros(8, np.bool_)
    everything = np.arange(8)
    for first, last in ((0, 3), (3, 8)):
        accumulate_rows(
            first, last, gradient, seen, parameters.scales, parameters.opacities, everything,
            *arrays.values(),
        )  # fmt: skip
    rows = torch.tensor(parameters.rows, requires_grad=True)
    activated = (
        rows[:, :3],
        rows[:, 3:7],
        rows[:, 7:10].exp(),
        rows[:, 10].sigmoid(),
        rows[:, 11:],
    )
    total = sum(
        (a * torch.tensor(g)).sum() for a, g in zip(activated, arrays.values(), strict=True)
    )
    (expected,) = torch.autograd.grad(total, rows)
    assert seen.all()
    assert np.allclose(gradient, expected.numpy(), rtol=1e-4, atol=1e-5)


def similarity(seed):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    matrix = np.eye(4)
    matrix[:3, :3] = rng.uniform(0.5, 2.0) * rotation
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


def test_moving_a_chunk_is_what_the_splats_transform_says_and_leaves_the_others():
    refiner = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1))
    refiner.origin = np.array([10.0, -3.0, 2.0])
    parts = {chunk: some_splats(chunk, 40) for chunk in (4, 9, 2)}
    for chunk, splats in parts.items():
        refiner.add_splats(chunk, splats)
    motion = similarity(5)
    refiner.move_chunks({9: motion})
    to_world = np.eye(4)
    to_world[:3, 3] = refiner.origin
    expected = parts[9].transform(np.linalg.inv(to_world) @ motion @ to_world)
    members = np.flatnonzero(refiner.parameters.chunk[:120] == 9)
    moved = refiner.parameters.splats(members)
    assert np.allclose(moved.means, refiner.parameters.means[members]), "what is worked on too"
    assert torch.allclose(moved.means, expected.means, atol=1e-4)
    assert torch.allclose(moved.scales, expected.scales, rtol=1e-4)
    dots = (moved.quats_wxyz * torch.nn.functional.normalize(expected.quats_wxyz, dim=-1)).sum(-1)
    assert torch.allclose(dots.abs(), torch.ones(40), atol=1e-5)
    for chunk in (4, 2):
        rest = refiner.parameters.splats(np.flatnonzero(refiner.parameters.chunk[:120] == chunk))
        assert torch.allclose(rest.means, parts[chunk].means)
    refiner.close()


def told(refiner, chunks, most=None):
    """The chunks that readers are told of, as a session does it."""
    return [chunk for chunk, _ in refiner.take(refiner.changed_chunks(chunks, most))]


def test_of_many_changed_chunks_each_has_its_turn():
    refiner = refiner_with_views(6)
    for chunk in range(20, 30):
        refiner.add_splats(chunk, some_splats(chunk, 3))
    everybody = set(range(20, 29))
    assert not refiner.has_changes
    refiner.remove(np.flatnonzero(refiner.parameters.chunk[: refiner.parameters.count] == 7))
    refiner.remove(np.array([3 * place for place in range(10)]))
    turns = [chunk for _ in range(3) for chunk in told(refiner, everybody, most=4)]
    assert sorted(turns) == sorted(everybody), "each of them once, and nobody else"
    assert not refiner.has_changes
    # Whoever changes all the time does not keep the others from their turn.
    for expected in ([20, 21], [22, 23], [24, 25]):
        refiner.remove(np.flatnonzero(refiner.parameters.chunk[: refiner.parameters.count] == 99))
        refiner._touched[: refiner.parameters.count] = True
        assert told(refiner, set(range(20, 26)), most=2) == expected
    refiner.close()


def test_changed_chunks_are_told_once_and_transparent_splats_leave():
    refiner = refiner_with_views(6)
    refiner.add_splats(8, some_splats(6, 20, shift=50.0))
    assert not refiner.has_changes
    refiner.step()
    assert told(refiner, {7, 8}) == [7]
    assert told(refiner, {7, 8}) == []
    refiner.parameters.rows[:5, 10] = -8.0
    refiner.parameters.activate()
    assert refiner.prune() == 5
    assert told(refiner, {7, 8}) == [7]
    assert refiner.parameters.count == 315
    refiner.close()


def test_views_are_bounded_and_the_newest_stay():
    refiner = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1, max_views=20, recent_views=5))
    image = np.zeros((4, 4, 3), np.uint8)
    for key in range(100):
        refiner.add_view(RefineView(key=key, image=image, K=K, c2w=np.eye(4)))
    assert len(refiner.views) == 20
    assert set(range(95, 100)) <= set(refiner.views)
    refiner.close()


def test_an_exposure_gain_is_learned_by_the_view_not_the_map():
    refiner = refiner_with_views(9, noise=0.0, gain_hold=0.05)
    dark = refiner.views[3]
    dark.image = (dark.image * 0.8).astype(np.uint8)
    for _ in range(200):
        refiner.step()
    assert np.allclose(np.exp(dark.log_gain), 0.8, atol=0.08)
    others = [view.log_gain for key, view in refiner.views.items() if key != 3]
    assert np.abs(np.mean(others)) < 0.06
    refiner.close()


def test_gains_are_held_so_that_the_map_keeps_the_exposure_of_its_pictures():
    """Dimmed all alike, it is the map that has to get darker, from any gains to begin with."""
    refiner = refiner_with_views(10, noise=0.0)
    for view in refiner.views.values():
        view.image = (view.image * 0.7).astype(np.uint8)
        view.log_gain = np.full(3, 0.3, np.float32)
    for _ in range(300):
        refiner.step()
    gains = np.array([view.log_gain for view in refiner.views.values()])
    assert np.abs(gains).max() < 0.05
    assert view_error(refiner) < 1e-3
    refiner.close()


@pytest.mark.parametrize("masked", [False, True])
def test_a_gain_is_found_in_one_step_whatever_a_part_of_the_picture_does(masked):
    rng = np.random.default_rng(0)
    rgb = rng.uniform(0.2, 0.6, (40, 60, 3)).astype(np.float32)
    gain = np.array([1.1, 0.95, 1.15], np.float32)
    target = rgb * gain
    target[:, :15] = rng.uniform(0.0, 1.0, (40, 15, 3))
    valid = np.ones((40, 60), np.bool_)
    valid[:, :15] = not masked
    view = RefineView(
        key=0, image=(target * 255 + 0.5).astype(np.uint8), K=K, c2w=np.eye(4), valid=valid
    )
    filled = np.ones((40, 60), np.float32)
    step = image_gradient(rgb, filled, filled, view, ssim_weight=0.2, depth_weight=0.0).gain_step
    # A step is linear in the gain: what is left of it is its square.
    assert np.allclose(step, gain - 1.0, atol=0.005 if masked else 0.05)

"""Refinement's steps: they improve, wherever they are, and give the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refine_scenes import HEIGHT, WIDTH, K, refiner_with_views, view_error

from gs_decoder.refine import RefineConfig, Refiner, RefineView, SplatParameters
from gs_decoder.refine.parameters import SPLATS
from gs_decoder.refine.renderers import NumbaViewRenderer, TorchViewRenderer


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


def test_views_are_bounded_and_the_newest_stay():
    refiner = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1, max_views=20, recent_views=5))
    image = np.zeros((4, 4, 3), np.uint8)
    for key in range(100):
        refiner.add_view(RefineView(key=key, image=image, K=K, c2w=np.eye(4)))
    assert len(refiner.views) == 20
    assert set(range(95, 100)) <= set(refiner.views)
    refiner.close()

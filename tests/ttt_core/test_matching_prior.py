"""The matching prior against scenes whose depth is known exactly."""

from __future__ import annotations

from dataclasses import replace

import matching_scenes as scenes
import numpy as np
import pytest

import ttt_core.matching.prior as prior_module
from ttt_core.matching import CELL, CELL_CHANNELS, MatchingPrior, PosedImage, PriorConfig


@pytest.fixture(scope="module")
def prior() -> MatchingPrior:
    return MatchingPrior(PriorConfig(threads=1))


@pytest.fixture(scope="module")
def predicted(prior):
    views, truth = scenes.scene()
    return prior.predict(views), truth


def relative_error(depth: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(depth / truth - 1.0)


def assert_sound(result, shape) -> None:
    assert result.depth.shape == result.confidence.shape == shape
    assert result.depth.dtype == result.confidence.dtype == np.float32
    assert np.isfinite(result.depth).all() and (result.depth > 0).all()
    assert (result.confidence >= 0).all() and (result.confidence <= 1).all()
    assert result.cells.shape == (-(-shape[0] // CELL), -(-shape[1] // CELL), len(CELL_CHANNELS))
    assert result.cells.dtype == np.float32 and np.isfinite(result.cells).all()
    near, far = result.depth_range
    assert 0 < near < far


def test_depth_of_a_textured_scene(predicted):
    results, truths = predicted
    for result, truth in zip(results, truths, strict=True):
        assert_sound(result, truth.shape)
        assert result.depth_range[0] < truth.min() and result.depth_range[1] > truth.max()
        error = relative_error(result.depth, truth)
        sure = result.confidence > 0.6
        assert sure.mean() > 0.6
        assert np.median(error[sure]) < 0.008
        assert (error[sure] > 0.1).mean() < 0.02
        assert np.median(error) < 0.012


def test_confidence_orders_errors(predicted):
    results, truths = predicted
    error = np.concatenate(
        [relative_error(r.depth, t).ravel() for r, t in zip(results, truths, strict=True)]
    )
    confidence = np.concatenate([r.confidence.ravel() for r in results])
    wrong = error > 0.05
    assert wrong[confidence < 0.3].mean() > 5 * wrong[confidence > 0.8].mean()


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_world_scale_only_scales_depth(prior, predicted, scale):
    results, _ = predicted
    scaled = prior.predict(scenes.scene(scale)[0])
    for one, other in zip(results, scaled, strict=True):
        assert other.sources == one.sources
        np.testing.assert_allclose(
            other.depth_range, np.multiply(one.depth_range, scale), rtol=1e-6
        )
        error = relative_error(other.depth, one.depth * scale)
        assert np.quantile(error, 0.99) < 1e-3
        assert np.abs(other.confidence - one.confidence).mean() < 1e-3


def test_far_from_the_origin(prior, predicted):
    """UTM coordinates: centimetres must survive half a million metres."""
    views, _ = scenes.scene()
    offset = np.array([5.1e5, 4.2e6, 120.0])
    moved = []
    for view in views:
        c2w = view.c2w.copy()
        c2w[:3, 3] += offset
        moved.append(replace(view, c2w=c2w))
    for one, other in zip(predicted[0], prior.predict(moved), strict=True):
        assert np.quantile(relative_error(other.depth, one.depth), 0.99) < 1e-3


def test_results_do_not_depend_on_threads_or_history(prior, predicted):
    views, _ = scenes.scene()
    prior.predict([scenes.view(7, scenes.look((0.2, 0.1, 0.0)))], views)
    for threads in (1, 2, 4):
        again = MatchingPrior(PriorConfig(threads=threads)).predict(views)
        for one, other in zip(predicted[0], again, strict=True):
            assert np.array_equal(one.depth, other.depth)
            assert np.array_equal(one.confidence, other.confidence)
            assert np.array_equal(one.cells, other.cells)
    for one, other in zip(predicted[0], prior.predict(views), strict=True):
        assert np.array_equal(one.depth, other.depth)


def test_sensor_depth_takes_the_place_of_matching(prior):
    views, truths = scenes.scene()
    # Half of the first view, 10 % too far: recognisably not what matching would say.
    sensor = np.zeros_like(truths[0])
    sensor[:, : scenes.WIDTH // 2] = 1.1 * truths[0][:, : scenes.WIDTH // 2]
    result = prior.predict(views, sensor_depth=[sensor, None, None, None])[0]
    there = sensor > 0
    np.testing.assert_allclose(result.depth[there], sensor[there], rtol=1e-5)
    assert (result.confidence[there] >= 0.9).all()
    rest = ~there & (result.confidence > 0.6)
    assert rest.mean() > 0.2
    assert np.median(relative_error(result.depth, truths[0])[rest]) < 0.01


def test_invalid_sensor_pixels_are_holes(prior):
    views, truths = scenes.scene()
    sensor = truths[0].copy()
    sensor[10:20, 10:20] = np.nan
    sensor[30:40, 10:20] = np.inf
    sensor[50:60, 10:20] = -1.0
    result = prior.predict(views, sensor_depth=[sensor, None, None, None])[0]
    assert_sound(result, sensor.shape)
    hole = ~(np.isfinite(sensor) & (sensor > 0))
    assert np.median(relative_error(result.depth, truths[0])[hole]) < 0.02


def test_wrong_map_depth_only_costs_planes(prior):
    views, truths = scenes.scene()
    wrong = [np.full_like(truths[0], 6.0)] + [None] * 3
    result = prior.predict(views, map_depth=wrong)[0]
    sure = result.confidence > 0.6
    assert sure.mean() > 0.4
    assert np.median(relative_error(result.depth, truths[0])[sure]) < 0.02


def test_masked_pixels_have_no_confidence_and_no_say(prior, predicted):
    views, truths = scenes.scene()

    def masked(seed: int) -> list[PosedImage]:
        rng = np.random.default_rng(seed)
        valid = np.ones(truths[0].shape, bool)
        valid[:, :24] = False
        noise = rng.random(valid.shape, dtype=np.float32)
        return [replace(v, gray=np.where(valid, v.gray, noise), valid=valid) for v in views]

    one, other = prior.predict(masked(1)), prior.predict(masked(2))
    for result, same, view, truth in zip(one, other, masked(1), truths, strict=True):
        assert np.array_equal(result.depth, same.depth)
        assert np.array_equal(result.confidence, same.confidence)
        assert_sound(result, truth.shape)
        assert (result.confidence[~view.valid] == 0).all()
        sure = result.confidence > 0.6
        assert np.median(relative_error(result.depth, truth)[sure]) < 0.01


def test_earlier_views_serve_as_sources(prior, predicted):
    views, truths = scenes.scene()
    known = [
        replace(view, depth=result.depth, confidence=result.confidence)
        for view, result in zip(views, predicted[0], strict=True)
    ]
    result = prior.predict(views[:1], known[1:])[0]
    assert set(result.sources) == {1, 2, 3}
    without = prior.predict(views[:1], views[1:])[0]
    sure, unchecked = (r.confidence > 0.7 for r in (result, without))
    assert sure.sum() > unchecked.sum()
    assert np.median(relative_error(result.depth, truths[0])[sure]) < 0.008


@pytest.mark.parametrize("shape", [(97, 131), (5, 7), (1, 1)])
def test_odd_sizes(prior, shape):
    views = []
    for k, view in enumerate(scenes.scene()[0][:2]):
        gray = np.ascontiguousarray(np.resize(view.gray, shape))
        views.append(PosedImage(k, gray, view.K, view.c2w))
    for result in prior.predict(views):
        assert_sound(result, shape)


def flat(value: float) -> list[PosedImage]:
    gray = np.full((scenes.HEIGHT, scenes.WIDTH), value, np.float32)
    return [PosedImage(k, gray, scenes.intrinsics(), pose) for k, pose in enumerate(scenes.POSES)]


def one_view() -> list[PosedImage]:
    return scenes.scene()[0][:1]


def pure_rotation() -> list[PosedImage]:
    return [scenes.view(k, scenes.look((0, 0, 0), yaw=0.05 * k)) for k in range(4)]


def back_to_back() -> list[PosedImage]:
    return [scenes.view(k, scenes.look((0.1 * k, 0, 0), yaw=np.pi * k)) for k in range(2)]


def not_a_number() -> list[PosedImage]:
    views = scenes.scene()[0]
    return [replace(view, gray=np.full_like(view.gray, np.nan)) for view in views]


def all_masked() -> list[PosedImage]:
    views = scenes.scene()[0]
    return [replace(view, valid=np.zeros(view.gray.shape, bool)) for view in views]


@pytest.mark.parametrize(
    "make",
    [
        one_view,
        pure_rotation,
        back_to_back,
        lambda: flat(0.0),
        lambda: flat(1.0),
        not_a_number,
        all_masked,
    ],
)
def test_hopeless_input_gives_depth_without_confidence(prior, make):
    for result in prior.predict(make()):
        assert_sound(result, (scenes.HEIGHT, scenes.WIDTH))
        assert result.confidence.max() < 0.3


def test_a_step_too_small_to_tell_depth_is_not_trusted(prior):
    """A millimetre of baseline moves nothing by half a pixel, so no depth may be trusted."""
    views = [scenes.view(k, scenes.look((1e-3 * k, 0.0, 0.0))) for k in range(3)]
    for result in prior.predict(views):
        assert_sound(result, (scenes.HEIGHT, scenes.WIDTH))
        assert (result.confidence > 0.6).mean() < 1e-3


def test_one_compilation_serves_every_input(prior):
    """A stream must not stop for a second when the first mask or the first revisit comes."""
    prior.warm_up(scenes.HEIGHT, scenes.WIDTH)
    views, truths = scenes.scene()
    views = [replace(v, valid=np.ones(v.gray.shape, bool)) for v in views]
    frozen = truths[0] * np.float32(1.0)
    frozen.flags.writeable = False
    known = [replace(v, depth=frozen[:, ::-1], confidence=np.ones_like(frozen)) for v in views[:2]]
    prior.predict(views[2:], known, sensor_depth=[frozen, None], map_depth=[None, frozen])
    prior.predict(views[:1])
    kernels = {k for k in vars(prior_module).values() if hasattr(k, "signatures")}
    assert len(kernels) > 5
    for kernel in kernels:
        assert len(kernel.signatures) == 1, kernel


def test_no_views():
    assert MatchingPrior().predict([]) == []


def test_what_does_not_fit_is_refused(prior):
    views, truths = scenes.scene()
    with pytest.raises(ValueError, match="sensor_depth has 1 entries"):
        prior.predict(views, sensor_depth=[None])
    with pytest.raises(ValueError, match="map_depth of view 0"):
        prior.predict(views, map_depth=[truths[0][:-1], None, None, None])
    with pytest.raises(ValueError, match="float32"):
        replace(views[0], gray=views[0].gray.astype(np.float64))
    with pytest.raises(ValueError, match="c2w of view 0"):
        replace(views[0], c2w=np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="planes is 1"):
        PriorConfig(planes=1)

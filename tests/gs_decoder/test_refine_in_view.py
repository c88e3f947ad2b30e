"""A visit of refinement to a view works on the splats that it could show, and on no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from raster_scenes import Scene, random_scene

from gs_decoder import Splats
from gs_decoder.raster import NumbaRasterizer
from gs_decoder.refine import SplatParameters
from gs_decoder.refine.in_view import Sieve, even_spans

KINDS = ["mixed", "needles", "near", "huge", "tiny"]
COUNT = 400


def store(scene: Scene) -> SplatParameters:
    """With what goes through logarithms and back: these are the splats, not the scene's."""
    parameters = SplatParameters(COUNT)
    parameters.add(
        0,
        Splats(
            means=scene.means,
            quats_wxyz=scene.quats,
            scales=scene.scales,
            opacities=scene.opacities,
            sh=scene.colors[:, None],
        ),
    )
    return parameters


def around(scene: Scene, turn: float) -> NDArray[np.float32]:
    """The scene's view matrix, turned on the spot: most of the scene is beside the picture."""
    c, s = np.cos(turn), np.sin(turn)
    turned = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])
    result: NDArray[np.float32] = (turned @ scene.viewmat.numpy()).astype(np.float32)
    return result


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(KINDS),
    st.floats(-3.0, 3.0),
    st.sampled_from([0.0, 50.0, 4000.0]),
    st.booleans(),
)
def test_renders_and_gradients_are_those_of_all_splats(
    seed: int, kind: str, turn: float, away: float, dropout: bool
) -> None:
    rng = np.random.default_rng(seed)
    scene = random_scene(seed, COUNT, 61, 45, kind)
    parameters = store(scene)
    viewmat = around(scene, turn)
    # Far from the origin float32 is coarse, in the same way for both.
    shift = rng.normal(size=3) * away / np.sqrt(3.0)
    parameters.rows[:COUNT, :3] += shift.astype(np.float32)
    viewmat[:3, 3] -= (viewmat[:3, :3].astype(np.float64) @ shift).astype(np.float32)
    parameters.activate()
    presence = (rng.random(COUNT) > 0.3).astype(np.float32) if dropout else None

    shown = Sieve()(parameters, viewmat, scene.K.numpy(), scene.width, scene.height, presence)
    used = slice(0, COUNT)
    opacities = parameters.opacities[used]
    everything = (parameters.means[used], parameters.quats[used], parameters.scales[used])
    all_colors = rng.random((COUNT, 3), np.float32)
    d_rgb = rng.normal(size=(scene.height, scene.width, 3)).astype(np.float32)
    results = []
    for splats, colors in (
        ((*everything, opacities if presence is None else opacities * presence), all_colors),
        ((shown.means, shown.quats, shown.scales, shown.opacities), all_colors[shown.which]),
    ):
        rasterizer = NumbaRasterizer(threads=1)
        render = rasterizer.forward(
            *splats, colors, viewmat, scene.K.numpy(), scene.width, scene.height
        )
        results.append((render, rasterizer.backward(render, d_rgb)))
    (full, full_gradient), (few, few_gradient) = results
    for name in ("rgb", "depth", "alpha"):
        assert getattr(full, name).tobytes() == getattr(few, name).tobytes(), name
    others = np.ones(COUNT, np.bool_)
    others[shown.which] = False
    assert not full_gradient.radius[others].any(), "what is left out is not drawn"
    for name in ("means", "quats", "scales", "opacities", "colors"):
        of_all, of_few = getattr(full_gradient, name), getattr(few_gradient, name)
        assert of_all[shown.which].tobytes() == of_few.tobytes(), name
        assert not of_all[others].any(), name


@pytest.mark.parametrize("kind", ["mixed", "tiny"])
def test_hardly_more_than_what_is_drawn_is_found(kind: str) -> None:
    scene = random_scene(3, COUNT, 61, 45, kind)
    parameters = store(scene)
    turned = around(scene, 0.9)
    shown = Sieve()(parameters, turned, scene.K.numpy(), 61, 45)
    rasterizer = NumbaRasterizer(threads=1)
    render = rasterizer.forward(
        parameters.means[:COUNT], parameters.quats[:COUNT], parameters.scales[:COUNT],
        parameters.opacities[:COUNT], parameters.colors[:COUNT], turned, scene.K.numpy(), 61, 45,
    )  # fmt: skip
    drawn = int((rasterizer.backward(render, np.ones_like(render.rgb)).radius > 0).sum())
    assert 0 < drawn <= len(shown.which) < 1.3 * drawn + 20 < COUNT


def test_what_is_left_out_of_a_step_is_not_found_and_a_larger_map_fits() -> None:
    scene = random_scene(4, COUNT, 61, 45)
    parameters = store(scene)
    sieve = Sieve()
    K, view = scene.K.numpy(), scene.viewmat.numpy()
    first = sieve(parameters, view, K, 61, 45).which.copy()
    presence = np.ones(COUNT, np.float32)
    presence[first[::2]] = 0.0
    assert sieve(parameters, view, K, 61, 45, presence).which.tolist() == first[1::2].tolist()
    parameters.add(1, parameters.splats())
    again = sieve(parameters, view, K, 61, 45).which
    assert again.tolist() == [*first, *(first + COUNT)]
    assert len(sieve(SplatParameters(4), view, K, 61, 45).which) == 0


def test_splats_that_are_no_numbers_spoil_no_other() -> None:
    scene = random_scene(5, COUNT, 61, 45)
    parameters = store(scene)
    clean = Sieve()(parameters, scene.viewmat.numpy(), scene.K.numpy(), 61, 45).which.tolist()
    broken = clean[:3]
    parameters.means[broken[0]] = np.nan
    parameters.scales[broken[1]] = np.inf
    parameters.opacities[broken[2]] = np.nan
    with_them = Sieve()(parameters, scene.viewmat.numpy(), scene.K.numpy(), 61, 45).which
    assert set(clean) - set(broken) <= set(with_them.tolist())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, 999)), min_size=1, max_size=3), st.integers(1, 5))
def test_spans_cover_every_row_once(rows: list[set[int]], parts: int) -> None:
    which = [np.array(sorted(some), np.int64) for some in rows]
    spans = even_spans(which, 1000, parts)
    assert len(spans) == parts
    assert [n for first, last in spans for n in range(first, last)] == list(range(1000))


def test_spans_have_as_much_to_do() -> None:
    which = [np.arange(60_000, 70_000), np.arange(63_000, 70_000)]
    (_, middle), (_, count) = even_spans(which, 76_000, 2)
    assert count == 76_000
    below = sum(int((rows < middle).sum()) for rows in which)
    assert abs(below - 8_500) < 200

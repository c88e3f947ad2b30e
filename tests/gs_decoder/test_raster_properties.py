"""The kernels against plain torch in double precision, on random scenes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import INPUTS, Scene, random_scene, relative_l2

from gs_decoder.raster import rasterize, reference
from gs_decoder.raster.contract import View

IMAGES = ("rgb", "depth", "alpha")


def firm_pixels(scene: Scene, max_alpha: float) -> torch.Tensor:
    """(H,W) True where no pair is so close to a threshold that rounding decides about it."""
    leaves = {k: v.detach() for k, v in scene.leaves(torch.float64).items()}

    def render(min_alpha: float, min_transmittance: float) -> torch.Tensor:
        view = View(
            width=scene.width,
            height=scene.height,
            sh_degree=scene.sh_degree,
            max_alpha=max_alpha,
            near=0.01,
        )
        found = reference.render(
            **leaves, view=view, min_alpha=min_alpha, min_transmittance=min_transmittance
        )
        return torch.cat([found.rgb, found.alpha[..., None]], -1)

    base = render(reference.MIN_ALPHA, reference.MIN_TRANSMITTANCE)
    firm = torch.ones(base.shape[:2], dtype=torch.bool)
    for factor in (1 - 1e-3, 1 + 1e-3):
        firm &= (render(reference.MIN_ALPHA * factor, reference.MIN_TRANSMITTANCE) == base).all(-1)
        firm &= (render(reference.MIN_ALPHA, reference.MIN_TRANSMITTANCE * factor) == base).all(-1)
    return firm


def compare(scene: Scene, max_alpha: float = 0.999) -> tuple[dict[str, float], dict[str, float]]:
    """Largest image differences and relative L2 differences of the gradients, firm pixels only."""
    firm = firm_pixels(scene, max_alpha)
    assert firm.float().mean() > 0.5
    generator = torch.Generator().manual_seed(1)
    weights = {
        "rgb": torch.randn((*firm.shape, 3), generator=generator) * firm[..., None],
        "depth": torch.randn(firm.shape, generator=generator) * firm,
        "alpha": torch.randn(firm.shape, generator=generator) * firm,
    }
    results, leaves = {}, {}
    for backend, dtype in (("numba", torch.float32), ("reference", torch.float64)):
        leaves[backend] = scene.leaves(dtype)
        if backend == "numba":
            results[backend] = rasterize(
                **leaves[backend],
                width=scene.width,
                height=scene.height,
                sh_degree=scene.sh_degree,
                max_alpha=max_alpha,
                backend="numba",
            )
        else:
            view = View(
                width=scene.width,
                height=scene.height,
                sh_degree=scene.sh_degree,
                max_alpha=max_alpha,
                near=0.01,
            )
            results[backend] = reference.render(**leaves[backend], view=view)
        loss = sum((getattr(results[backend], k) * w.to(dtype)).sum() for k, w in weights.items())
        loss.backward()
    differences = {}
    for k in IMAGES:
        off = (getattr(results["numba"], k) - getattr(results["reference"], k)).detach().abs()
        differences[k] = float(off[firm].max()) if firm.any() else 0.0
    gradients = {
        k: relative_l2(leaves["numba"][k].grad, leaves["reference"][k].grad)
        for k in INPUTS
        if k != "background"
    }
    # What is left of the background can be 1e-4 of a float32 close to one: measured against it.
    off = leaves["numba"]["background"].grad - leaves["reference"]["background"].grad
    gradients["background"] = float(off.abs().max() / weights["rgb"].abs().sum().clamp_min(1e-6))
    return differences, gradients


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 70),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    kind=st.sampled_from(["mixed", "near", "huge", "tiny"]),
    sh=st.sampled_from([(None, None), (0, 1), (1, 4), (2, 9), (3, 16), (1, 16), (2, 10)]),
    max_alpha=st.sampled_from([0.999, 0.99]),
)
def test_numba_equals_reference(seed, count, width, height, kind, sh, max_alpha):
    scene = random_scene(seed, count, width, height, kind, *sh)
    differences, gradients = compare(scene, max_alpha)
    assert differences["rgb"] < 2e-5 and differences["alpha"] < 2e-5, differences
    assert differences["depth"] < 1e-4, differences
    # Behind huge splats all is opaque: gradients are differences of nearly equal light.
    tolerance = 2e-3 if kind == "huge" else 2e-4
    for name, off in gradients.items():
        assert off < tolerance, (name, gradients)


@pytest.mark.parametrize("seed", range(4))
def test_needles(seed):
    """1:1000 splats: where the usual form of the ellipse loses its digits."""
    differences, gradients = compare(random_scene(seed, 40, 61, 47, "needles"))
    assert max(differences.values()) < 1e-4, differences
    assert max(gradients.values()) < 1e-3, gradients


def test_gradients_by_finite_differences():
    """The analytic gradient of the kernels against central differences of the reference."""
    scene = random_scene(5, 12, 24, 18)
    firm = firm_pixels(scene, 0.999).double()
    leaves = scene.leaves()
    found = rasterize(**leaves, width=24, height=18, backend="numba")
    (found.rgb.double() * firm[..., None]).sum().backward()
    view = View(width=24, height=18, sh_degree=None, max_alpha=0.999, near=0.01)
    exact = {k: v.detach() for k, v in scene.leaves(torch.float64).items()}
    generator = torch.Generator().manual_seed(0)
    for name in ("means", "quats", "scales", "opacities", "colors", "viewmat", "K"):
        direction = torch.randn(exact[name].shape, generator=generator, dtype=torch.float64)
        if name == "viewmat":
            direction[3] = 0
        if name == "K":
            direction *= torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 0]])
        sums = []
        for sign in (1, -1):
            moved = {**exact, name: exact[name] + sign * 1e-6 * direction}
            image = reference.render(**moved, view=view).rgb
            sums.append((image * firm[..., None]).sum())
        slope = float(sums[0] - sums[1]) / 2e-6
        analytic = float((leaves[name].grad.double() * direction).sum())
        assert analytic == pytest.approx(slope, rel=2e-3, abs=2e-3), name

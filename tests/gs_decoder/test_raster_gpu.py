"""The gsplat backend against the stored scenes; needs a CUDA device and a working gsplat."""

import numpy as np
import pytest
import torch
from raster_scenes import relative_l2, stored_scene

from gs_decoder.raster import RasterBackendError, rasterize

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device("cuda")


@pytest.mark.timeout(900)  # gsplat compiles its kernels at first use
@pytest.mark.parametrize("name", ["one_per_pixel", "opaque_clamp", "random", "sh3"])
def test_images_and_gradients(fixture_file, cuda, name):
    stored = stored_scene(fixture_file(f"raster/{name}.npz"))
    scene = stored.scene
    leaves = {k: v.detach().to(cuda).requires_grad_() for k, v in scene.leaves().items()}
    render = rasterize(**leaves, width=scene.width, height=scene.height, sh_degree=scene.sh_degree)
    for image in ("rgb", "alpha", "depth"):
        off = np.abs(getattr(render, image).detach().cpu().numpy() - stored.images[image])
        # Single pairs flip at the thresholds: percentiles, not the largest difference.
        assert np.percentile(off, 99) < 1e-4, image
        assert off.mean() < 1e-4, image
    loss = sum((getattr(render, k) * w.to(cuda)).sum() for k, w in stored.weights.items())
    loss.backward()
    for leaf, expected in stored.gradients.items():
        assert relative_l2(leaves[leaf].grad.cpu(), expected) < 2e-2, leaf


def test_another_max_alpha_is_refused(fixture_file, cuda):
    scene = stored_scene(fixture_file("raster/random.npz")).scene
    moved = {k: v.to(cuda) for k, v in scene.leaves().items()}
    with pytest.raises(RasterBackendError, match="max_alpha"):
        rasterize(**moved, width=scene.width, height=scene.height, max_alpha=0.99)

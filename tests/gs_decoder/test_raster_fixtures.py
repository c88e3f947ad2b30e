"""Both CPU backends against scenes rendered and differentiated by gsplat 1.5.3's own reference."""

import numpy as np
import pytest
from raster_scenes import relative_l2, stored_scene

from gs_decoder.raster import rasterize


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("name", ["one_per_pixel", "opaque_clamp", "random", "sh3"])
def test_images_and_gradients(fixture_file, name, backend):
    stored = stored_scene(fixture_file(f"raster/{name}.npz"))
    scene, leaves = stored.scene, stored.scene.leaves()
    render = rasterize(
        **leaves,
        width=scene.width,
        height=scene.height,
        sh_degree=scene.sh_degree,
        max_alpha=stored.max_alpha,
        backend=backend,
    )
    for image, tolerance in (("rgb", 1e-5), ("alpha", 1e-5), ("depth", 5e-5)):
        found = getattr(render, image).detach().numpy()
        np.testing.assert_allclose(found, stored.images[image], rtol=0, atol=tolerance)
    sum((getattr(render, k) * w).sum() for k, w in stored.weights.items()).backward()
    for leaf, expected in stored.gradients.items():
        assert relative_l2(leaves[leaf].grad, expected) < 1e-4, leaf

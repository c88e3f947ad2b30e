"""Wrong arguments are refused with the argument, what it was, and what to pass instead."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from raster_scenes import random_scene

from gs_decoder.raster import (
    NumbaRasterizer,
    RasterBackendError,
    RasterDeviceError,
    RasterDtypeError,
    RasterError,
    RasterShapeError,
    rasterize,
)


def arguments(**changes):
    scene = random_scene(0, 5, 8, 6)
    return {**scene.leaves(), "width": 8, "height": 6, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "parts"),
    [
        ({"means": torch.zeros(5, 4)}, RasterShapeError, ["means", "(5, 4)", "(N,3)"]),
        ({"means": torch.zeros(1, 5, 3)}, RasterShapeError, ["means", "(1, 5, 3)"]),
        ({"quats": torch.zeros(5, 3)}, RasterShapeError, ["quats", "(5, 3)", "(N,4)"]),
        ({"scales": torch.zeros(4, 3)}, RasterShapeError, ["scales", "(4, 3)"]),
        ({"opacities": torch.zeros(5, 1)}, RasterShapeError, ["opacities", "(5, 1)"]),
        ({"colors": torch.zeros(5, 16, 3)}, RasterShapeError, ["colors", "(5, 16, 3)"]),
        ({"sh_degree": 2}, RasterShapeError, ["colors", "(5, 3)", "K >= 9"]),
        (
            {"sh_degree": 2, "colors": torch.zeros(5, 4, 3)},
            RasterShapeError,
            ["colors", "(5, 4, 3)", "K >= 9"],
        ),
        ({"sh_degree": 4}, RasterError, ["sh_degree", "4"]),
        ({"viewmat": torch.eye(3)}, RasterShapeError, ["viewmat", "(3, 3)"]),
        ({"K": torch.eye(4)}, RasterShapeError, ["K", "(4, 4)"]),
        ({"K": torch.zeros(3, 3)}, RasterError, ["K", "focal"]),
        ({"background": torch.zeros(1, 3)}, RasterShapeError, ["background", "(1, 3)"]),
        ({"width": 0}, RasterShapeError, ["width", "0"]),
        ({"height": 2.5}, RasterShapeError, ["height", "2.5"]),
        ({"max_alpha": 0.0}, RasterError, ["max_alpha", "0.0"]),
        ({"near": -1.0}, RasterError, ["near", "-1.0"]),
        ({"means": torch.zeros(5, 3).double()}, RasterDtypeError, ["means", "float64"]),
        ({"scales": torch.zeros(5, 3).half()}, RasterDtypeError, ["scales", "float16"]),
        ({"means": np.zeros((5, 3))}, RasterDtypeError, ["means", "ndarray"]),
        ({"colors": [[0, 0, 0]] * 5}, RasterDtypeError, ["colors", "list"]),
        ({"K": torch.eye(3, device="meta")}, RasterDeviceError, ["K", "meta", "cpu"]),
        ({"backend": "vulkan"}, RasterBackendError, ["vulkan", "numba"]),
        ({"backend": "gsplat"}, RasterDeviceError, ["gsplat", "cuda", "cpu"]),
    ],
)
def test_refusals(changes, error, parts):
    with pytest.raises(error) as caught:
        rasterize(**arguments(**changes))
    assert isinstance(caught.value, ValueError)
    for part in parts:
        assert part in str(caught.value)


def test_singular_view():
    with pytest.raises(RasterError, match="viewmat"):
        rasterize(**arguments(viewmat=torch.zeros(4, 4)))


def test_the_low_level_checks_sizes_too():
    scene = random_scene(0, 5, 8, 6)
    arrays = [
        getattr(scene, k).numpy() for k in ("means", "quats", "scales", "opacities", "colors")
    ]
    rasterizer = NumbaRasterizer(threads=1)
    camera = (scene.viewmat.numpy(), scene.K.numpy(), 8, 6)
    with pytest.raises(RasterShapeError, match="scales"):
        rasterizer.forward(*arrays[:2], arrays[2][:4], *arrays[3:], *camera)
    first = rasterizer.forward(*arrays, *camera)
    with pytest.raises(RasterShapeError, match="d_rgb"):
        rasterizer.backward(first, np.zeros((8, 6, 3), np.float32))
    rasterizer.forward(*arrays, *camera)
    with pytest.raises(RuntimeError, match="last"):
        rasterizer.backward(first, np.zeros((6, 8, 3), np.float32))


def test_read_only_and_double_arrays_are_taken():
    scene = random_scene(0, 5, 8, 6)
    arrays = [
        getattr(scene, k).numpy() for k in ("means", "quats", "scales", "opacities", "colors")
    ]
    camera = (scene.viewmat.numpy(), scene.K.numpy(), 8, 6)
    expected = NumbaRasterizer(threads=1).forward(*arrays, *camera)
    frozen = [np.frombuffer(a.tobytes(), np.float32).reshape(a.shape) for a in arrays]
    frozen[1] = frozen[1].astype(np.float64)
    found = NumbaRasterizer(threads=1).forward(*frozen, *camera)
    assert (found.rgb == expected.rgb).all()


def test_changed_output_is_refused_by_autograd():
    inputs = arguments()
    render = rasterize(**inputs)
    render.rgb.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        render.rgb.sum().backward()


def test_gsplat_is_not_imported_on_the_cpu():
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from raster_scenes import random_scene\n"
        "from gs_decoder.raster import rasterize\n"
        "s = random_scene(0, 5, 8, 6)\n"
        "rasterize(**s.leaves(), width=8, height=6, backend='reference')\n"
        "assert 'gsplat' not in sys.modules\n"
    )
    here = __file__.rsplit("/", 1)[0]
    subprocess.run([sys.executable, "-c", code, here], check=True, timeout=120)

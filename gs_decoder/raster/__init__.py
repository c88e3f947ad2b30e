"""Rasterising of 3D Gaussians: `rasterize` for torch, `NumbaRasterizer` for tight loops.

Conventions: world-to-camera `viewmat` with OpenCV axes, quaternions wxyz, linear scales,
opacities 0..1, the centre of the first pixel at (0.5, 0.5).
"""

from gs_decoder.raster.contract import (
    RasterBackendError,
    RasterDeviceError,
    RasterDtypeError,
    RasterError,
    RasterShapeError,
    Render,
)
from gs_decoder.raster.cpu.rasterizer import NumbaRasterizer
from gs_decoder.raster.cpu.results import Context, Gradients, NumpyRender
from gs_decoder.raster.cpu.warm_up import warm_up
from gs_decoder.raster.dispatch import BACKENDS, rasterize

__all__ = [
    "BACKENDS",
    "Context",
    "Gradients",
    "NumbaRasterizer",
    "NumpyRender",
    "RasterBackendError",
    "RasterDeviceError",
    "RasterDtypeError",
    "RasterError",
    "RasterShapeError",
    "Render",
    "rasterize",
    "warm_up",
]

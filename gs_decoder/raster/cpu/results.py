"""What `NumbaRasterizer` returns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gs_decoder.raster.cpu.inputs import Batch, Floats


@dataclass(slots=True)
class Context:
    """What `NumbaRasterizer.backward` needs of a forward pass.

    It refers to the rasteriser's workspace and is good until that rasteriser's next forward.
    """

    generation: int
    splats: tuple[Batch, ...]
    count: int
    camera: Floats
    center: npt.NDArray[np.float64]
    inverse_rotation: npt.NDArray[np.float64]
    background: Floats
    width: int
    height: int
    sh_degree: int | None
    bases: int
    max_alpha: float
    tiles_x: int
    rgb: Floats
    depth: Floats
    alpha: Floats
    pairs: int


@dataclass(frozen=True, slots=True)
class NumpyRender:
    """`rgb` (H,W,3), `depth` (H,W) expected z-depth (0 where nothing is), `alpha` (H,W)."""

    rgb: Floats
    depth: Floats
    alpha: Floats
    context: Context


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of the loss, and what pruning and densification want to know, per splat.

    Views of the rasteriser's workspace: good until its next backward.
    """

    means: Floats  # (N,3)
    quats: Floats  # (N,4)
    scales: Floats  # (N,3)
    opacities: Floats  # (N,)
    colors: Floats  # as the colours were given: (N,3) or (N,K,3)
    viewmat: Floats  # (4,4)
    K: Floats  # (3,3)
    center_gradient: Floats  # (N,) length of the gradient of the centre in the image, 1/pixel
    weight: Floats  # (N,) sum of blending weights over the pixels
    pixels: Floats  # (N,) number of pixels that the splat was blended into
    radius: Floats  # (N,) larger half-side of its pixel box, pixels; 0 if not in view

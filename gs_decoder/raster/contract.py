"""What every backend promises: the result, the errors and the check of the arguments."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_SH_DEGREE = 3


class RasterError(ValueError):
    """An argument of `rasterize` that cannot be used."""


class RasterShapeError(RasterError):
    """A tensor of the wrong shape, or an image size that is no size."""


class RasterDtypeError(RasterError):
    """Not a float32 tensor."""


class RasterDeviceError(RasterError):
    """Tensors on different devices, or on one that the backend cannot use."""


class RasterBackendError(RasterError):
    """An unknown backend, or one that cannot do what is asked."""


class Render(NamedTuple):
    """One rendered view; tensors on the device of the inputs, unpacks as (rgb, depth, alpha).

    Attributes:
        rgb: (H,W,3), the background blended in where light is left.
        depth: (H,W) expected z-depth in world units (sum of weight*z over alpha); 0 where
            nothing was hit.
        alpha: (H,W) sum of the blending weights, 0..1.
    """

    rgb: Tensor
    depth: Tensor
    alpha: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The checked, non-differentiable arguments of one call."""

    width: int
    height: int
    sh_degree: int | None
    max_alpha: float
    near: float


def _expect(
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    text: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    if not isinstance(tensor, Tensor):
        raise RasterDtypeError(
            f"{name}: {type(tensor).__name__}; pass a float32 torch tensor of shape {text}"
        )
    if tensor.shape != shape:
        raise RasterShapeError(f"{name}: shape {tuple(tensor.shape)}; expected {text} = {shape}")
    if tensor.dtype != dtype:
        raise RasterDtypeError(f"{name}: {tensor.dtype}; convert it with .to({dtype})")
    if tensor.device != device:
        raise RasterDeviceError(
            f"{name}: on {tensor.device}, but means are on {device}; move all to one device"
        )


def _expect_number(name: str, value: float, low: float, high: float) -> None:
    if not low < value <= high:
        raise RasterError(f"{name}: {value}; expected above {low} and at most {high}")


def check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    background: Tensor | None,
    max_alpha: float,
    near: float,
    *,
    double: bool = False,
) -> View:
    """Raise a `RasterError` that names the argument, what it was and what to pass instead."""
    if not isinstance(means, Tensor):
        raise RasterDtypeError(
            f"means: {type(means).__name__}; pass a float32 torch tensor of shape (N,3)"
        )
    if means.ndim != 2 or means.shape[1] != 3:
        raise RasterShapeError(f"means: shape {tuple(means.shape)}; expected (N,3)")
    count, device = means.shape[0], means.device
    # Only the plain reference computes in double; the kernels are float32.
    dtype = torch.float64 if double and means.dtype == torch.float64 else torch.float32
    _expect("means", means, (count, 3), "(N,3)", device, dtype)
    _expect("quats", quats, (count, 4), "(N,4)", device, dtype)
    _expect("scales", scales, (count, 3), "(N,3)", device, dtype)
    _expect("opacities", opacities, (count,), "(N,)", device, dtype)
    _expect("viewmat", viewmat, (4, 4), "(4,4)", device, dtype)
    _expect("K", K, (3, 3), "(3,3)", device, dtype)
    if background is not None:
        _expect("background", background, (3,), "(3,)", device, dtype)
    if sh_degree is None:
        _expect("colors", colors, (count, 3), "(N,3) without sh_degree", device, dtype)
    else:
        if isinstance(sh_degree, bool) or sh_degree not in range(MAX_SH_DEGREE + 1):
            raise RasterError(f"sh_degree: {sh_degree!r}; expected None or 0 to {MAX_SH_DEGREE}")
        least = (sh_degree + 1) ** 2
        if not isinstance(colors, Tensor):
            raise RasterDtypeError(
                f"colors: {type(colors).__name__}; pass a float32 torch tensor of shape (N,K,3)"
            )
        if colors.ndim != 3 or colors.shape[1] < least:
            raise RasterShapeError(
                f"colors: shape {tuple(colors.shape)}; expected (N,K,3) with K >= {least} "
                f"for sh_degree={sh_degree}"
            )
        _expect("colors", colors, (count, colors.shape[1], 3), "(N,K,3)", device, dtype)
    for name, size in (("width", width), ("height", height)):
        if isinstance(size, bool) or int(size) != size or size < 1:
            raise RasterShapeError(
                f"{name}: {size!r}; expected a whole number of pixels, 1 or more"
            )
    # Looking at values of a CUDA tensor would wait for the device.
    if device.type == "cpu" and not bool((K.detach().diagonal()[:2] > 0).all()):
        raise RasterError(f"K: focal lengths {K.diagonal()[:2].tolist()}; expected pixels above 0")
    _expect_number("max_alpha", max_alpha, 0.0, 1.0)
    _expect_number("near", near, 0.0, 1e10)
    return View(
        width=int(width),
        height=int(height),
        sh_degree=None if sh_degree is None else int(sh_degree),
        max_alpha=float(max_alpha),
        near=float(near),
    )

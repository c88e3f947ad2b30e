"""`NumbaRasterizer` as a function that torch can differentiate."""

from threading import Lock
from typing import Any

import numba
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gs_decoder.raster.contract import Render, View
from gs_decoder.raster.cpu.rasterizer import NumbaRasterizer

_idle: list[NumbaRasterizer] = []
_idle_lock = Lock()
_MAX_IDLE = 4


class _Lease:
    """A rasteriser out of the pool; it goes back when the last who needs its workspace is gone."""

    def __init__(self) -> None:
        with _idle_lock:
            self.rasterizer = _idle.pop() if _idle else NumbaRasterizer()
        self.rasterizer.threads = numba.get_num_threads()

    def __del__(self) -> None:
        # May run inside a collection that a holder of the lock set off: then let it go.
        if _idle_lock.acquire(blocking=False):
            try:
                if len(_idle) < _MAX_IDLE:
                    _idle.append(self.rasterizer)
            finally:
                _idle_lock.release()


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *inputs, background, view = arguments
        lease = _Lease()
        means, quats, scales, opacities, colors, viewmat, K = (_array(t) for t in inputs)
        result = lease.rasterizer.forward(
            means,
            quats,
            scales,
            opacities,
            colors,
            viewmat,
            K,
            view.width,
            view.height,
            sh_degree=view.sh_degree,
            background=None if background is None else _array(background),
            max_alpha=view.max_alpha,
            near=view.near,
        )
        rgb, depth, alpha = map(torch.from_numpy, (result.rgb, result.depth, result.alpha))
        # The kernels read this memory again: torch then refuses what was changed in between.
        ctx.save_for_backward(*inputs, rgb, depth, alpha)
        ctx.lease, ctx.result = lease, result
        return rgb, depth, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_images: Tensor) -> tuple[Tensor | None, ...]:
        alpha = ctx.saved_tensors[-1]
        d_rgb, d_depth, d_alpha = d_images
        found = ctx.lease.rasterizer.backward(
            ctx.result, d_rgb.numpy(), d_depth.numpy(), d_alpha.numpy()
        )
        arrays = (
            found.means,
            found.quats,
            found.scales,
            found.opacities,
            found.colors,
            found.viewmat,
            found.K,
        )
        gradients: list[Tensor | None] = [
            torch.from_numpy(array.copy()) if needed else None
            for array, needed in zip(arrays, ctx.needs_input_grad)
        ]
        d_background = None
        if ctx.needs_input_grad[len(arrays)]:
            left = (1 - alpha).double()[..., None]
            d_background = (d_rgb * left).sum((0, 1)).float()
        return (*gradients, d_background, None)


def render(
    means: Tensor,  # (N,3)
    quats: Tensor,  # (N,4)
    scales: Tensor,  # (N,3)
    opacities: Tensor,  # (N,)
    colors: Tensor,  # (N,3) or (N,K,3)
    viewmat: Tensor,  # (4,4)
    K: Tensor,  # (3,3)
    background: Tensor | None,  # (3,)
    view: View,
) -> Render:
    """Render on as many threads as `numba.get_num_threads()` says."""
    rgb, depth, alpha = _Rasterize.apply(
        means, quats, scales, opacities, colors, viewmat, K, background, view
    )
    return Render(rgb, depth, alpha)

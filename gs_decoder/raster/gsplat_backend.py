"""The CUDA backend: gsplat behind the common contract.

gsplat is imported here alone, at the first render with CUDA tensors: on machines without a
GPU its import can fail.
"""

from torch import Tensor

from gs_decoder.raster.contract import RasterBackendError, Render, View

_BUILT_IN_MAX_ALPHA = 0.999  # in gsplat's CUDA sources; not an argument there


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
    """Render with `gsplat.rasterization`.

    Raises:
        RasterBackendError: gsplat cannot be imported, or `max_alpha` is not its own.
    """
    if view.max_alpha != _BUILT_IN_MAX_ALPHA:
        raise RasterBackendError(
            f"max_alpha: {view.max_alpha}; gsplat has {_BUILT_IN_MAX_ALPHA} built in, "
            'pass that or use backend="reference"'
        )
    size = (view.height, view.width)
    if means.shape[0] == 0:
        # gsplat's kernels are not launched on nothing.
        behind = means.new_zeros(3) if background is None else background
        # Zero, but part of the graph: a backward through an empty map must not fail.
        nothing = sum(values.sum() for values in (means, quats, scales, opacities, colors))
        empty = means.new_zeros(size) + 0.0 * (nothing + viewmat.sum())
        return Render(behind.expand(*size, 3) + empty[..., None], empty, empty.clone())
    try:
        from gsplat import rasterization
    except (ImportError, OSError, RuntimeError) as error:
        raise RasterBackendError(
            f"gsplat cannot be imported ({error}); install gsplat>=1.5.3 and packaging with "
            "a CUDA toolkit that fits torch, or move the tensors to the CPU"
        ) from error
    image, alpha, _ = rasterization(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmat[None],
        K[None],
        view.width,
        view.height,
        near_plane=view.near,
        sh_degree=view.sh_degree,
        packed=False,
        backgrounds=None if background is None else background[None],
        render_mode="RGB+ED",
    )
    return Render(image[0, ..., :3], image[0, ..., 3], alpha[0, ..., 0])

"""`rasterize`: one contract, three backends."""

from torch import Tensor

from gs_decoder.raster.contract import (
    RasterBackendError,
    RasterDeviceError,
    Render,
    check,
)

BACKENDS = ("auto", "numba", "gsplat", "reference")


def rasterize(
    means: Tensor,  # (N,3)
    quats: Tensor,  # (N,4)
    scales: Tensor,  # (N,3)
    opacities: Tensor,  # (N,)
    colors: Tensor,  # (N,3) or (N,K,3)
    viewmat: Tensor,  # (4,4)
    K: Tensor,  # (3,3)
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    background: Tensor | None = None,  # (3,)
    max_alpha: float = 0.999,
    near: float = 0.01,
    backend: str = "auto",
) -> Render:
    """Render 3D Gaussians into one pinhole view, with gradients to every float input.

    EWA splatting with the semantics of gsplat's "classic" mode (Kerbl et al. 2023, Zwicker
    et al. 2002): 0.3 px^2 added to the 2D covariance, pixel centres at +0.5, front to back,
    alpha = min(max_alpha, opacity exp(-sigma)), pairs with alpha < 1/255 skipped, a pixel
    stops before its transmittance would fall to 1e-4 or below.

    Args:
        means: (N,3) centres, world units.
        quats: (N,4) rotations wxyz, normalised inside.
        scales: (N,3) standard deviations along the axes, linear, world units.
        opacities: (N,) 0..1.
        colors: (N,3) RGB, or (N,K,3) spherical-harmonics coefficients with `sh_degree`.
        viewmat: (4,4) world to camera, OpenCV axes.
        K: (3,3) pinhole intrinsics, pixels, without skew.
        width, height: image size, pixels.
        sh_degree: degree of the harmonics in use, 0 to 3; may be below what K holds.
            Colour is max(0, SH + 1/2) seen from the camera's centre.
        background: (3,) colour behind everything; black if None.
        max_alpha: limit of one splat's alpha. gsplat 1.5.3 has 0.999 built in.
        near: splats at or before this z-depth are not drawn, world units.
        backend: "numba" (CPU kernels), "gsplat" (CUDA; no gradient to K), "reference" (plain
            torch, slow) or "auto": gsplat for CUDA tensors, else numba.

    Raises:
        RasterShapeError, RasterDtypeError, RasterDeviceError, RasterBackendError: all of them
            `RasterError`, a `ValueError`.
    """
    if backend not in BACKENDS:
        raise RasterBackendError(f"backend: {backend!r}; expected one of {', '.join(BACKENDS)}")
    view = check(
        means, quats, scales, opacities, colors, viewmat, K, width, height, sh_degree,
        background, max_alpha, near, double=backend == "reference",
    )  # fmt: skip
    device = means.device.type
    if backend == "auto":
        backend = "gsplat" if device == "cuda" else "numba"
    required = {"numba": "cpu", "gsplat": "cuda"}.get(backend)
    if required is not None and device != required:
        raise RasterDeviceError(
            f"backend {backend!r} needs {required} tensors, these are on {means.device}; "
            'move them, or use backend="auto"'
        )
    splats = (means, quats, scales, opacities, colors)
    # Imported at use: gsplat must not be touched without CUDA.
    if backend == "numba":
        from gs_decoder.raster.cpu.autograd import render as render_numba

        return render_numba(*splats, viewmat, K, background, view)
    if backend == "gsplat":
        from gs_decoder.raster.gsplat_backend import render as render_gsplat

        return render_gsplat(*splats, viewmat, K, background, view)
    from gs_decoder.raster.reference import render as render_reference

    return render_reference(*splats, viewmat, K, background, view)

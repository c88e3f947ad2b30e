"""Loss and gradient of one view: the numba kernels on the CPU, autograd where gsplat renders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder.photometric import photometric_loss
from gs_decoder.raster import NumbaRasterizer, NumpyRender, Render, rasterize
from gs_decoder.refine.gains import gain_step
from gs_decoder.refine.in_view import InView, Sieve
from gs_decoder.refine.poses import PoseEvidence, align

if TYPE_CHECKING:
    from gs_decoder.refine.parameters import SplatParameters
    from gs_decoder.refine.views import RefineView

Float32 = NDArray[np.float32]

_TOLD_ALPHA = np.float32(0.9)
"""Pixels that the map does not fill say nothing of gain and pose: they are dark for another reason.
"""


@dataclass(frozen=True, slots=True)
class ViewGradient:
    """Loss of one view and its gradient with respect to what the rasteriser takes.

    Of the splats `which` (M,), rows in rising order; by the others it is 0. `means` (M, 3),
    `quats` (M, 4), `scales` (M, 3), `opacities` (M,), `colors` (M, 3) float32, as seen from
    `center` (3,); `gain_step` (3,) and `pose`, see `ImageGradient`; `mse` over the valid pixels.
    """

    loss: float
    mse: float
    which: NDArray[np.int64]
    means: Float32
    quats: Float32
    scales: Float32
    opacities: Float32
    colors: Float32
    center: Float32
    gain_step: Float32
    pose: PoseEvidence | None = None


class ViewRenderer(Protocol):
    """What a Refiner needs of a backend; called by one worker thread at a time per `worker`."""

    def render(
        self,
        parameters: SplatParameters,
        viewmat: Float32,
        K: Float32,
        width: int,
        height: int,
        background: Float32,
    ) -> tuple[Float32, Float32, Float32]:
        """rgb (H, W, 3), expected z-depth (H, W), alpha (H, W), the caller's to keep."""
        ...

    def gradient(
        self,
        worker: int,
        parameters: SplatParameters,
        viewmat: Float32,
        view: RefineView,
        presence: Float32 | None = None,
        *,
        background: Float32,
        ssim_weight: float,
        depth_weight: float,
        find_pose: bool = False,
    ) -> ViewGradient:
        """Args:
        presence: (N,) factors on the opacities, 0 for a splat that is left out of this step.
        find_pose: with `pose`.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImageGradient:
    """Loss of a rendered view and its gradient by `rgb` (H, W, 3) and `depth` (H, W); `gain_step`
    (3,): by how much the log gain would have to change to explain most of what is left;
    `pose`: what it says of the camera, where that was asked for and it tells."""

    loss: float
    mse: float
    rgb: Float32
    depth: Float32
    gain_step: Float32
    pose: PoseEvidence | None


def image_gradient(
    rgb: Float32,
    depth: Float32,
    alpha: Float32,
    view: RefineView,
    *,
    ssim_weight: float,
    depth_weight: float,
    find_pose: bool = False,
) -> ImageGradient:
    """Photometric loss after the view's exposure gain, and relative L1 on sensor depth.

    Args:
        rgb, depth, alpha: the render, (H, W, 3), (H, W), (H, W) float32.
        view: image, mask, sensor depth and gain.
        ssim_weight, depth_weight: weights of SSIM and of the depth term.
        find_pose: with `pose`.
    """
    gain = np.exp(view.log_gain)
    target = view.image.astype(np.float32) * np.float32(1.0 / 255.0)
    exposed = rgb * gain
    photometric = photometric_loss(exposed, target, view.valid, ssim_weight=ssim_weight)
    loss, d_depth = photometric.value, np.zeros_like(depth)
    if view.depth is not None and depth_weight > 0.0:
        known = (view.depth > 0.0) & (alpha > 0.5)
        if view.valid is not None:
            known &= view.valid
        count = max(1, int(known.sum()))
        truth = np.where(known, view.depth, 1.0)
        relative = np.where(known, (depth - truth) / truth, 0.0)
        loss += depth_weight * float(np.abs(relative).sum()) / count
        d_depth = (depth_weight / count * np.sign(relative) / truth).astype(np.float32)
    told = alpha > _TOLD_ALPHA if view.valid is None else (alpha > _TOLD_ALPHA) & view.valid
    step = gain_step(exposed, target, told)
    pose = align(exposed, target, depth, told, view.K) if find_pose else None
    d_rgb = photometric.d_rgb * gain
    return ImageGradient(loss, photometric.mse, d_rgb, d_depth, step, pose)


def _center(viewmat: Float32) -> Float32:
    """(3,) of the camera of a (4, 4) rigid world-to-camera matrix."""
    center: Float32 = -viewmat[:3, :3].T @ viewmat[:3, 3]
    return center


class NumbaViewRenderer:
    """The CPU path: serial kernels with a workspace for each worker, no autograd."""

    def __init__(self, workers: int) -> None:
        self._rasterizers = [NumbaRasterizer(threads=1) for _ in range(workers)]
        self._sieves = [Sieve() for _ in range(workers)]

    def _forward(
        self,
        worker: int,
        parameters: SplatParameters,
        viewmat: Float32,
        K: NDArray[np.floating],
        width: int,
        height: int,
        background: Float32,
        presence: Float32 | None = None,
    ) -> tuple[NumpyRender, InView]:
        shown = self._sieves[worker](parameters, viewmat, K, width, height, presence)
        render = self._rasterizers[worker].forward(
            shown.means,
            shown.quats,
            shown.scales,
            shown.opacities,
            parameters.seen_from(_center(viewmat), shown.which),
            viewmat,
            K,
            width,
            height,
            background=background,
        )
        return render, shown

    def render(
        self,
        parameters: SplatParameters,
        viewmat: Float32,
        K: Float32,
        width: int,
        height: int,
        background: Float32,
    ) -> tuple[Float32, Float32, Float32]:
        # No worker runs while the caller renders: the first one's workspace is free.
        render, _ = self._forward(0, parameters, viewmat, K, width, height, background)
        return render.rgb.copy(), render.depth.copy(), render.alpha.copy()

    def gradient(
        self,
        worker: int,
        parameters: SplatParameters,
        viewmat: Float32,
        view: RefineView,
        presence: Float32 | None = None,
        *,
        background: Float32,
        ssim_weight: float,
        depth_weight: float,
        find_pose: bool = False,
    ) -> ViewGradient:
        height, width = view.image.shape[:2]
        K = view.K.astype(np.float32)
        render, shown = self._forward(
            worker, parameters, viewmat, K, width, height, background, presence
        )
        image = image_gradient(
            render.rgb,
            render.depth,
            render.alpha,
            view,
            ssim_weight=ssim_weight,
            depth_weight=depth_weight,
            find_pose=find_pose,
        )
        gradients = self._rasterizers[worker].backward(render, image.rgb, image.depth)
        present = 1.0 if presence is None else presence[shown.which]
        return ViewGradient(
            image.loss,
            image.mse,
            shown.which,
            gradients.means,
            gradients.quats,
            gradients.scales,
            gradients.opacities * present,
            gradients.colors,
            _center(viewmat),
            image.gain_step,
            image.pose,
        )


class TorchViewRenderer:
    """Autograd through `rasterize`: gsplat on CUDA, or any backend on the CPU to compare with."""

    def __init__(self, backend: str, device: str) -> None:
        self._backend = backend
        self._device = torch.device(device)

    def _leaves(
        self, parameters: SplatParameters, center: Float32, requires_grad: bool
    ) -> list[torch.Tensor]:
        used = slice(0, parameters.count)
        return [
            torch.tensor(array, device=self._device, requires_grad=requires_grad)
            for array in (
                parameters.means[used],
                parameters.quats[used],
                parameters.scales[used],
                parameters.opacities[used],
                parameters.seen_from(center, np.arange(parameters.count)),
            )
        ]

    def _rasterize(
        self,
        leaves: list[torch.Tensor],
        viewmat: Float32,
        K: NDArray[np.floating],
        width: int,
        height: int,
        background: Float32,
    ) -> Render:
        means, quats, scales, opacities, colors = leaves
        return rasterize(
            means,
            quats,
            scales,
            opacities,
            colors,
            torch.tensor(viewmat, device=self._device),
            torch.tensor(K, dtype=torch.float32, device=self._device),
            width,
            height,
            background=torch.tensor(background, device=self._device),
            backend=self._backend,
        )

    def render(
        self,
        parameters: SplatParameters,
        viewmat: Float32,
        K: Float32,
        width: int,
        height: int,
        background: Float32,
    ) -> tuple[Float32, Float32, Float32]:
        leaves = self._leaves(parameters, _center(viewmat), requires_grad=False)
        render = self._rasterize(leaves, viewmat, K, width, height, background)
        return render.rgb.cpu().numpy(), render.depth.cpu().numpy(), render.alpha.cpu().numpy()

    def gradient(
        self,
        worker: int,
        parameters: SplatParameters,
        viewmat: Float32,
        view: RefineView,
        presence: Float32 | None = None,
        *,
        background: Float32,
        ssim_weight: float,
        depth_weight: float,
        find_pose: bool = False,
    ) -> ViewGradient:
        height, width = view.image.shape[:2]
        center = _center(viewmat)
        leaves = self._leaves(parameters, center, requires_grad=True)
        seen = list(leaves)
        if presence is not None:
            seen[3] = leaves[3] * torch.from_numpy(presence).to(self._device)
        render = self._rasterize(seen, viewmat, view.K, width, height, background)
        image = image_gradient(
            render.rgb.detach().cpu().numpy(),
            render.depth.detach().cpu().numpy(),
            render.alpha.detach().cpu().numpy(),
            view,
            ssim_weight=ssim_weight,
            depth_weight=depth_weight,
            find_pose=find_pose,
        )
        gradients = torch.autograd.grad(
            [render.rgb, render.depth],
            leaves,
            [
                torch.tensor(image.rgb, device=self._device),
                torch.tensor(image.depth, device=self._device),
            ],
        )
        means, quats, scales, opacities, colors = (gradient.cpu().numpy() for gradient in gradients)
        return ViewGradient(
            image.loss,
            image.mse,
            np.arange(parameters.count),
            means,
            quats,
            scales,
            opacities,
            colors,
            center,
            image.gain_step,
            image.pose,
        )

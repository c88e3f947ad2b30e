"""Pictures rendered from predictions, differentiable: what the photometric loss is made of.

`ttt_core` knows no renderer; training hands it one of these. Splats are laid out as the product
lays them out (`gs_decoder.fusion`, `gs_decoder.from_depth`): same footprints, normals, opacities
and fillers where the prediction is unsure. Two things differ: all views give splats of one size of
cell everywhere, and nothing is left out because another view explains it.
Shape suffixes: V views that give splats, T views that are rendered, S streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as functional
from torch import Tensor

from gs_decoder import Splats, rasterize, splats_from_depth
from gs_decoder.fusion import FusionConfig
from ttt_core.network import NetworkOutput
from ttt_core.training.collate import StreamStep

_SEEN = 0.5


class RenderConfigError(ValueError):
    """A setting of the training renderer that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplatRenderer:
    """Renders views from other views' depth maps, with gradients to all predicted maps."""

    cell: int = 1
    """One splat for so many pixels along a side: 1, 2 or 4, the sizes that the product has."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """Its confidence below which a pixel is a filler, and the confidence that fillers get."""

    def __post_init__(self) -> None:
        if self.cell not in (1, 2, 4):
            raise RenderConfigError(f"cell is {self.cell}: give 1, 2 or 4")

    def __call__(
        self,
        depth: Tensor,  # (V, H, W)
        confidence: Tensor,  # (V, H, W)
        color: Tensor,  # (V, 3, H, W)
        log_scale_residual: Tensor,  # (V, 3, H, W)
        opacity_logit_residual: Tensor,  # (V, H, W)
        rotation_residual: Tensor,  # (V, 3, H, W)
        fxfycxcy: Tensor,  # (V, 4)
        c2w: Tensor,  # (V, 4, 4)
        target_fxfycxcy: Tensor,  # (T, 4)
        target_c2w: Tensor,  # (T, 4, 4)
        height: int,
        width: int,
    ) -> Tensor:
        """Pictures (T, 3, height, width) on black, values from 0; differentiable in the first six.

        Args:
            depth: z-depth in the poses' unit.
            confidence: 0..1.
            color: 0..1.
            log_scale_residual, opacity_logit_residual, rotation_residual: as in
                `splats_from_depth`.
            fxfycxcy, target_fxfycxcy: pixels of the (H, W) maps, of the rendered pictures.
            c2w, target_c2w: OpenCV camera to world, rigid.
        """
        return self.with_alpha(
            self.splats(
                depth,
                confidence,
                color,
                log_scale_residual,
                opacity_logit_residual,
                rotation_residual,
                fxfycxcy,
                c2w,
            ),
            target_fxfycxcy,
            target_c2w,
            height,
            width,
        )[0]

    def splats(
        self,
        depth: Tensor,
        confidence: Tensor,
        color: Tensor,
        log_scale_residual: Tensor,
        opacity_logit_residual: Tensor,
        rotation_residual: Tensor,
        fxfycxcy: Tensor,
        c2w: Tensor,
    ) -> Splats:
        """All views' splats in the world; arguments as in `__call__`."""
        filler = confidence < self.fusion.confidence
        # Fillers have one confidence in the product; here they keep the gradient of their own.
        shortfall = (self.fusion.hole_confidence - confidence).detach()
        trust = torch.where(filler, confidence + shortfall, confidence)
        maps = torch.cat(
            (
                depth.log()[:, None],
                trust[:, None],
                color,
                log_scale_residual,
                opacity_logit_residual[:, None],
                rotation_residual,
            ),
            dim=1,
        ).float()
        size = 1
        while size < self.cell:
            maps, size = _halved(maps), 2 * size
        parts = []
        for view, camera, pose in zip(maps, fxfycxcy, c2w):
            log_depth, sure, rgb, scale, opacity, turn = view.split((1, 1, 3, 3, 1, 3))
            parts.append(
                splats_from_depth(
                    log_depth[0].exp(),
                    sure[0],
                    rgb,
                    camera.to(maps) / size,
                    cell=size,
                    log_scale_residual=scale,
                    rotation_residual=turn,
                    opacity_logit_residual=opacity[0],
                ).transform(pose)
            )
        return Splats.cat(parts)

    def with_alpha(
        self,
        splats: Splats,
        target_fxfycxcy: Tensor,  # (T, 4)
        target_c2w: Tensor,  # (T, 4, 4)
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor]:
        """Pictures (T, 3, height, width) on black, and alpha (T, height, width)."""
        pictures, alphas = [], []
        for camera, pose in zip(target_fxfycxcy, target_c2w):
            fx, fy, cx, cy = camera.to(splats.means).unbind()
            zero, one = torch.zeros_like(fx), torch.ones_like(fx)
            K = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).view(3, 3)
            render = rasterize(
                splats.means,
                splats.quats_wxyz,
                splats.scales,
                splats.opacities,
                splats.sh,
                torch.linalg.inv(pose.double()).to(splats.means),
                K,
                width,
                height,
                sh_degree=0,
            )
            pictures.append(render.rgb.movedim(-1, 0))
            alphas.append(render.alpha)
        return torch.stack(pictures), torch.stack(alphas)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLoss:
    """L1 between one view of a batch, drawn by chance, and its render from the batch's others.

    Only where the others show something: what nobody saw says nothing about depth.
    """

    renderer: SplatRenderer = field(default_factory=SplatRenderer)

    def __call__(self, step: StreamStep, output: NetworkOutput, rng: torch.Generator) -> Tensor:
        """Mean over the streams; 0 where a batch has a single view."""
        # bfloat16 would put splats pixels away from where they are
        with torch.autocast(output.log_depth.device.type, enabled=False):
            return self._loss(step, output, rng)

    def _loss(self, step: StreamStep, output: NetworkOutput, rng: torch.Generator) -> Tensor:
        views = step.views
        streams, count = views.image.shape[:2]
        total = output.log_depth.new_zeros(())
        if count < 2:
            return total
        height, width = views.image.shape[-2:]
        for stream in range(streams):
            target = int(torch.randint(count, (), generator=rng))
            others = [view for view in range(count) if view != target]
            residuals = {name: r[stream, others] for name, r in output.residuals.items()}
            splats = self.renderer.splats(
                output.log_depth[stream, others].exp(),
                output.confidence[stream, others],
                views.image[stream, others] + residuals["color"],
                residuals["log_scale"],
                residuals["opacity_logit"][:, 0],
                residuals["rotation"],
                views.fxfycxcy[stream, others],
                views.c2w[stream, others],
            )
            picture, alpha = self.renderer.with_alpha(
                splats,
                views.fxfycxcy[stream, target : target + 1],
                views.c2w[stream, target : target + 1],
                height,
                width,
            )
            shown = (alpha.detach() > _SEEN)[:, None].to(picture.dtype)
            error = (picture - views.image[stream, target]).abs() * shown
            total = total + error.sum() / (3 * shown.sum()).clamp_min(1)
        return total / streams


def _halved(maps: Tensor) -> Tensor:
    """Means of 2x2 pixels of (V, C, H, W); an odd last row or column repeats itself."""
    padding = (0, maps.shape[-1] % 2, 0, maps.shape[-2] % 2)
    return functional.avg_pool2d(functional.pad(maps, padding, mode="replicate"), 2)

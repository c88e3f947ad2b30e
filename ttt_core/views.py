"""What goes into the streaming model and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttt_core.errors import ImageError, IntrinsicsError, PoseError, ShapeError
from ttt_core.matching import PosedImage

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_FARTHEST = 1e15  # squares of distances still fit float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewBatch:
    """Key frames of one size that arrive together, with cameras in the world frame.

    Attributes:
        keys: the caller's numbers of the views, distinct.
        image: (V, 3, H, W) float32, RGB 0..1.
        fxfycxcy: (V, 4) float32, pixels; the first pixel's centre is (0.5, 0.5).
        c2w: (V, 4, 4) float64, camera to world, OpenCV axes.
        sensor_depth: (V, H, W) float32 z-depth in world units, 0 where nothing was measured.
        map_depth: (V, H, W) float32 z-depth of the rendered map, 0 where the map holds nothing.
        valid: (V, H, W) bool, False where the picture is to be ignored.

    Raises:
        ShapeError: a shape or dtype is wrong, or keys repeat.
        ImageError: a colour is not finite.
        IntrinsicsError: a focal length is not positive, or something is not finite.
        PoseError: a pose is not finite, or too far away to be computed with.
    """

    keys: tuple[int, ...]
    image: Tensor
    fxfycxcy: Tensor
    c2w: Tensor
    sensor_depth: Tensor | None = None
    map_depth: Tensor | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        if self.image.dim() != 4 or self.image.shape[1] != 3 or 0 in self.image.shape:
            raise ShapeError(
                f"image has shape {tuple(self.image.shape)}: give (V, 3, H, W), none of them 0"
            )
        views, _, height, width = self.image.shape
        if len(self.keys) != views or len(set(self.keys)) != views:
            raise ShapeError(f"keys is {self.keys}: give {views} distinct numbers, one a view")
        pixels = (views, height, width)
        expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "image": ((views, 3, height, width), torch.float32),
            "fxfycxcy": ((views, 4), torch.float32),
            "c2w": ((views, 4, 4), torch.float64),
            "sensor_depth": (pixels, torch.float32),
            "map_depth": (pixels, torch.float32),
            "valid": (pixels, torch.bool),
        }
        for name, (shape, dtype) in expected.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and (tuple(tensor.shape) != shape or tensor.dtype != dtype):
                raise ShapeError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}: for image "
                    f"{tuple(self.image.shape)} give {dtype} {shape}"
                )
        if not torch.isfinite(self.c2w).all():
            raise PoseError(f"c2w of keys {self.keys} is not finite: drop views without a pose")
        largest = float(self.c2w.abs().max())
        if largest > _FARTHEST:
            raise PoseError(
                f"c2w of keys {self.keys} holds {largest:.3g}, the limit is {_FARTHEST:g}: drop "
                "views whose tracking was lost"
            )
        if not torch.isfinite(self.image).all():
            raise ImageError(
                f"image of keys {self.keys} is not finite: give 0..1, and say with `valid` where "
                "there is nothing to see"
            )
        camera = self.fxfycxcy
        if not (torch.isfinite(camera).all() and (camera[:, :2] > 0).all()):
            raise IntrinsicsError(
                f"fxfycxcy of keys {self.keys} is {camera.tolist()}: give finite pixels, focal "
                "lengths > 0"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What is predicted at every pixel of a batch, in the cameras' frames and world units.

    The residuals refine splats that are otherwise laid out from depth and confidence; they are
    zero until a checkpoint was trained.
    """

    depth: Tensor  # (V, H, W) float32, z-depth > 0, finite
    confidence: Tensor  # (V, H, W) float32, 0..1
    color: Tensor  # (V, 3, H, W) float32
    log_scale_residual: Tensor  # (V, 3, H, W)
    opacity_logit_residual: Tensor  # (V, H, W)
    rotation_residual: Tensor  # (V, 3, H, W), axis-angle

    @classmethod
    def plain(cls, depth: Tensor, confidence: Tensor, image: Tensor) -> Prediction:
        """Without residuals: depth and confidence (V, H, W), and the picture (V, 3, H, W)."""
        none = torch.zeros_like(image)
        return cls(depth, confidence, image, none, torch.zeros_like(depth), none)


def posed_images(batch: ViewBatch) -> list[PosedImage]:
    """The views of `batch` as the matching prior takes them: grey, float64 pinholes."""
    luma = torch.tensor(_LUMA, device=batch.image.device)[:, None, None]
    gray = (batch.image * luma).sum(1).cpu().numpy()
    c2w = batch.c2w.cpu().numpy()
    valid = None if batch.valid is None else batch.valid.cpu().numpy()
    images = []
    for index, (key, camera) in enumerate(zip(batch.keys, batch.fxfycxcy.double().tolist())):
        fx, fy, cx, cy = camera
        images.append(
            PosedImage(
                key=key,
                gray=gray[index],
                K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64),
                c2w=c2w[index].copy(),
                valid=None if valid is None else valid[index].copy(),
            )
        )
    return images

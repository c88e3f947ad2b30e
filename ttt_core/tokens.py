"""From posed images to tokens: camera rays, the 12-channel ray image, patches.

Rays pass through pixel centres; the first pixel's centre is (0.5, 0.5). Camera axes are OpenCV's
(x right, y down, z forward), poses camera-to-world.
Shape suffixes: B batch items, V views, P patch side, h x w patches of a view, N = V*h*w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ttt_core.errors import PatchSizeError, ShapeError

RAY_CHANNELS = 12


class Rays(NamedTuple):
    """Rays of every pixel, channels last."""

    origins: Tensor  # (B, V, H, W, 3): the camera centre, the same for all pixels of a view
    directions: Tensor  # (B, V, H, W, 3), unit length


def check_views(image: Tensor, fxfycxcy: Tensor, c2w: Tensor, patch_size: int) -> None:
    """Refuse what cannot be cut into tokens.

    Args:
        image: (B, V, 3, H, W) floating, values 0..1.
        fxfycxcy: (B, V, 4), pixels.
        c2w: (B, V, 4, 4).
        patch_size: H and W must be multiples of it.

    Raises:
        ShapeError: a shape or dtype is wrong.
        PatchSizeError: H or W is no multiple of the patch size.
    """
    if image.dim() != 5 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError(
            f"image has shape {tuple(image.shape)}: give (B, V, 3, H, W), none of them 0"
        )
    if not image.is_floating_point():
        raise ShapeError(f"image has dtype {image.dtype}: give floating values in 0..1")
    batch, views = image.shape[:2]
    for name, tensor, tail in (("fxfycxcy", fxfycxcy, (4,)), ("c2w", c2w, (4, 4))):
        if tuple(tensor.shape) != (batch, views, *tail):
            raise ShapeError(
                f"{name} has shape {tuple(tensor.shape)}: for image {tuple(image.shape)} give "
                f"{(batch, views, *tail)}"
            )
    for name, side in (("height", image.shape[3]), ("width", image.shape[4])):
        if side % patch_size:
            raise PatchSizeError(
                f"image {name} is {side}, no multiple of patch_size {patch_size}: crop or resize "
                f"to {side - side % patch_size} or {side + patch_size - side % patch_size}"
            )


def camera_rays(fxfycxcy: Tensor, c2w: Tensor, height: int, width: int) -> Rays:
    """Rays of all pixels, in the poses' precision but never below float32.

    Args:
        fxfycxcy: (B, V, 4), pixels.
        c2w: (B, V, 4, 4), OpenCV axes; a rotation that carries a scale does not change directions.
    """
    dtype = torch.promote_types(c2w.dtype, torch.float32)
    # bfloat16 rays are off by pixels: the batched product below must not follow autocast
    with torch.autocast(c2w.device.type, enabled=False):
        fxfycxcy, c2w = fxfycxcy.to(dtype), c2w.to(dtype)
        fx, fy, cx, cy = fxfycxcy[..., None, None].unbind(2)  # each (B, V, 1, 1)
        u = torch.arange(width, dtype=dtype, device=c2w.device) + 0.5
        v = (torch.arange(height, dtype=dtype, device=c2w.device) + 0.5)[:, None]
        x, y = torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy)  # (B, V, H, W)
        in_camera = torch.stack((x, y, torch.ones_like(x)), dim=-1)
        directions = in_camera @ c2w[:, :, None, :3, :3].mT
        directions = directions / torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
        origins = c2w[:, :, None, None, :3, 3].expand_as(directions)
    return Rays(origins, directions)


def ray_image(image: Tensor, rays: Rays) -> Tensor:
    """The tokenizer's input: origin, direction, origin x direction, 2 rgb - 1.

    Returns:
        (B, V, H, W, 12) in the image's dtype.
    """
    moment = torch.linalg.cross(rays.origins, rays.directions)
    geometry = torch.cat((rays.origins, rays.directions, moment), dim=-1).to(image.dtype)
    return torch.cat((geometry, 2 * image.movedim(2, -1) - 1), dim=-1)


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """Cut (B, V, H, W, C) into tokens (B, N, P*P*C).

    Tokens run view after view, patch row-major; inside a token (row, column, channel), channel
    fastest.
    """
    patches = pixels.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    patches = patches.transpose(3, 4)  # (B, V, h, w, P, P, C)
    return patches.flatten(4).flatten(1, 3)


def splat_order(pixels: Tensor, patch_size: int) -> Tensor:
    """Reorder (B, V, H, W, C) to (B, V*H*W, C) as the decoder emits splats.

    Order: view, patch row, patch column, row in patch, column in patch.
    """
    channels = pixels.shape[-1]
    return patchify(pixels, patch_size).unflatten(-1, (-1, channels)).flatten(1, 2)


class Patchify(nn.Module):
    """`patchify` as the parameter-free head of the tokenizer."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        return patchify(pixels, self.patch_size)

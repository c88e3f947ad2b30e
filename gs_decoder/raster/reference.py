"""The contract in plain torch: slow, any float dtype, autograd by torch alone.

Every pixel of a strip of rows meets every splat that can reach the strip. The kernels are
tested against this.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gs_decoder.raster.contract import Render, View
from gs_decoder.sh import sh_basis

EPS2D = 0.3  # px^2
FRUSTUM_MARGIN = 0.3
MIN_ALPHA = 1.0 / 255.0
MIN_TRANSMITTANCE = 1e-4
_STRIP = 8  # rows blended at a time: bounds the memory


def rotation_matrices(quats: Tensor) -> Tensor:
    """(N,4) wxyz -> (N,3,3), normalised."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def _project(
    points: Tensor,  # (V,3) camera coordinates, in front of the near plane
    covariances: Tensor,  # (V,3,3) camera coordinates
    K: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:
    """Centres (V,2) in pixels and 2D covariances (V,2,2) with the blur."""
    x, y, z = points.unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = FRUSTUM_MARGIN * 0.5 * width / fx, FRUSTUM_MARGIN * 0.5 * height / fy
    u = torch.clamp(x / z, -cx / fx - margin_x, (width - cx) / fx + margin_x)
    v = torch.clamp(y / z, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * u / z], -1),
            torch.stack([zero, fy / z, -fy * v / z], -1),
        ],
        -2,
    )
    cov2d = jacobian @ covariances @ jacobian.transpose(-1, -2)
    cov2d = cov2d + EPS2D * torch.eye(2, dtype=z.dtype, device=z.device)
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1), cov2d


def _blend(
    offsets: Tensor,  # (V,P,2) pixel centres minus splat centres, splats near to far
    conics: Tensor,  # (V,3) inverse covariance: xx, xy, yy
    opacities: Tensor,  # (V,)
    features: Tensor,  # (V,F)
    max_alpha: float,
    min_alpha: float,
    min_transmittance: float,
) -> tuple[Tensor, Tensor]:
    """Blended features (P,F) and the sum of the weights (P,)."""
    dx, dy = offsets.unbind(-1)
    a, b, c = (conics[:, i, None] for i in range(3))
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = torch.clamp(opacities[:, None] * torch.exp(-sigma), max=max_alpha)
    alpha = torch.where((sigma >= 0) & (alpha >= min_alpha), alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, 0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    # Transmittance only falls: past the first splat that would end a pixel all others fail too.
    weights = torch.where(after > min_transmittance, alpha * before, torch.zeros_like(alpha))
    return weights.T @ features, weights.sum(0)


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
    *,
    min_alpha: float = MIN_ALPHA,
    min_transmittance: float = MIN_TRANSMITTANCE,
) -> Render:
    """Render with plain torch; the two thresholds are arguments so that tests can move them."""
    width, height = view.width, view.height
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    points = means @ rotation.T + translation
    shown = torch.nonzero(points[:, 2].detach() > view.near)[:, 0]
    shown = shown[torch.argsort(points[shown, 2].detach(), stable=True)]
    points, opacities = points[shown], opacities[shown]

    if view.sh_degree is None:
        rgb = colors[shown]
    else:
        center = torch.linalg.inv(viewmat)[:3, 3]
        directions = F.normalize(means[shown] - center, dim=-1)
        basis = sh_basis(directions, view.sh_degree)
        used = colors[shown, : basis.shape[1]]
        rgb = torch.clamp_min((basis[..., None] * used).sum(-2) + 0.5, 0.0)

    axes = rotation @ rotation_matrices(quats[shown]) * scales[shown, None, :]
    centers, cov2d = _project(points, axes @ axes.transpose(-1, -2), K, width, height)
    xx, xy, yy = cov2d[:, 0, 0], cov2d[:, 0, 1], cov2d[:, 1, 1]
    determinant = torch.clamp_min(xx * yy - xy * xy, 1e-10)
    conics = torch.stack([yy, -xy, xx], -1) / determinant[:, None]
    features = torch.cat([rgb, points[:, 2:]], -1)  # (V,4)
    # alpha >= min_alpha ends before sqrt(2 ln(1/min_alpha)) standard deviations.
    reach = 3.4 * torch.sqrt(yy.detach())

    columns = torch.arange(width, dtype=means.dtype, device=means.device) + 0.5
    strips, covered = [], []
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        rows = torch.arange(top, bottom, dtype=means.dtype, device=means.device) + 0.5
        pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2)
        y = centers[:, 1].detach()
        near = torch.nonzero((y + reach > top) & (y - reach < bottom))[:, 0]
        blended, weights = _blend(
            pixels[None] - centers[near, None],
            conics[near],
            opacities[near],
            features[near],
            view.max_alpha,
            min_alpha,
            min_transmittance,
        )
        strips.append(blended)
        covered.append(weights)
    image = torch.cat(strips).reshape(height, width, 4)
    alpha = torch.cat(covered).reshape(height, width)
    seen = image[..., :3]
    if background is not None:
        seen = seen + (1 - alpha)[..., None] * background
    return Render(seen, image[..., 3] / alpha.clamp_min(1e-10), alpha)

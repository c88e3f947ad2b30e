"""What refinement's tests refine: splats, and views of what they should be."""

from __future__ import annotations

import numpy as np
import torch

from gs_decoder import Splats
from gs_decoder.refine import RefineConfig, Refiner, RefineView
from gs_decoder.refine.renderers import NumbaViewRenderer

WIDTH, HEIGHT = 48, 32
K = np.array([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]])


def some_splats(seed, count=300, shift=0.0):
    rng = np.random.default_rng(seed)
    means = rng.uniform([-1.2, -0.8, 1.5], [1.2, 0.8, 3.0], (count, 3)) + shift
    return Splats(
        means=torch.tensor(means, dtype=torch.float32),
        quats_wxyz=torch.nn.functional.normalize(
            torch.tensor(rng.normal(size=(count, 4)), dtype=torch.float32), dim=-1
        ),
        scales=torch.tensor(rng.uniform(0.03, 0.15, (count, 3)), dtype=torch.float32),
        opacities=torch.tensor(rng.uniform(0.2, 0.9, count), dtype=torch.float32),
        sh=torch.tensor(rng.normal(0, 0.6, (count, 1, 3)), dtype=torch.float32),
    )


def poses(count, origin=(0.0, 0.0, 0.0)):
    result = []
    for number in range(count):
        pose = np.eye(4)
        pose[:3, 3] = origin
        pose[0, 3] += 0.06 * number
        result.append(pose)
    return result


def refiner_with_views(seed, *, workers=2, noise=0.1, origin=(0.0, 0.0, 0.0), **config):
    """A refiner whose views show the true splats, while it holds disturbed ones."""
    truth = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1))
    truth.origin = np.array(origin)
    truth.add_splats(0, some_splats(seed))
    refiner = Refiner(NumbaViewRenderer(workers), RefineConfig(workers=workers, **config))
    refiner.origin = np.array(origin)
    for key, pose in enumerate(poses(6, origin)):
        rgb, depth, _ = truth.render(pose, K, WIDTH, HEIGHT)
        image = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
        refiner.add_view(RefineView(key=key, image=image, K=K, c2w=pose, depth=depth))
    truth.close()
    disturbed = some_splats(seed)
    generator = torch.Generator().manual_seed(seed)
    wrong = disturbed.sh + noise * torch.randn(disturbed.sh.shape, generator=generator)
    refiner.add_splats(
        7,
        Splats(
            disturbed.means + 0.1 * noise * torch.randn(disturbed.means.shape, generator=generator),
            disturbed.quats_wxyz,
            disturbed.scales,
            disturbed.opacities,
            wrong,
        ),
    )
    return refiner


def view_error(refiner):
    total = 0.0
    for view in refiner.views.values():
        rgb, _, _ = refiner.render(view.c2w, view.K, WIDTH, HEIGHT)
        total += float(np.square(rgb - view.image / 255.0).mean())
    return total / len(refiner.views)

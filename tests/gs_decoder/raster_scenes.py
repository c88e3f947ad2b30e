"""Scenes for the rasteriser's tests: random ones of several characters, and the stored ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

INPUTS = ("means", "quats", "scales", "opacities", "colors", "viewmat", "K", "background")


@dataclass(slots=True)
class Scene:
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmat: Tensor
    K: Tensor
    background: Tensor
    width: int
    height: int
    sh_degree: int | None

    def leaves(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        return {name: getattr(self, name).detach().to(dtype).requires_grad_() for name in INPUTS}


def camera(width: int, height: int, seed: int) -> tuple[Tensor, Tensor]:
    """A turned and shifted view, and intrinsics off the middle."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-0.3, 0.3)
    view = np.eye(4)
    view[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    view[:3, 3] = rng.uniform(-0.2, 0.2, 3)
    focal = 0.9 * max(width, height, 4)
    K = np.array([[focal, 0, 0.45 * width], [0, 1.1 * focal, 0.55 * height], [0, 0, 1]])
    return torch.tensor(view, dtype=torch.float32), torch.tensor(K, dtype=torch.float32)


def random_scene(
    seed: int,
    count: int,
    width: int,
    height: int,
    kind: str = "mixed",
    sh_degree: int | None = None,
    bases: int | None = None,
) -> Scene:
    """`kind`: mixed, needles (1:1000), near (across and behind the near plane), huge, tiny."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(1.0, 5.0, count)
    spread = 0.7
    log_scale = rng.uniform(np.log(0.01), np.log(0.4), (count, 3))
    if kind == "needles":
        log_scale = np.log(0.001) + np.zeros((count, 3))
        log_scale[np.arange(count), rng.integers(0, 3, count)] = np.log(1.0)
    elif kind == "near":
        z = rng.uniform(-0.5, 0.6, count)
        z[: count // 3] = rng.uniform(0.0, 0.05, count // 3)
        spread = 1.5
    elif kind == "huge":
        log_scale = rng.uniform(np.log(2.0), np.log(20.0), (count, 3))
    elif kind == "tiny":
        log_scale = rng.uniform(np.log(1e-6), np.log(1e-3), (count, 3))
    means = np.stack(
        [rng.uniform(-spread, spread, count) * z, rng.uniform(-spread, spread, count) * z, z], 1
    )
    viewmat, K = camera(width, height, seed)
    if sh_degree is None:
        colors = rng.uniform(0, 1, (count, 3))
    else:
        colors = rng.normal(0, 0.5, (count, bases or (sh_degree + 1) ** 2, 3))

    def tensor(values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)

    return Scene(
        means=tensor(means),
        quats=tensor(rng.normal(size=(count, 4)) * rng.uniform(0.3, 3.0, (count, 1))),
        scales=tensor(np.exp(log_scale)),
        opacities=tensor(rng.uniform(0.02, 0.99, count)),
        colors=tensor(colors),
        viewmat=viewmat,
        K=K,
        background=tensor(rng.uniform(0, 1, 3)),
        width=width,
        height=height,
        sh_degree=sh_degree,
    )


@dataclass(slots=True)
class Stored:
    """A fixture: a scene, its images, the weights of its scalar loss and that loss's gradients."""

    scene: Scene
    max_alpha: float
    images: dict[str, np.ndarray]
    weights: dict[str, Tensor]
    gradients: dict[str, np.ndarray]


def stored_scene(path: Path) -> Stored:
    data = np.load(path)
    tensors = {name: torch.from_numpy(data[name]) for name in INPUTS if name != "quats"}
    degree = int(data["sh_degree"])
    scene = Scene(
        **tensors,
        quats=torch.from_numpy(data["quats_wxyz"]),
        width=int(data["width"]),
        height=int(data["height"]),
        sh_degree=None if degree < 0 else degree,
    )
    return Stored(
        scene=scene,
        max_alpha=float(data["max_alpha"]),
        images={"rgb": data["rgb"], "depth": data["expected_depth"], "alpha": data["alpha"]},
        weights={name: torch.from_numpy(data[f"w_{name}"]) for name in ("rgb", "depth", "alpha")},
        gradients={
            "means": data["g_means"],
            "quats": data["g_quats_wxyz"],
            "scales": data["g_scales"],
            "opacities": data["g_opacities"],
            "colors": data["g_colors"],
            "viewmat": data["g_viewmat"],
        },
    )


def relative_l2(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12))

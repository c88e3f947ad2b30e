"""The background is found in alpha or in a plain border, and not invented otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gs_decoder import estimate_background


def object_on(color: tuple[int, int, int], seed: int = 0, alpha: bool = False) -> np.ndarray:
    """A textured disc before a plain, slightly noisy background."""
    generator = np.random.default_rng(seed)
    image = np.full((60, 80, 3), color, dtype=np.float64) + generator.normal(0, 2, (60, 80, 3))
    v, u = np.mgrid[:60, :80]
    disc = (v - 30) ** 2 + (u - 40) ** 2 < 20**2
    image[disc] = generator.uniform(0, 255, (int(disc.sum()), 3))
    image = image.clip(0, 255).astype(np.uint8)
    return np.dstack([image, np.where(disc, 255, 0).astype(np.uint8)]) if alpha else image


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("color", "expected"),
    [((0, 0, 0), 0.0), ((255, 255, 255), 1.0), ((4, 3, 5), 0.0), ((250, 251, 252), 1.0)],
)
def test_black_and_white_are_found(color: tuple, expected: float, alpha: bool) -> None:
    found = estimate_background([object_on(color, seed, alpha) for seed in range(4)])
    assert found.dtype == np.float32 and found.tolist() == [expected] * 3


def test_another_plain_colour_is_itself() -> None:
    found = estimate_background([object_on((20, 200, 60), seed) for seed in range(4)])
    np.testing.assert_allclose(found, np.array([20, 200, 60]) / 255, atol=0.01)


def test_an_object_that_touches_the_border_here_and_there_is_forgiven() -> None:
    images = [object_on((255, 255, 255), seed) for seed in range(6)]
    images[0][:, :4] = 90
    assert estimate_background(images).tolist() == [1, 1, 1]


def test_scenes_have_no_background_and_differing_ones_neither() -> None:
    generator = np.random.default_rng(0)
    scenes = [generator.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(3)]
    assert estimate_background(scenes).tolist() == [0, 0, 0]
    walls = [np.full((40, 50, 3), value, dtype=np.uint8) for value in (60, 120, 180)]
    assert estimate_background(walls).tolist() == [0, 0, 0]
    assert estimate_background([]).tolist() == [0, 0, 0]


def test_alpha_goes_before_the_border_unless_nothing_is_transparent() -> None:
    image = object_on((255, 255, 255), alpha=True)
    image[:5, :, :3], image[:5, :, 3] = 10, 255
    image[-5:, :, :3], image[-5:, :, 3] = 10, 255
    assert estimate_background([image]).tolist() == [1, 1, 1]
    opaque = object_on((255, 255, 255), alpha=True)
    opaque[..., 3] = 255
    assert estimate_background([opaque]).tolist() == [1, 1, 1]


def test_fixed_modes_look_at_no_image() -> None:
    assert estimate_background([object_on((255, 255, 255))], "black").tolist() == [0, 0, 0]
    assert estimate_background([], "white").tolist() == [1, 1, 1]


def test_wrong_modes_and_images_are_named() -> None:
    with pytest.raises(ValueError, match="'grey': give auto, black or white"):
        estimate_background([], "grey")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        estimate_background([np.zeros((4, 4), dtype=np.uint8)])
    with pytest.raises(ValueError, match="float32"):
        estimate_background([np.zeros((4, 4, 3), dtype=np.float32)])


@pytest.mark.parametrize(("name", "expected"), [("hololens_office", 0.0), ("skull", 0.0)])
def test_real_captures(name: str, expected: float, capture_dir: Callable[[str], Path]) -> None:
    root = capture_dir(name)
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".jpg", ".png", ".jpeg"))
    images = [cv2.imread(str(p), cv2.IMREAD_COLOR) for p in paths[:: max(1, len(paths) // 5)]]
    assert estimate_background([i[..., ::-1] for i in images]).tolist() == [expected] * 3

"""Splats in the renderer's types: what the 16-bit covariances have to survive."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_decoder import Similarity, Splats, sh_from_rgb
from viewer.packing import pack_splats, place_order, rotations_from_quats, typical_size


def splats_of(scales: np.ndarray, quats: np.ndarray | None = None, opacity: float = 0.5) -> Splats:
    count = len(scales)
    random = np.random.default_rng(3)
    return Splats.from_numpy(
        {
            "means": random.normal(size=(count, 3)),
            "quats_wxyz": random.normal(size=(count, 4)) if quats is None else quats,
            "scales": scales,
            "opacities": np.full(count, opacity),
            "sh": np.zeros((count, 1, 3)),
        }
    )


def covariances(splats: Splats) -> np.ndarray:
    """(N, 3, 3) float64, computed splat by splat."""
    arrays = {name: array.astype(np.float64) for name, array in splats.to_numpy().items()}
    result = []
    for quat, scale in zip(arrays["quats_wxyz"], arrays["scales"]):
        w, x, y, z = quat / np.linalg.norm(quat)
        vector = np.array([x, y, z])
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = (w * w - vector @ vector) * np.eye(3) + 2 * np.outer(vector, vector)
        rotation += 2 * w * cross
        result.append(rotation @ np.diag(scale**2) @ rotation.T)
    return np.array(result)


@pytest.mark.parametrize("metre", [1e-4, 1.0, 1e4])
def test_covariances_survive_float16_in_any_unit(metre: float) -> None:
    random = np.random.default_rng(0)
    splats = splats_of(metre * np.exp(random.normal(-4.0, 0.6, size=(500, 3))))
    unit = typical_size(splats)
    packed = pack_splats(splats, unit)
    kept = packed.covariances.astype(np.float16).astype(np.float64) * unit**2
    expected = covariances(splats)
    size = np.trace(expected, axis1=1, axis2=2)[:, None, None]
    assert np.abs((kept - expected) / size).max() < 0.012
    np.testing.assert_allclose(
        packed.centers * unit, splats.to_numpy()["means"], rtol=1e-5, atol=1e-6
    )


def test_thin_large_and_tiny_splats_stay_positive_definite_in_float16() -> None:
    random = np.random.default_rng(1)
    scales = 10.0 ** random.uniform(-9, 4, size=(2_000, 3))
    packed = pack_splats(splats_of(scales), unit=1e-2)
    kept = packed.covariances.astype(np.float16).astype(np.float64)
    assert np.isfinite(kept).all()
    assert np.linalg.eigvalsh(kept).min() > 0


@pytest.mark.parametrize("quat", [(1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5)])
def test_isotropic_and_axis_parallel_splats_have_no_zero_to_divide_by(
    quat: tuple[float, ...],
) -> None:
    scales = np.array([[0.02, 0.02, 0.02], [0.03, 0.02, 0.01], [0.01, 0.02, 0.03]])
    packed = pack_splats(splats_of(scales, np.tile(quat, (3, 1))), unit=0.02)
    kept = packed.covariances.astype(np.float16).astype(np.float64)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        correlation = kept[:, i, j] / np.sqrt(kept[:, i, i] * kept[:, j, j])
        assert (np.abs(correlation) > 0.005).all() and (np.abs(correlation) < 0.02).all()


def test_colors_and_opacities_round_to_the_nearest_byte() -> None:
    rgb = np.array([[0, 127, 255], [1, 2, 3], [254, 128, 64]], np.uint8)
    sh = sh_from_rgb(torch.from_numpy(rgb / 255.0).float())[:, None, :]
    base = splats_of(np.full((3, 3), 0.01), opacity=0.998)
    packed = pack_splats(
        Splats(base.means, base.quats_wxyz, base.scales, base.opacities, sh), unit=0.01
    )
    np.testing.assert_array_equal(packed.rgbs, rgb)
    np.testing.assert_array_equal(packed.opacities, np.full((3, 1), 254))


def test_a_splat_that_is_not_finite_becomes_invisible() -> None:
    base = splats_of(np.full((4, 3), 0.01))
    base.means[1, 2] = torch.nan
    base.scales[2, 0] = torch.inf
    base.sh[3, 0, 1] = torch.nan
    packed = pack_splats(base, unit=0.01)
    for array in (packed.centers, packed.covariances):
        assert np.isfinite(array).all()
    assert packed.opacities[:, 0].tolist() == [128, 0, 0, 0]


def test_rotations_are_rotations_whatever_the_length() -> None:
    quats = np.random.default_rng(2).normal(size=(100, 4)) * 7.0
    rotations = rotations_from_quats(quats)
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (100, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)


def test_rows_keep_their_place_when_a_few_splats_go() -> None:
    random = np.random.default_rng(4)
    means = np.concatenate([random.uniform(-0.6, 0.6, (3_000, 2)), np.ones((3_000, 1))], axis=1)
    base = splats_of(np.full((3_000, 3), 0.01))
    splats = Splats(
        torch.from_numpy(means).float(), base.quats_wxyz, base.scales, base.opacities, base.sh
    )
    fewer = splats.select(np.sort(random.permutation(3_000)[:2_950]))
    before = splats.select(place_order(splats)).to_numpy()["means"][:2_950]
    after = fewer.select(place_order(fewer)).to_numpy()["means"]
    apart = np.linalg.norm(before - after, axis=1)
    assert np.quantile(apart, 0.9) < 0.3
    unordered = np.linalg.norm(
        splats.to_numpy()["means"][:2_950] - fewer.to_numpy()["means"][random.permutation(2_950)],
        axis=1,
    )
    assert np.median(apart) < 0.25 * np.median(unordered)


def test_splats_behind_the_camera_or_not_finite_have_a_place_too() -> None:
    base = splats_of(np.full((50, 3), 0.01))
    base.means[3] = torch.nan
    base.means[4, 2] = -1.0
    assert sorted(place_order(base)) == list(range(50))


def test_rows_in_another_frame_are_those_of_splats_that_were_brought_there() -> None:
    random = np.random.default_rng(5)
    rotation = rotations_from_quats(random.normal(size=(1, 4)))[0]
    pose = Similarity(scale=1.7, rotation=rotation, translation=np.array([3.0, -2.0, 0.5]))
    splats = splats_of(np.exp(random.normal(-4.0, 0.6, size=(200, 3))))
    rows, brought = (
        pack_splats(splats, 0.02, pose),
        pack_splats(splats.transform(pose.matrix()), 0.02),
    )
    np.testing.assert_allclose(rows.centers, brought.centers, atol=1e-3)
    np.testing.assert_allclose(rows.covariances, brought.covariances, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rows.rgbs, brought.rgbs)
    np.testing.assert_array_equal(rows.opacities, brought.opacities)

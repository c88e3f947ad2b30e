"""Splats: shapes that are checked, and similarities that move all of a splat."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from map_helpers import random_rotation, random_similarity, random_splats

from gs_decoder import (
    InvalidSimilarity,
    InvalidSplats,
    Splats,
    evaluate_sh,
    inverse_similarity,
    rotate_sh,
    sh_basis,
    sh_from_rgb,
    split_similarity,
)
from gs_decoder.rotations import (
    are_similarities,
    matrix_from_quaternion,
    multiply_quaternions,
    quaternion_from_axis_angle,
    quaternion_from_matrix,
)

FIELDS = ("means", "quats_wxyz", "scales", "opacities", "sh")
SEEDS = st.integers(0, 2**20)


def covariance(splats: Splats) -> torch.Tensor:
    """(N, 3, 3) of the Gaussians."""
    half = matrix_from_quaternion(splats.quats_wxyz) * splats.scales[..., None, :]
    return half @ half.mT


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, degree=st.integers(0, 3))
def test_transform_moves_means_and_covariances_as_matrices_do(seed: int, degree: int) -> None:
    splats = random_splats(6, seed, degree).to(dtype=torch.float64)
    T = random_similarity(seed)
    moved = splats.transform(T)
    linear = torch.from_numpy(T[:3, :3])
    torch.testing.assert_close(moved.means, splats.means @ linear.T + torch.from_numpy(T[:3, 3]))
    torch.testing.assert_close(covariance(moved), linear @ covariance(splats) @ linear.T)
    assert moved.opacities is splats.opacities


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, degree=st.integers(0, 3))
def test_colours_turn_with_the_splats(seed: int, degree: int) -> None:
    splats = random_splats(5, seed, degree).to(dtype=torch.float64)
    T = random_similarity(seed)
    moved = splats.transform(T)
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    seen = torch.nn.functional.normalize(seen, dim=-1)
    turned = torch.nn.functional.normalize(seen @ torch.from_numpy(T[:3, :3]).T, dim=-1)
    torch.testing.assert_close(
        evaluate_sh(moved.sh, turned), evaluate_sh(splats.sh, seen), rtol=0, atol=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, degree=st.integers(0, 3))
def test_transform_and_back_is_the_same(seed: int, degree: int) -> None:
    splats = random_splats(7, seed, degree)
    T = random_similarity(seed)
    back = splats.transform(T).transform(inverse_similarity(T))
    for name in ("means", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(back, name), getattr(splats, name), atol=2e-5, rtol=1e-5)
    same = (back.quats_wxyz * splats.quats_wxyz).sum(-1).abs()
    torch.testing.assert_close(same, torch.ones(7), atol=1e-5, rtol=0)


def test_transform_keeps_batch_dimensions_and_carries_gradients() -> None:
    flat = random_splats(12, 0, 2)
    batch = Splats(
        means=flat.means.view(2, 6, 3).requires_grad_(),
        quats_wxyz=flat.quats_wxyz.view(2, 6, 4),
        scales=flat.scales.view(2, 6, 3),
        opacities=flat.opacities.view(2, 6),
        sh=flat.sh.view(2, 6, 9, 3).requires_grad_(),
    )
    T = random_similarity(1)
    moved = batch.transform(T)
    torch.testing.assert_close(moved.sh.view(12, 9, 3), flat.transform(T).sh)
    (moved.means.sum() + moved.sh.sum()).backward()
    assert batch.means.grad is not None and batch.sh.grad is not None
    expected = torch.from_numpy(T[:3, :3].sum(0)).float()
    torch.testing.assert_close(batch.means.grad, expected.expand(2, 6, 3))


def test_the_basis_is_orthonormal_over_the_sphere() -> None:
    # Gauss-Legendre in z times a uniform grid in angle integrates degree 6 exactly.
    nodes, weights = np.polynomial.legendre.leggauss(8)
    angles = (np.arange(16) + 0.5) * 2 * np.pi / 16
    z, angle = (torch.from_numpy(a.ravel()) for a in np.meshgrid(nodes, angles, indexing="ij"))
    radius = (1 - z * z).sqrt()
    directions = torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)
    weight = torch.from_numpy(np.repeat(weights, 16)) * 2 * np.pi / 16
    basis = sh_basis(directions, 3)
    gram = basis.T @ (weight[:, None] * basis)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_basis_has_the_order_and_signs_of_3dgs() -> None:
    x, y, z = torch.eye(3, dtype=torch.float64)
    c1 = 0.4886025119029199
    assert sh_basis(x, 1).tolist() == pytest.approx([0.28209479177387814, 0, 0, -c1])
    assert sh_basis(y, 1).tolist() == pytest.approx([0.28209479177387814, -c1, 0, 0])
    assert sh_basis(z, 1).tolist() == pytest.approx([0.28209479177387814, 0, c1, 0])
    diagonal = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    assert sh_basis(diagonal, 2)[7].item() == pytest.approx(-1.0925484305920792 * 0.48)
    assert sh_basis(diagonal, 3)[12].item() == pytest.approx(
        0.3731763325901154 * 0.8 * (2 * 0.64 - 3 * 0.36)
    )


@settings(max_examples=20, deadline=None)
@given(first=SEEDS, second=SEEDS)
def test_two_turns_are_one(first: int, second: int) -> None:
    sh = random_splats(4, first, 3).sh.double()
    a, b = random_rotation(first), random_rotation(second + 2**21)
    torch.testing.assert_close(rotate_sh(rotate_sh(sh, a), b), rotate_sh(sh, b @ a))
    q = multiply_quaternions(*(quaternion_from_matrix(torch.from_numpy(m)) for m in (b, a)))
    torch.testing.assert_close(matrix_from_quaternion(q), torch.from_numpy(b @ a))


def test_quaternions_of_half_turns_and_of_nothing() -> None:
    for axis in range(3):
        half_turn = -torch.eye(3, dtype=torch.float64)
        half_turn[axis, axis] = 1
        q = quaternion_from_matrix(half_turn)
        torch.testing.assert_close(matrix_from_quaternion(q), half_turn)
    none = torch.zeros(2, 3, requires_grad=True)
    q = quaternion_from_axis_angle(none)
    torch.testing.assert_close(q, torch.tensor([1.0, 0, 0, 0]).expand(2, 4))
    q[:, 1:].sum().backward()
    torch.testing.assert_close(none.grad, torch.full((2, 3), 0.5))
    quarter = quaternion_from_axis_angle(torch.tensor([0.0, 0.0, torch.pi / 2]))
    turned = matrix_from_quaternion(quarter) @ torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


def test_a_colour_of_degree_zero_looks_the_same_from_everywhere() -> None:
    rgb = torch.rand(5, 3)
    seen = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    torch.testing.assert_close(evaluate_sh(sh_from_rgb(rgb)[:, None], seen), rgb)


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("means", (4, 2)),
        ("quats_wxyz", (4, 3)),
        ("scales", (3, 3)),
        ("opacities", (4, 1)),
        ("sh", (4, 5, 3)),
        ("sh", (4, 1, 4)),
        ("sh", (4, 3)),
    ],
)
def test_a_wrong_shape_is_named_with_the_shape_received(field: str, shape: tuple) -> None:
    fields = {name: getattr(random_splats(4), name) for name in FIELDS}
    fields[field] = torch.zeros(shape)
    with pytest.raises(InvalidSplats) as caught:
        Splats(**fields)
    assert field in str(caught.value) and str(shape) in str(caught.value)


def test_types_and_missing_fields_are_named() -> None:
    good = random_splats(4)
    with pytest.raises(InvalidSplats, match=r"opacities is .*int64"):
        Splats(good.means, good.quats_wxyz, good.scales, good.opacities.long(), good.sh)
    with pytest.raises(InvalidSplats, match=r"scales is .*float64"):
        Splats(good.means, good.quats_wxyz, good.scales.double(), good.opacities, good.sh)
    with pytest.raises(InvalidSplats, match="lack sh"):
        Splats.from_numpy({n: v for n, v in good.to_numpy().items() if n != "sh"})


def test_numpy_select_and_cat() -> None:
    splats = random_splats(6, 1, 2)
    arrays = splats.to_numpy()
    assert Splats.from_numpy(arrays).equals(splats)
    received = {
        name: np.frombuffer(a.tobytes(), np.float32).reshape(a.shape) for name, a in arrays.items()
    }
    assert Splats.from_numpy(received).equals(splats)
    mask = torch.tensor([True, False, True, True, False, False])
    parts = [splats.select(mask), splats.select([1, 4, 5])]
    order = torch.tensor([0, 2, 3, 1, 4, 5])
    assert Splats.cat(parts).equals(splats.select(order))
    assert splats.select([]).count == 0
    low = random_splats(2, 2, 0)
    mixed = Splats.cat([low, splats])
    assert mixed.sh_degree == 2
    assert not mixed.sh[:2, 1:].any()
    assert Splats.cat([]).count == 0


def spoilt(seed: int, kind: int, size: float) -> np.ndarray:
    """A similarity, and by kind something that is none, more or less."""
    T = random_similarity(seed)
    if kind == 1:
        T[0, :3] *= 1.0 + size
    elif kind == 2:
        T[:3, 0] *= -1.0
    elif kind == 3:
        T[2, 3] = np.inf if size > 1e-3 else np.nan
    elif kind == 4:
        T[3, 1] = size
    elif kind == 5:
        T[:3, :3] = 0.0
    return T


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(st.tuples(SEEDS, st.integers(0, 5), st.floats(1e-8, 0.1)), max_size=6),
)
def test_many_similarities_are_judged_as_each_of_them(
    entries: list[tuple[int, int, float]],
) -> None:
    matrices = [spoilt(*entry) for entry in entries]
    expected = []
    for matrix in matrices:
        try:
            split_similarity(matrix)
            expected.append(True)
        except InvalidSimilarity:
            expected.append(False)
    assert are_similarities(np.reshape(matrices, (-1, 4, 4))).tolist() == expected

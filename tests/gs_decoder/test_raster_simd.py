"""The vector type that the kernels are written with."""

import numpy as np
import pytest

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.blend import CONSTANTS, load_constants
from gs_decoder.raster.cpu.jit import helper


@helper
def _arithmetic(a, b, out):
    x, y = simd.load(a, 0), simd.load(b, 0)
    chosen = simd.select((x < y) & ~(x > 0.5), x * 2.0 - y, -y / x)
    simd.store(out, 0, simd.fma(chosen, x, 1.0))
    simd.store(out, 16, simd.maximum(simd.minimum(x, y), 0.25))
    simd.store(out, 32, simd.floor(x * 10.0) + simd.ceiling(y * 10.0))
    return simd.mask_bits((x < y) | (x > 0.75))


@helper
def _exp2(a, table, out):
    constants = load_constants(table)[0]
    for i in range(0, a.shape[0], 16):
        simd.store(out, i, simd.exp2(simd.load(a, i), constants))


@helper
def _sums(rows, out):
    a = simd.load_columns(rows, 0)
    simd.store(out, 0, simd.lane_sums(a))
    simd.store(out, 16, simd.lane_sums((a[0], a[1], a[2])))
    simd.store_columns(out, 32, a)


def test_arithmetic():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.1, 1, (2, 16)).astype(np.float32)
    out = np.zeros(48, np.float32)
    bits = _arithmetic(a, b, out)
    chosen = np.where((a < b) & ~(a > 0.5), a * 2 - b, -b / a)
    np.testing.assert_allclose(out[:16], chosen * a + 1, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(out[16:32], np.maximum(np.minimum(a, b), np.float32(0.25)))
    np.testing.assert_array_equal(out[32:], np.floor(a * 10) + np.ceil(b * 10))
    assert bits == sum(1 << i for i in range(16) if a[i] < b[i] or a[i] > 0.75)


def test_exp2():
    x = np.linspace(-126, 126, 16 * 4096).astype(np.float32)
    out = np.zeros_like(x)
    _exp2(x, CONSTANTS, out)
    np.testing.assert_allclose(out, np.exp2(x.astype(np.float64)), rtol=2.5e-7)


def test_sums_and_columns():
    rows = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    out = np.zeros(16 * 18, np.float32)
    _sums(rows.reshape(-1), out)
    np.testing.assert_allclose(out[:16], rows.sum(0), atol=1e-5)
    np.testing.assert_allclose(out[16:19], rows.sum(0)[:3], atol=1e-5)
    np.testing.assert_array_equal(out[32:].reshape(16, 16), rows)


def test_wrong_types_are_refused():
    from numba.core.errors import TypingError

    with pytest.raises(TypingError):
        _exp2(np.zeros(16), CONSTANTS, np.zeros(16))

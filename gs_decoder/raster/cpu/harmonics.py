"""Colours from spherical harmonics, degrees 0 to 3, sixteen splats at a time.

Basis and signs as in Sloan, "Efficient Spherical Harmonic Evaluation" (JCGT 2013), as 3D
Gaussian splatting uses it: colour = max(0, sum of basis_k(direction) sh_k + 1/2), with the
direction from the camera's centre to the splat's.
"""

import numpy as np

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.jit import helper, kernel
from gs_decoder.raster.cpu.layout import CHUNK, GRADIENT, LEFT, RECORD, RED, RIGHT
from gs_decoder.raster.cpu.projection import dot3
from gs_decoder.raster.cpu.vector_type import LANES

_C0 = 0.2820947917738781
_C1 = 0.48860251190292
_C2 = (1.092548430592079, 0.5462742152960395, 0.9461746957575601, 0.3153915652525201)
_C3 = (
    0.5900435899266435,
    1.445305721320277,
    2.285228997322329,
    0.4570457994644658,
    1.865881662950577,
    1.119528997770346,
)


@helper
def _direction(means, i, center):  # type: ignore[no-untyped-def]
    """Unit vectors from the camera's centre, and their inverse lengths."""
    x = simd.load_strided(means, 3 * i, 3) - center[0]
    y = simd.load_strided(means, 3 * i + 1, 3) - center[1]
    z = simd.load_strided(means, 3 * i + 2, 3) - center[2]
    inverse = 1.0 / simd.maximum(simd.square_root(dot3(x, y, z, x, y, z)), 1e-12)
    return x * inverse, y * inverse, z * inverse, inverse


@helper
def _evaluate_basis(degree, x, y, z, basis):  # type: ignore[no-untyped-def]
    """Write the (degree+1)^2 basis functions, 16 lanes each."""
    simd.store(basis, 0, simd.broadcast(_C0))
    if degree >= 1:
        simd.store(basis, 16, -_C1 * y)
        simd.store(basis, 32, _C1 * z)
        simd.store(basis, 48, -_C1 * x)
    if degree >= 2:
        xy2 = 2.0 * x * y
        xx_yy = x * x - y * y
        zz = z * z
        simd.store(basis, 64, _C2[1] * xy2)
        simd.store(basis, 80, -_C2[0] * (y * z))
        simd.store(basis, 96, _C2[2] * zz - _C2[3])
        simd.store(basis, 112, -_C2[0] * (x * z))
        simd.store(basis, 128, _C2[1] * xx_yy)
        if degree >= 3:
            ring = _C3[3] - _C3[2] * zz
            simd.store(basis, 144, -_C3[0] * (x * xy2 + y * xx_yy))
            simd.store(basis, 160, _C3[1] * (z * xy2))
            simd.store(basis, 176, ring * y)
            simd.store(basis, 192, z * (_C3[4] * zz - _C3[5]))
            simd.store(basis, 208, ring * x)
            simd.store(basis, 224, _C3[1] * (z * xx_yy))
            simd.store(basis, 240, -_C3[0] * (x * xx_yy - y * xy2))


@helper
def _direction_gradient(degree, x, y, z, d):  # type: ignore[no-untyped-def]
    """Gradient of (x, y, z) as free variables, from the gradients of the basis functions."""
    d_x = d_y = d_z = simd.broadcast(0.0)
    if degree >= 1:
        d_y = -_C1 * simd.load(d, 16)
        d_z = _C1 * simd.load(d, 32)
        d_x = -_C1 * simd.load(d, 48)
    if degree >= 2:
        b4, b5, b6 = simd.load(d, 64), simd.load(d, 80), simd.load(d, 96)
        b7, b8 = simd.load(d, 112), simd.load(d, 128)
        wide = 2.0 * _C2[1]
        d_x = d_x + wide * (y * b4 + x * b8) - _C2[0] * (z * b7)
        d_y = d_y + wide * (x * b4 - y * b8) - _C2[0] * (z * b5)
        d_z = d_z + (2.0 * _C2[2]) * (z * b6) - _C2[0] * (y * b5 + x * b7)
        if degree >= 3:
            b9, b10, b11 = simd.load(d, 144), simd.load(d, 160), simd.load(d, 176)
            b12, b13 = simd.load(d, 192), simd.load(d, 208)
            b14, b15 = simd.load(d, 224), simd.load(d, 240)
            zz = z * z
            xy2 = 2.0 * x * y
            xx_yy = x * x - y * y
            ring = _C3[3] - _C3[2] * zz
            cubic = 3.0 * _C3[0]
            d_x = d_x - cubic * (xy2 * b9 + xx_yy * b15) + ring * b13
            d_x = d_x + (2.0 * _C3[1]) * z * (y * b10 + x * b14)
            d_y = d_y - cubic * (xx_yy * b9 - xy2 * b15) + ring * b11
            d_y = d_y + (2.0 * _C3[1]) * z * (x * b10 - y * b14)
            d_z = d_z + _C3[1] * (xy2 * b10 + xx_yy * b14)
            d_z = d_z - (2.0 * _C3[2]) * z * (y * b11 + x * b13)
            d_z = d_z + (3.0 * _C3[4] * zz - _C3[5]) * b12
    return d_x, d_y, d_z


@kernel
def shade(
    means: np.ndarray,  # (n*3,); n a multiple of 16
    coefficients: np.ndarray,  # (n*K*3,)
    bases: int,  # K
    degree: int,  # degree in use; (degree+1)^2 <= K
    center: np.ndarray,  # (3,) of the camera
    first: int,  # record of the first splat
    records: np.ndarray,  # in/out (N*RECORD,): visible ones get their colour
    counter: np.ndarray,  # (1,) int64, 0
) -> None:
    n = means.shape[0] // 3
    chunks = (n + CHUNK - 1) // CHUNK
    used = (degree + 1) ** 2
    stride = 3 * bases
    basis = np.empty(16 * 16, np.float32)
    while True:
        chunk = simd.fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), LANES):
            base = (first + i) * RECORD
            left = simd.load_strided(records, base + LEFT, RECORD)
            right = simd.load_strided(records, base + RIGHT, RECORD)
            if not simd.any_lane(left <= right):
                continue
            x, y, z, _ = _direction(means, i, center)
            _evaluate_basis(degree, x, y, z, basis)
            red = green = blue = simd.broadcast(0.5)
            for k in range(used):
                value = simd.load(basis, 16 * k)
                where = i * stride + 3 * k
                red = simd.fma(value, simd.load_strided(coefficients, where, stride), red)
                green = simd.fma(value, simd.load_strided(coefficients, where + 1, stride), green)
                blue = simd.fma(value, simd.load_strided(coefficients, where + 2, stride), blue)
            simd.store_strided(records, base + RED, RECORD, simd.maximum(red, 0.0))
            simd.store_strided(records, base + RED + 1, RECORD, simd.maximum(green, 0.0))
            simd.store_strided(records, base + RED + 2, RECORD, simd.maximum(blue, 0.0))


@kernel
def shade_backward(
    means: np.ndarray,  # as in `shade`
    coefficients: np.ndarray,
    bases: int,
    degree: int,
    center: np.ndarray,
    first: int,
    camera_row: int,  # row of `center_sums` of the first chunk
    records: np.ndarray,  # (N*RECORD,)
    sums: np.ndarray,  # (N*GRADIENT,)
    counter: np.ndarray,  # (1,) int64, 0
    d_means: np.ndarray,  # in/out (N*3,): the direction's part is added
    d_coefficients: np.ndarray,  # out (N*K*3,), zeroed before
    center_sums: np.ndarray,  # out (chunks*16,): gradient of the camera's centre in columns 0..2
) -> None:
    n = means.shape[0] // 3
    chunks = (n + CHUNK - 1) // CHUNK
    used = (degree + 1) ** 2
    stride = 3 * bases
    basis = np.empty(16 * 16, np.float32)
    d_basis = np.empty(16 * 16, np.float32)
    zero = simd.broadcast(0.0)
    while True:
        chunk = simd.fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        c_x = c_y = c_z = zero
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), LANES):
            row = first + i
            base = row * RECORD
            left = simd.load_strided(records, base + LEFT, RECORD)
            right = simd.load_strided(records, base + RIGHT, RECORD)
            visible = left <= right
            if not simd.any_lane(visible):
                continue
            x, y, z, inverse = _direction(means, i, center)
            _evaluate_basis(degree, x, y, z, basis)
            # A colour that was cut at zero passes nothing on.
            lit = simd.load_strided(records, base + RED, RECORD) > 0.0
            red = simd.load_strided(sums, row * GRADIENT, GRADIENT)
            red = simd.select(visible & lit, red, zero)
            lit = simd.load_strided(records, base + RED + 1, RECORD) > 0.0
            green = simd.load_strided(sums, row * GRADIENT + 1, GRADIENT)
            green = simd.select(visible & lit, green, zero)
            lit = simd.load_strided(records, base + RED + 2, RECORD) > 0.0
            blue = simd.load_strided(sums, row * GRADIENT + 2, GRADIENT)
            blue = simd.select(visible & lit, blue, zero)
            for k in range(used):
                value = simd.load(basis, 16 * k)
                where = i * stride + 3 * k
                out = row * stride + 3 * k
                simd.store_strided(d_coefficients, out, stride, value * red)
                simd.store_strided(d_coefficients, out + 1, stride, value * green)
                simd.store_strided(d_coefficients, out + 2, stride, value * blue)
                total = red * simd.load_strided(coefficients, where, stride)
                total = simd.fma(green, simd.load_strided(coefficients, where + 1, stride), total)
                total = simd.fma(blue, simd.load_strided(coefficients, where + 2, stride), total)
                simd.store(d_basis, 16 * k, total)
            d_x, d_y, d_z = _direction_gradient(degree, x, y, z, d_basis)
            along = dot3(x, y, z, d_x, d_y, d_z)
            d_x = simd.select(visible, inverse * (d_x - along * x), 0.0)
            d_y = simd.select(visible, inverse * (d_y - along * y), 0.0)
            d_z = simd.select(visible, inverse * (d_z - along * z), 0.0)
            out = 3 * row
            d_x_mean = simd.load_strided(d_means, out, 3) + d_x
            d_y_mean = simd.load_strided(d_means, out + 1, 3) + d_y
            d_z_mean = simd.load_strided(d_means, out + 2, 3) + d_z
            simd.store_strided(d_means, out, 3, d_x_mean)
            simd.store_strided(d_means, out + 1, 3, d_y_mean)
            simd.store_strided(d_means, out + 2, 3, d_z_mean)
            c_x, c_y, c_z = c_x - d_x, c_y - d_y, c_z - d_z
        total = simd.lane_sums((c_x, c_y, c_z))
        simd.store(center_sums, (camera_row + chunk) * 16, total)

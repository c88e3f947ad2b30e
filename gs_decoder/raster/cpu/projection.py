"""Splats -> their ellipses in the image (EWA splatting, gsplat's pinhole Jacobian).

Sixteen splats at a time, one a lane. M = J R_camera R_splat S (2x3) is carried instead of
the covariances: cov2d = M M^T + eps I has the determinant |m1 x m2|^2 + eps (|m1|^2+|m2|^2)
+ eps^2 (Cauchy-Binet), a sum of positive terms, exact to rounding even for needles.
"""

import math

import numpy as np

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.jit import helper, kernel
from gs_decoder.raster.cpu.layout import (
    C_CX,
    C_CY,
    C_FX,
    C_FY,
    C_HEIGHT,
    C_NEAR,
    C_ROTATION,
    C_TRANSLATION,
    C_WIDTH,
    C_X_HIGH,
    C_X_LOW,
    C_Y_HIGH,
    C_Y_LOW,
    CHUNK,
    EPS2D,
    LEFT,
    MIN_ALPHA,
    RADIUS,
    RECORD,
    RIGHT,
)
from gs_decoder.raster.cpu.vector_type import LANES

_LOG2_E = 1.0 / math.log(2.0)
_TWO_LN2 = 2.0 * math.log(2.0)
_LOG2_MIN_ALPHA = math.log2(MIN_ALPHA)
_FAR = 1e10


@helper
def dot3(ax, ay, az, bx, by, bz):  # type: ignore[no-untyped-def]
    """Scalar product of two vectors, lane by lane."""
    return simd.fma(ax, bx, simd.fma(ay, by, az * bz))


@helper
def rotation_matrix(w, x, y, z):  # type: ignore[no-untyped-def]
    """Unit quaternion -> the nine entries of its rotation, row by row."""
    return (
        1.0 - 2.0 * (y * y + z * z),
        2.0 * (x * y - w * z),
        2.0 * (x * z + w * y),
        2.0 * (x * y + w * z),
        1.0 - 2.0 * (x * x + z * z),
        2.0 * (y * z - w * x),
        2.0 * (x * z - w * y),
        2.0 * (y * z + w * x),
        1.0 - 2.0 * (x * x + y * y),
    )


@helper
def inverse_norm(w, x, y, z):  # type: ignore[no-untyped-def]
    """1/|q|; a quaternion of no length becomes the identity, as torch's normalize has it."""
    square = simd.fma(w, w, simd.fma(x, x, simd.fma(y, y, z * z)))
    return 1.0 / simd.maximum(simd.square_root(square), 1e-12)


@helper
def camera_axes(camera, r):  # type: ignore[no-untyped-def]
    """R_camera R_splat, row by row, with the splat's rotation `r`."""
    c = C_ROTATION
    return (
        dot3(camera[c], camera[c + 1], camera[c + 2], r[0], r[3], r[6]),
        dot3(camera[c], camera[c + 1], camera[c + 2], r[1], r[4], r[7]),
        dot3(camera[c], camera[c + 1], camera[c + 2], r[2], r[5], r[8]),
        dot3(camera[c + 3], camera[c + 4], camera[c + 5], r[0], r[3], r[6]),
        dot3(camera[c + 3], camera[c + 4], camera[c + 5], r[1], r[4], r[7]),
        dot3(camera[c + 3], camera[c + 4], camera[c + 5], r[2], r[5], r[8]),
        dot3(camera[c + 6], camera[c + 7], camera[c + 8], r[0], r[3], r[6]),
        dot3(camera[c + 6], camera[c + 7], camera[c + 8], r[1], r[4], r[7]),
        dot3(camera[c + 6], camera[c + 7], camera[c + 8], r[2], r[5], r[8]),
    )


@helper
def camera_point(camera, x, y, z):  # type: ignore[no-untyped-def]
    """World point -> camera point."""
    c, t = C_ROTATION, C_TRANSLATION
    return (
        dot3(camera[c], camera[c + 1], camera[c + 2], x, y, z) + camera[t],
        dot3(camera[c + 3], camera[c + 4], camera[c + 5], x, y, z) + camera[t + 1],
        dot3(camera[c + 6], camera[c + 7], camera[c + 8], x, y, z) + camera[t + 2],
    )


@helper
def image_axes(j00, j02, j11, j12, axes, sx, sy, sz):  # type: ignore[no-untyped-def]
    """M = J axes diag(s): its first row, then its second."""
    return (
        simd.fma(j00, axes[0], j02 * axes[6]) * sx,
        simd.fma(j00, axes[1], j02 * axes[7]) * sy,
        simd.fma(j00, axes[2], j02 * axes[8]) * sz,
        simd.fma(j11, axes[3], j12 * axes[6]) * sx,
        simd.fma(j11, axes[4], j12 * axes[7]) * sy,
        simd.fma(j11, axes[5], j12 * axes[8]) * sz,
    )


@helper
def covariance(m):  # type: ignore[no-untyped-def]
    """Rows of M -> cov_xx, cov_xy, cov_yy (with the blur) and their determinant."""
    a = dot3(m[0], m[1], m[2], m[0], m[1], m[2])
    b = dot3(m[0], m[1], m[2], m[3], m[4], m[5])
    c = dot3(m[3], m[4], m[5], m[3], m[4], m[5])
    nx = m[1] * m[5] - m[2] * m[4]
    ny = m[2] * m[3] - m[0] * m[5]
    nz = m[0] * m[4] - m[1] * m[3]
    determinant = dot3(nx, ny, nz, nx, ny, nz) + EPS2D * (a + c) + EPS2D * EPS2D
    return a + EPS2D, b, c + EPS2D, determinant


@kernel
def project(
    means: np.ndarray,  # (n*3,) world units; n a multiple of 16, all inputs flat
    quats: np.ndarray,  # (n*4,) wxyz
    scales: np.ndarray,  # (n*3,)
    opacities: np.ndarray,  # (n,)
    colors: np.ndarray,  # (n*3,) or empty: written later
    camera: np.ndarray,  # (CAMERA,)
    first: int,  # record of the first splat
    records: np.ndarray,  # out (N*RECORD,)
    counter: np.ndarray,  # (1,) int64, 0: chunks already dealt out
) -> None:
    """Write the records of `n` splats; an invisible one gets an empty pixel box."""
    n = opacities.shape[0]
    chunks = (n + CHUNK - 1) // CHUNK
    while True:
        chunk = simd.fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), LANES):
            x, y, z = camera_point(
                camera,
                simd.load_strided(means, 3 * i, 3),
                simd.load_strided(means, 3 * i + 1, 3),
                simd.load_strided(means, 3 * i + 2, 3),
            )
            opacity = simd.load(opacities, i)
            out = (first + i) * RECORD
            visible = (z > camera[C_NEAR]) & (z < _FAR) & (opacity >= MIN_ALPHA)
            if not simd.any_lane(visible):
                simd.store_strided(records, out + LEFT, RECORD, simd.broadcast(1.0))
                simd.store_strided(records, out + RIGHT, RECORD, simd.broadcast(0.0))
                simd.store_strided(records, out + RADIUS, RECORD, simd.broadcast(0.0))
                continue
            w = simd.load_strided(quats, 4 * i, 4)
            qx = simd.load_strided(quats, 4 * i + 1, 4)
            qy = simd.load_strided(quats, 4 * i + 2, 4)
            qz = simd.load_strided(quats, 4 * i + 3, 4)
            unit = inverse_norm(w, qx, qy, qz)
            rotation = rotation_matrix(w * unit, qx * unit, qy * unit, qz * unit)
            iz = 1.0 / z
            px, py = x * iz, y * iz
            u = simd.minimum(simd.maximum(px, camera[C_X_LOW]), camera[C_X_HIGH])
            v = simd.minimum(simd.maximum(py, camera[C_Y_LOW]), camera[C_Y_HIGH])
            j00, j11 = camera[C_FX] * iz, camera[C_FY] * iz
            m = image_axes(
                j00,
                -(j00 * u),
                j11,
                -(j11 * v),
                camera_axes(camera, rotation),
                simd.load_strided(scales, 3 * i, 3),
                simd.load_strided(scales, 3 * i + 1, 3),
                simd.load_strided(scales, 3 * i + 2, 3),
            )
            cxx, cxy, cyy, determinant = covariance(m)
            center_x = simd.fma(px, camera[C_FX], camera[C_CX])
            center_y = simd.fma(py, camera[C_FY], camera[C_CY])
            log_opacity = simd.log2(opacity)
            reach = _TWO_LN2 * simd.maximum(log_opacity - _LOG2_MIN_ALPHA, 0.0)
            # Rounding must not cut off a pixel whose alpha is exactly at the limit; blending
            # tests alpha itself.
            radius_x = simd.fma(simd.square_root(reach * cxx), 1.0001, 0.001)
            radius_y = simd.fma(simd.square_root(reach * cyy), 1.0001, 0.001)
            left = simd.maximum(simd.ceiling(center_x - radius_x - 0.5), 0.0)
            right = simd.minimum(simd.floor(center_x + radius_x - 0.5), camera[C_WIDTH] - 1.0)
            top = simd.maximum(simd.ceiling(center_y - radius_y - 0.5), 0.0)
            bottom = simd.minimum(simd.floor(center_y + radius_y - 0.5), camera[C_HEIGHT] - 1.0)
            visible = visible & (left <= right) & (top <= bottom)
            # False for NaN and for what overflowed.
            visible = visible & (determinant < 1e37) & (simd.absolute(center_x) < 1e9)
            visible = visible & (simd.absolute(center_y) < 1e9)
            red = green = blue = simd.broadcast(0.0)
            if colors.shape[0] > 0:
                red = simd.load_strided(colors, 3 * i, 3)
                green = simd.load_strided(colors, 3 * i + 1, 3)
                blue = simd.load_strided(colors, 3 * i + 2, 3)
            radius = simd.maximum(radius_x, radius_y)
            # In the order of the columns that `layout` names.
            record = (
                center_x,
                center_y,
                -(cxy / cxx),
                (-0.5 * _LOG2_E) / cxx,
                (-0.5 * _LOG2_E) * (cxx / determinant),
                log_opacity,
                red,
                green,
                blue,
                z,
                simd.select(visible, left, 1.0),
                simd.select(visible, right, 0.0),
                simd.select(visible, top, 1.0),
                simd.select(visible, bottom, 0.0),
                simd.select(visible, radius, 0.0),
                simd.broadcast(0.0),
            )
            simd.store_columns(records, out, record)

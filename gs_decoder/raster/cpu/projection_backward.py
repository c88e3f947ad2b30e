"""Backward of `project`: image-space sums per splat -> gradients of its parameters and the camera.

With h = 1/cov_xx, k = SLOPE = -cov_xy/cov_xx and g = cov_xx/det the exponent is
sigma = (h x^2 + g t^2)/2, t = y + k x; `blend_backward` brings the sums of q, q x, q t, q x^2,
q x t, q t^2 with q = alpha dL/dalpha = -dL/dsigma.
"""

import numpy as np

from gs_decoder.raster.cpu import simd
from gs_decoder.raster.cpu.blend_backward import sum_slots
from gs_decoder.raster.cpu.jit import helper, kernel
from gs_decoder.raster.cpu.layout import (
    C_FX,
    C_FY,
    C_ROTATION,
    C_X_HIGH,
    C_X_LOW,
    C_Y_HIGH,
    C_Y_LOW,
    CAMERA_SUMS,
    CHUNK,
    G_BLUE,
    G_DEPTH,
    G_GREEN,
    G_Q,
    G_QT,
    G_QTT,
    G_QX,
    G_QXT,
    G_QXX,
    G_RED,
    GRADIENT,
    LEFT,
    RECORD,
    RIGHT,
)
from gs_decoder.raster.cpu.projection import (
    camera_axes,
    camera_point,
    covariance,
    dot3,
    image_axes,
    inverse_norm,
    rotation_matrix,
)
from gs_decoder.raster.cpu.vector_type import LANES


@helper
def _shape_gradients(m, sums):  # type: ignore[no-untyped-def]
    """Gradients of the two rows of M, and of the centre in the image."""
    cxx, cxy, _, determinant = covariance(m)
    h = 1.0 / cxx
    k = -(cxy * h)
    g = cxx / determinant
    d_h = -0.5 * sums[G_QXX]
    d_g = -0.5 * sums[G_QTT]
    d_k = -(g * sums[G_QXT])
    # 1/g is the Schur complement cov_yy - cov_xy^2/cov_xx; its gradient falls on the part of
    # m2 that is orthogonal to m1, which is what `residual` is.
    d_schur = -(g * g) * d_g
    d_xx = -h * simd.fma(h, d_h, k * d_k)
    d_xy = -h * d_k
    scale = 2.0 * d_schur
    residual = (
        simd.fma(k, m[0], m[3]),
        simd.fma(k, m[1], m[4]),
        simd.fma(k, m[2], m[5]),
    )
    d_m = (
        scale * k * residual[0] + 2.0 * d_xx * m[0] + d_xy * m[3],
        scale * k * residual[1] + 2.0 * d_xx * m[1] + d_xy * m[4],
        scale * k * residual[2] + 2.0 * d_xx * m[2] + d_xy * m[5],
        scale * residual[0] + d_xy * m[0],
        scale * residual[1] + d_xy * m[1],
        scale * residual[2] + d_xy * m[2],
    )
    d_y = g * sums[G_QT]
    d_x = simd.fma(h, sums[G_QX], k * d_y)
    return d_m, d_x, d_y


@helper
def _rotation_gradient(w, x, y, z, d):  # type: ignore[no-untyped-def]
    """Gradient of a unit quaternion from that of its rotation matrix."""
    return (
        2.0 * (x * (d[7] - d[5]) + y * (d[2] - d[6]) + z * (d[3] - d[1])),
        2.0 * (w * (d[7] - d[5]) - 2.0 * x * (d[4] + d[8]) + y * (d[1] + d[3]) + z * (d[2] + d[6])),
        2.0 * (w * (d[2] - d[6]) + x * (d[1] + d[3]) - 2.0 * y * (d[0] + d[8]) + z * (d[5] + d[7])),
        2.0 * (w * (d[3] - d[1]) + x * (d[2] + d[6]) + y * (d[5] + d[7]) - 2.0 * z * (d[0] + d[4])),
    )


@kernel
def project_backward(
    means: np.ndarray,  # (n*3,) as in `project`
    quats: np.ndarray,  # (n*4,)
    scales: np.ndarray,  # (n*3,)
    opacities: np.ndarray,  # (n,)
    camera: np.ndarray,  # (CAMERA,)
    first: int,  # record and gradient row of the first splat
    camera_row: int,  # row of `camera_sums` of the first chunk
    records: np.ndarray,  # (N*RECORD,)
    slots: np.ndarray,  # (pairs*GRADIENT,), from `blend_backward`
    slot_used: np.ndarray,  # (pairs,) uint8
    first_pair: np.ndarray,  # (N+1,) int64
    sums: np.ndarray,  # out (N*GRADIENT,)
    counter: np.ndarray,  # (1,) int64, 0
    d_means: np.ndarray,  # out (N*3,)
    d_quats: np.ndarray,  # out (N*4,)
    d_scales: np.ndarray,  # out (N*3,)
    d_opacities: np.ndarray,  # out (N,)
    d_colors: np.ndarray,  # out (N*3,): of the colour that was blended
    d_center: np.ndarray,  # out (N,): length of the gradient of the centre in the image, 1/pixel
    camera_sums: np.ndarray,  # out (chunks of N*CAMERA_SUMS,)
) -> None:
    n = opacities.shape[0]
    chunks = (n + CHUNK - 1) // CHUNK
    zero = simd.broadcast(0.0)
    c = C_ROTATION
    while True:
        chunk = simd.fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        r00 = r01 = r02 = r10 = r11 = r12 = r20 = r21 = r22 = zero
        t0 = t1 = t2 = k_fx = k_fy = k_cx = k_cy = zero
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), LANES):
            row = first + i
            left = simd.load_strided(records, row * RECORD + LEFT, RECORD)
            right = simd.load_strided(records, row * RECORD + RIGHT, RECORD)
            visible = left <= right
            for s in range(row, row + LANES):
                sum_slots(slots, slot_used, first_pair, s, sums)
            if not simd.any_lane(visible):
                for k in range(3):
                    simd.store(d_means, 3 * row + 16 * k, zero)
                    simd.store(d_scales, 3 * row + 16 * k, zero)
                    simd.store(d_colors, 3 * row + 16 * k, zero)
                for k in range(4):
                    simd.store(d_quats, 4 * row + 16 * k, zero)
                simd.store(d_opacities, row, zero)
                simd.store(d_center, row, zero)
                continue
            g = simd.load_columns(sums, row * GRADIENT)
            mx = simd.load_strided(means, 3 * i, 3)
            my = simd.load_strided(means, 3 * i + 1, 3)
            mz = simd.load_strided(means, 3 * i + 2, 3)
            x, y, z = camera_point(camera, mx, my, mz)
            # Invisible lanes compute with harmless numbers and are masked at the end.
            z = simd.select(visible, z, 1.0)
            qw = simd.load_strided(quats, 4 * i, 4)
            qx = simd.load_strided(quats, 4 * i + 1, 4)
            qy = simd.load_strided(quats, 4 * i + 2, 4)
            qz = simd.load_strided(quats, 4 * i + 3, 4)
            unit = inverse_norm(qw, qx, qy, qz)
            qw, qx, qy, qz = qw * unit, qx * unit, qy * unit, qz * unit
            rotation = rotation_matrix(qw, qx, qy, qz)
            axes = camera_axes(camera, rotation)
            sx = simd.load_strided(scales, 3 * i, 3)
            sy = simd.load_strided(scales, 3 * i + 1, 3)
            sz = simd.load_strided(scales, 3 * i + 2, 3)
            iz = 1.0 / z
            px, py = x * iz, y * iz
            u = simd.minimum(simd.maximum(px, camera[C_X_LOW]), camera[C_X_HIGH])
            v = simd.minimum(simd.maximum(py, camera[C_Y_LOW]), camera[C_Y_HIGH])
            j00, j11 = camera[C_FX] * iz, camera[C_FY] * iz
            j02, j12 = -(j00 * u), -(j11 * v)
            m = image_axes(j00, j02, j11, j12, axes, sx, sy, sz)
            d_m, d_x, d_y = _shape_gradients(m, g)

            # M = J axes diag(s)
            d_sx = d_m[0] * (j00 * axes[0] + j02 * axes[6]) + d_m[3] * (
                j11 * axes[3] + j12 * axes[6]
            )
            d_sy = d_m[1] * (j00 * axes[1] + j02 * axes[7]) + d_m[4] * (
                j11 * axes[4] + j12 * axes[7]
            )
            d_sz = d_m[2] * (j00 * axes[2] + j02 * axes[8]) + d_m[5] * (
                j11 * axes[5] + j12 * axes[8]
            )
            n0, n1, n2 = d_m[0] * sx, d_m[1] * sy, d_m[2] * sz
            n3, n4, n5 = d_m[3] * sx, d_m[4] * sy, d_m[5] * sz
            d_j00 = dot3(n0, n1, n2, axes[0], axes[1], axes[2])
            d_j02 = dot3(n0, n1, n2, axes[6], axes[7], axes[8])
            d_j11 = dot3(n3, n4, n5, axes[3], axes[4], axes[5])
            d_j12 = dot3(n3, n4, n5, axes[6], axes[7], axes[8])
            # Gradient of R_camera R_splat, and from it of either factor.
            a0, a1, a2 = j00 * n0, j00 * n1, j00 * n2
            a3, a4, a5 = j11 * n3, j11 * n4, j11 * n5
            a6 = simd.fma(j02, n0, j12 * n3)
            a7 = simd.fma(j02, n1, j12 * n4)
            a8 = simd.fma(j02, n2, j12 * n5)
            d_rotation = (
                dot3(camera[c], camera[c + 3], camera[c + 6], a0, a3, a6),
                dot3(camera[c], camera[c + 3], camera[c + 6], a1, a4, a7),
                dot3(camera[c], camera[c + 3], camera[c + 6], a2, a5, a8),
                dot3(camera[c + 1], camera[c + 4], camera[c + 7], a0, a3, a6),
                dot3(camera[c + 1], camera[c + 4], camera[c + 7], a1, a4, a7),
                dot3(camera[c + 1], camera[c + 4], camera[c + 7], a2, a5, a8),
                dot3(camera[c + 2], camera[c + 5], camera[c + 8], a0, a3, a6),
                dot3(camera[c + 2], camera[c + 5], camera[c + 8], a1, a4, a7),
                dot3(camera[c + 2], camera[c + 5], camera[c + 8], a2, a5, a8),
            )
            p = _rotation_gradient(qw, qx, qy, qz, d_rotation)
            along = simd.fma(qw, p[0], dot3(qx, qy, qz, p[1], p[2], p[3]))

            # Centre in the image, depth, and the point that J is taken at.
            inside_x = (px >= camera[C_X_LOW]) & (px <= camera[C_X_HIGH])
            inside_y = (py >= camera[C_Y_LOW]) & (py <= camera[C_Y_HIGH])
            d_u = -(j00 * d_j02)
            d_v = -(j11 * d_j12)
            d_px = simd.fma(d_x, camera[C_FX], simd.select(inside_x, d_u, 0.0))
            d_py = simd.fma(d_y, camera[C_FY], simd.select(inside_y, d_v, 0.0))
            scale_x = simd.fma(-u, d_j02, d_j00)
            scale_y = simd.fma(-v, d_j12, d_j11)
            d_iz = simd.fma(
                scale_x, camera[C_FX], simd.fma(scale_y, camera[C_FY], x * d_px + y * d_py)
            )
            d_cx = d_px * iz
            d_cy = d_py * iz
            d_cz = g[G_DEPTH] - d_iz * iz * iz

            d_mean_x = dot3(camera[c], camera[c + 3], camera[c + 6], d_cx, d_cy, d_cz)
            d_mean_y = dot3(camera[c + 1], camera[c + 4], camera[c + 7], d_cx, d_cy, d_cz)
            d_mean_z = dot3(camera[c + 2], camera[c + 5], camera[c + 8], d_cx, d_cy, d_cz)
            out = 3 * row
            simd.store_strided(d_means, out, 3, simd.select(visible, d_mean_x, 0.0))
            simd.store_strided(d_means, out + 1, 3, simd.select(visible, d_mean_y, 0.0))
            simd.store_strided(d_means, out + 2, 3, simd.select(visible, d_mean_z, 0.0))
            simd.store_strided(d_scales, out, 3, simd.select(visible, d_sx, 0.0))
            simd.store_strided(d_scales, out + 1, 3, simd.select(visible, d_sy, 0.0))
            simd.store_strided(d_scales, out + 2, 3, simd.select(visible, d_sz, 0.0))
            simd.store_strided(d_colors, out, 3, simd.select(visible, g[G_RED], 0.0))
            simd.store_strided(d_colors, out + 1, 3, simd.select(visible, g[G_GREEN], 0.0))
            simd.store_strided(d_colors, out + 2, 3, simd.select(visible, g[G_BLUE], 0.0))
            out = 4 * row
            for k, q, d_q in ((0, qw, p[0]), (1, qx, p[1]), (2, qy, p[2]), (3, qz, p[3])):
                d_q = unit * simd.fma(-q, along, d_q)
                simd.store_strided(d_quats, out + k, 4, simd.select(visible, d_q, 0.0))
            opacity = simd.load(opacities, i)
            simd.store(d_opacities, row, simd.select(visible, g[G_Q] / opacity, 0.0))
            length = simd.square_root(simd.fma(d_x, d_x, d_y * d_y))
            simd.store(d_center, row, simd.select(visible, length, 0.0))

            # Camera: its rotation through the centres and through the axes.
            m0, m1, m2, m3, m4, m5, m6, m7, m8 = rotation
            w0 = d_cx * mx + dot3(a0, a1, a2, m0, m1, m2)
            w1 = d_cx * my + dot3(a0, a1, a2, m3, m4, m5)
            w2 = d_cx * mz + dot3(a0, a1, a2, m6, m7, m8)
            w3 = d_cy * mx + dot3(a3, a4, a5, m0, m1, m2)
            w4 = d_cy * my + dot3(a3, a4, a5, m3, m4, m5)
            w5 = d_cy * mz + dot3(a3, a4, a5, m6, m7, m8)
            w6 = d_cz * mx + dot3(a6, a7, a8, m0, m1, m2)
            w7 = d_cz * my + dot3(a6, a7, a8, m3, m4, m5)
            w8 = d_cz * mz + dot3(a6, a7, a8, m6, m7, m8)
            r00 = r00 + simd.select(visible, w0, 0.0)
            r01 = r01 + simd.select(visible, w1, 0.0)
            r02 = r02 + simd.select(visible, w2, 0.0)
            r10 = r10 + simd.select(visible, w3, 0.0)
            r11 = r11 + simd.select(visible, w4, 0.0)
            r12 = r12 + simd.select(visible, w5, 0.0)
            r20 = r20 + simd.select(visible, w6, 0.0)
            r21 = r21 + simd.select(visible, w7, 0.0)
            r22 = r22 + simd.select(visible, w8, 0.0)
            t0 = t0 + simd.select(visible, d_cx, 0.0)
            t1 = t1 + simd.select(visible, d_cy, 0.0)
            t2 = t2 + simd.select(visible, d_cz, 0.0)
            # The clamped point is a bound (b - c)/f of its own: u*f does not depend on f there,
            # so J's second column passes nothing to f and only -1/f or 1/f to c.
            fx_part = (d_x * px) + d_j00 * iz + simd.select(inside_x, -(u * iz) * d_j02, 0.0)
            fy_part = (d_y * py) + d_j11 * iz + simd.select(inside_y, -(v * iz) * d_j12, 0.0)
            cx_part = d_x + simd.select(inside_x, zero, iz * d_j02)
            cy_part = d_y + simd.select(inside_y, zero, iz * d_j12)
            k_fx = k_fx + simd.select(visible, fx_part, 0.0)
            k_fy = k_fy + simd.select(visible, fy_part, 0.0)
            k_cx = k_cx + simd.select(visible, cx_part, 0.0)
            k_cy = k_cy + simd.select(visible, cy_part, 0.0)
        total = simd.lane_sums(
            (r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2, k_fx, k_fy, k_cx, k_cy)
        )
        simd.store(camera_sums, (camera_row + chunk) * CAMERA_SUMS, total)

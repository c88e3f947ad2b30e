"""Names of the columns that the kernels share.

A pixel offset (dx, dy) from a splat's centre has

    log2(alpha) = LOG_OPACITY + X_FALL dx^2 + RESIDUAL_FALL (dy + SLOPE dx)^2

the 2D Gaussian with its square completed along y. Unlike the usual a, b, c of the inverse
covariance this form has no cancellation for needles, and its exponent is never positive.
"""

RECORD = 16  # float32 columns of a projected splat: one cache line

X, Y, SLOPE, X_FALL, RESIDUAL_FALL, LOG_OPACITY = range(6)
RED, GREEN, BLUE, DEPTH = range(6, 10)
# Inclusive pixel box of alpha >= 1/255, whole numbers; LEFT > RIGHT where nothing is visible.
LEFT, RIGHT, TOP, BOTTOM = range(10, 14)
RADIUS = 14  # larger half-side of that box, pixels; the last column is empty

GRADIENT = 16  # float32 columns of a splat's image-space sums, q = alpha dL/dalpha

G_RED, G_GREEN, G_BLUE, G_DEPTH = range(4)
G_Q, G_QX, G_QT, G_QXX, G_QXT, G_QTT = range(4, 10)  # x = dx, t = dy + SLOPE dx
G_WEIGHT, G_PIXELS = range(10, 12)  # sum of blending weights, number of pixels

TILE = 16  # pixels; one tile is 16 blocks of 4x4 pixels, one block is one vector
BLOCK = 4

EPS2D = 0.3  # px^2 added to the 2D covariance (gsplat's default)
FRUSTUM_MARGIN = 0.3  # part of half the field of view by which the Jacobian's point may lie outside
MIN_ALPHA = 1.0 / 255.0
MIN_TRANSMITTANCE = 1e-4

# float32 entries: rotation (9), translation (3), fx fy cx cy, near, limits of x/z and y/z, size
CAMERA = 23
C_ROTATION, C_TRANSLATION, C_FX, C_FY, C_CX, C_CY, C_NEAR = 0, 9, 12, 13, 14, 15, 16
C_X_LOW, C_X_HIGH, C_Y_LOW, C_Y_HIGH, C_WIDTH, C_HEIGHT = 17, 18, 19, 20, 21, 22

CHUNK = 1024  # splats whose sums over the camera are added up in one go; a multiple of 16
CAMERA_SUMS = 16  # rotation (9), translation (3), fx, fy, cx, cy

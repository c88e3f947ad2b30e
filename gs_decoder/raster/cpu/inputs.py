"""What a caller passes -> what the kernels take: batches of sixteen, and a camera's numbers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gs_decoder.raster.contract import RasterError, RasterShapeError
from gs_decoder.raster.cpu import layout
from gs_decoder.raster.cpu.vector_type import LANES

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class Batch:
    """A run of splats, a multiple of 16, that a kernel takes in one call; arrays flat."""

    first: int
    camera_row: int
    means: Floats
    quats: Floats
    scales: Floats
    opacities: Floats
    colors: Floats


def usable(values: npt.ArrayLike) -> Floats:
    """Contiguous, writable float32: a kernel sees one type of array, whatever is passed."""
    return np.require(values, np.float32, ["C", "W", "A"])


def make_batches(
    means: Floats, quats: Floats, scales: Floats, opacities: Floats, colors: Floats
) -> tuple[Batch, ...]:
    """All full groups of 16 without a copy, and the rest padded with invisible splats."""
    count = len(opacities)
    full = count - count % LANES
    batches = []
    if full:
        batches.append(
            Batch(
                0,
                0,
                means[:full].reshape(-1),
                quats[:full].reshape(-1),
                scales[:full].reshape(-1),
                opacities[:full],
                colors[:full].reshape(-1),
            )
        )
    if full < count:

        def padded(values: Floats) -> Floats:
            result = np.zeros((LANES, *values.shape[1:]), np.float32)
            result[: count - full] = values[full:]
            return result.reshape(-1)

        batches.append(
            Batch(
                full,
                -(-full // layout.CHUNK),
                padded(means),
                padded(quats),
                padded(scales),
                padded(opacities),
                padded(colors),
            )
        )
    return tuple(batches)


def check_shapes(
    means: Floats, quats: Floats, scales: Floats, colors: Floats, count: int, sh_degree: int | None
) -> None:
    """The kernels do not check bounds: nothing of another size may reach them."""
    if sh_degree is None:
        wanted: tuple[int, ...] = (count, 3)
    else:
        bases = colors.shape[1] if colors.ndim == 3 else 0
        wanted = (count, max(bases, (sh_degree + 1) ** 2), 3)
    expected = (
        ("means", means, (count, 3)),
        ("quats", quats, (count, 4)),
        ("scales", scales, (count, 3)),
        ("colors", colors, wanted),
    )
    for name, values, shape in expected:
        if values.shape != shape:
            raise RasterShapeError(f"{name}: shape {values.shape}; expected {shape}")


def camera_entries(
    viewmat: npt.ArrayLike, K: npt.ArrayLike, width: int, height: int, near: float
) -> tuple[Floats, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Camera entries in `layout`'s order, the camera's centre, the inverse of its rotation."""
    view = np.asarray(viewmat, np.float64)
    intrinsics = np.asarray(K, np.float64)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    margin_x = layout.FRUSTUM_MARGIN * 0.5 * width / fx
    margin_y = layout.FRUSTUM_MARGIN * 0.5 * height / fy
    camera = np.zeros(layout.CAMERA, np.float32)
    camera[layout.C_ROTATION : layout.C_ROTATION + 9] = view[:3, :3].reshape(-1)
    camera[layout.C_TRANSLATION : layout.C_TRANSLATION + 3] = view[:3, 3]
    camera[layout.C_FX : layout.C_FX + 5] = fx, fy, cx, cy, near
    camera[layout.C_X_LOW] = -cx / fx - margin_x
    camera[layout.C_X_HIGH] = (width - cx) / fx + margin_x
    camera[layout.C_Y_LOW] = -cy / fy - margin_y
    camera[layout.C_Y_HIGH] = (height - cy) / fy + margin_y
    camera[layout.C_WIDTH], camera[layout.C_HEIGHT] = width, height
    try:
        inverse = np.asarray(np.linalg.inv(view[:3, :3]), np.float64)
    except np.linalg.LinAlgError:
        raise RasterError(
            "viewmat: its rotation has no inverse; pass a world-to-camera matrix"
        ) from None
    return camera, np.asarray(-inverse @ view[:3, 3], np.float64), inverse

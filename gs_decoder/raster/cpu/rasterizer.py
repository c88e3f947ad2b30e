"""The CPU rasteriser without autograd: numpy in, numpy out, workspaces reused."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from gs_decoder.raster.contract import RasterError, RasterShapeError
from gs_decoder.raster.cpu import layout
from gs_decoder.raster.cpu.blend import BLOCKS, CONSTANTS, WORD, blend
from gs_decoder.raster.cpu.blend_backward import blend_backward
from gs_decoder.raster.cpu.harmonics import shade, shade_backward
from gs_decoder.raster.cpu.projection import project
from gs_decoder.raster.cpu.projection_backward import project_backward
from gs_decoder.raster.cpu.tiles import count_visible, sort_into_tiles

Floats = npt.NDArray[np.float32]

_LANES = 16
_EMPTY = np.empty(0, np.float32)
_KEEP_BYTES = 64 << 20

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = Lock()


def _workers(count: int) -> ThreadPoolExecutor:
    """Threads shared by all rasterisers of the process, at least `count` of them."""
    global _pool, _pool_size
    with _pool_lock:
        if _pool is None or _pool_size < count:
            # A replaced pool ends by itself once its last job is done.
            _pool = ThreadPoolExecutor(count, thread_name_prefix="rasterise")
            _pool_size = count
        return _pool


@dataclass(slots=True)
class Context:
    """What `NumbaRasterizer.backward` needs of a forward pass.

    It refers to the rasteriser's workspace and is good until that rasteriser's next forward.
    """

    generation: int
    splats: tuple["_Batch", ...]
    count: int
    camera: Floats
    center: npt.NDArray[np.float64]
    inverse_rotation: npt.NDArray[np.float64]
    background: Floats
    width: int
    height: int
    sh_degree: int | None
    bases: int
    max_alpha: float
    tiles_x: int
    rgb: Floats
    depth: Floats
    alpha: Floats
    pairs: int


@dataclass(frozen=True, slots=True)
class NumpyRender:
    """`rgb` (H,W,3), `depth` (H,W) expected z-depth (0 where nothing is), `alpha` (H,W)."""

    rgb: Floats
    depth: Floats
    alpha: Floats
    context: Context


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of the loss, and what pruning and densification want to know, per splat.

    Views of the rasteriser's workspace: good until its next backward.
    """

    means: Floats  # (N,3)
    quats: Floats  # (N,4)
    scales: Floats  # (N,3)
    opacities: Floats  # (N,)
    colors: Floats  # as the colours were given: (N,3) or (N,K,3)
    viewmat: Floats  # (4,4)
    K: Floats  # (3,3)
    center_gradient: Floats  # (N,) length of the gradient of the centre in the image, 1/pixel
    weight: Floats  # (N,) sum of blending weights over the pixels
    pixels: Floats  # (N,) number of pixels that the splat was blended into
    radius: Floats  # (N,) larger half-side of its pixel box, pixels; 0 if not in view


@dataclass(slots=True)
class _Batch:
    """A run of splats, a multiple of 16, that a kernel takes in one call; arrays flat."""

    first: int
    camera_row: int
    means: Floats
    quats: Floats
    scales: Floats
    opacities: Floats
    colors: Floats


def _usable(values: npt.ArrayLike) -> Floats:
    """Contiguous, writable float32: a kernel sees one type of array, whatever is passed."""
    return np.require(values, np.float32, ["C", "W", "A"])


def _batches(
    means: Floats, quats: Floats, scales: Floats, opacities: Floats, colors: Floats
) -> tuple[_Batch, ...]:
    """All full groups of 16 without a copy, and the rest padded with invisible splats."""
    count = len(opacities)
    full = count - count % _LANES
    batches = []
    if full:
        batches.append(
            _Batch(
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
            result = np.zeros((_LANES, *values.shape[1:]), np.float32)
            result[: count - full] = values[full:]
            return result.reshape(-1)

        batches.append(
            _Batch(
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


def _check_shapes(
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


def _camera(
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


class _Buffers:
    """Named arrays that are kept from view to view; their contents until the size changes."""

    def __init__(self) -> None:
        self._held: dict[str, npt.NDArray[Any]] = {}

    def take(self, name: str, size: int, kind: type[np.generic] = np.float32) -> Any:
        held = self._held.get(name)
        # One view that looked into huge splats must not hold its memory for ever.
        excessive = held is not None and held.nbytes > _KEEP_BYTES and held.size > 8 * size
        if held is None or held.size < size or excessive:
            held = np.empty(max(size, size + size // 4), kind)
            self._held[name] = held
        return held[:size]


class NumbaRasterizer:
    """Renders and differentiates with kernels of our own on the CPU.

    All arrays are contiguous float32; shapes and conventions as in `rasterize`. One instance
    serves one thread at a time; several instances may run at once in several threads (the
    kernels do not hold the interpreter lock). Results do not depend on `threads`, bit for bit.

    Args:
        threads: threads that share the work of one call; 1 keeps to the calling thread, None
            takes what `numba.get_num_threads()` says.
    """

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads: {threads}; use 1 or more, or None for all")
        self.threads = numba.get_num_threads() if threads is None else threads
        self._buffers = _Buffers()
        self._generation = 0

    def _deal(self, function: Callable[..., Any], *arguments: Any, counter_at: int) -> None:
        """Run a kernel that deals its work out by a shared counter on all threads."""
        counter = np.zeros(1, np.int64)
        given = (*arguments[:counter_at], counter, *arguments[counter_at:])
        if self.threads == 1:
            function(*given)
            return
        pool = _workers(self.threads - 1)
        others: list[Future[Any]] = [pool.submit(function, *given) for _ in range(self.threads - 1)]
        try:
            function(*given)
        finally:
            for other in others:
                # One that has not begun would find the counter at its end.
                if not other.cancel():
                    other.result()

    def _touched(self, pairs: int, tiles: int) -> tuple[Any, Any]:
        """Bits of what `blend` blended, and the number of words of each tile."""
        words = pairs // WORD + tiles
        return (
            self._buffers.take("touched", words * BLOCKS, np.uint64),
            self._buffers.take("tile_words", tiles, np.int64),
        )

    def forward(
        self,
        means: Floats,  # (N,3)
        quats: Floats,  # (N,4) wxyz
        scales: Floats,  # (N,3) linear
        opacities: Floats,  # (N,)
        colors: Floats,  # (N,3), or (N,K,3) with sh_degree
        viewmat: npt.ArrayLike,  # (4,4) world to camera
        K: npt.ArrayLike,  # (3,3)
        width: int,
        height: int,
        *,
        sh_degree: int | None = None,
        background: npt.ArrayLike | None = None,  # (3,)
        max_alpha: float = 0.999,
        near: float = 0.01,
    ) -> NumpyRender:
        """Render one view. The images are the caller's to keep; the context is not (see there)."""
        take = self._buffers.take
        self._generation += 1
        count = len(opacities)
        padded = -(-count // _LANES) * _LANES
        colors = _usable(colors)
        _check_shapes(means, quats, scales, colors, count, sh_degree)
        batches = _batches(
            _usable(means), _usable(quats), _usable(scales), _usable(opacities), colors
        )
        camera, center, inverse = _camera(viewmat, K, width, height, near)
        bases = colors.shape[1] if sh_degree is not None else 0
        seen_from = center.astype(np.float32)
        behind = np.zeros(3, np.float32)
        if background is not None:
            behind[:] = np.asarray(background, np.float32)

        records = take("records", padded * layout.RECORD)
        for part in batches:
            plain = part.colors if sh_degree is None else _EMPTY
            self._deal(
                project, part.means, part.quats, part.scales, part.opacities, plain, camera,
                part.first, records, counter_at=8,
            )  # fmt: skip
            if sh_degree is not None:
                self._deal(
                    shade, part.means, part.colors, bases, sh_degree, seen_from, part.first,
                    records, counter_at=7,
                )  # fmt: skip

        tiles_x, tiles_y = -(-width // layout.TILE), -(-height // layout.TILE)
        order, keys = take("order", padded, np.uint32), take("keys", padded, np.uint32)
        tile_box = take("tile_box", 4 * padded, np.int16)
        tile_start = take("tile_start", tiles_x * tiles_y + 1, np.int64)
        first_pair = take("first_pair", padded + 1, np.int64)
        visible = count_visible(
            records, records.view(np.uint32), tiles_x, order, keys, tile_box, tile_start,
            first_pair,
        )  # fmt: skip
        pairs = int(tile_start[-1])
        pair_splat = take("pair_splat", pairs, np.uint32)
        sort_into_tiles(
            visible, tiles_x, order, keys, take("spare_order", padded, np.uint32),
            take("spare_keys", padded, np.uint32), tile_box, tile_start, first_pair, pair_splat,
            take("pair_slot", pairs, np.uint32),
        )  # fmt: skip

        rgb = np.empty((height, width, 3), np.float32)
        depth = np.empty((height, width), np.float32)
        alpha = np.empty((height, width), np.float32)
        self._deal(
            blend, records, pair_splat, tile_start, tiles_x, width, height, behind,
            float(max_alpha), CONSTANTS, *self._touched(pairs, tiles_x * tiles_y),
            rgb.reshape(-1), depth.reshape(-1), alpha.reshape(-1), counter_at=9,
        )  # fmt: skip
        context = Context(
            generation=self._generation,
            splats=batches,
            count=count,
            camera=camera,
            center=center,
            inverse_rotation=inverse,
            background=behind,
            width=width,
            height=height,
            sh_degree=sh_degree,
            bases=bases,
            max_alpha=float(max_alpha),
            tiles_x=tiles_x,
            rgb=rgb,
            depth=depth,
            alpha=alpha,
            pairs=pairs,
        )
        return NumpyRender(rgb, depth, alpha, context)

    def backward(
        self,
        render: NumpyRender,
        d_rgb: Floats,  # (H,W,3)
        d_depth: Floats | None = None,  # (H,W)
        d_alpha: Floats | None = None,  # (H,W)
    ) -> Gradients:
        """Gradients of a loss from its gradients to the images of `render`.

        `render` must be what the last `forward` returned, its images and the arrays that it
        was made from unchanged.

        Raises:
            RuntimeError: this rasteriser has rendered another view since.
        """
        ctx = render.context
        if ctx.generation != self._generation:
            raise RuntimeError(
                "this render is not the last one of this rasteriser; "
                "call backward before the next forward, or use a second NumbaRasterizer"
            )
        take = self._buffers.take
        count, pairs = ctx.count, ctx.pairs
        padded = -(-count // _LANES) * _LANES
        nothing = np.zeros((ctx.height, ctx.width), np.float32)
        d_rgb = _usable(d_rgb)
        d_depth = nothing if d_depth is None else _usable(d_depth)
        d_alpha = nothing if d_alpha is None else _usable(d_alpha)
        given = (d_rgb.shape, d_depth.shape, d_alpha.shape)
        if given != (ctx.rgb.shape, ctx.depth.shape, ctx.alpha.shape):
            raise RasterShapeError(f"d_rgb, d_depth, d_alpha: shapes {given}; not the image's")
        records = take("records", padded * layout.RECORD)
        tiles = -(-ctx.height // layout.TILE) * ctx.tiles_x
        slots = take("slots", pairs * layout.GRADIENT)
        slot_used = take("slot_used", pairs, np.uint8)
        slot_used[:] = 0
        self._deal(
            blend_backward, records, take("pair_splat", pairs, np.uint32),
            take("pair_slot", pairs, np.uint32), take("tile_start", tiles + 1, np.int64),
            *self._touched(pairs, tiles), ctx.tiles_x, ctx.width, ctx.height, ctx.background,
            ctx.max_alpha, CONSTANTS, ctx.rgb.reshape(-1), ctx.depth.reshape(-1),
            ctx.alpha.reshape(-1), d_rgb.reshape(-1), d_depth.reshape(-1), d_alpha.reshape(-1),
            slots, slot_used, counter_at=18,
        )  # fmt: skip
        first_pair = take("first_pair", padded + 1, np.int64)
        sums = take("sums", padded * layout.GRADIENT)

        d_means, d_quats = take("d_means", padded * 3), take("d_quats", padded * 4)
        d_scales, d_opacities = take("d_scales", padded * 3), take("d_opacities", padded)
        d_colors, d_center = take("d_colors", padded * 3), take("d_center", padded)
        rows = -(-padded // layout.CHUNK) + 1
        camera_sums = take("camera_sums", rows * layout.CAMERA_SUMS)
        camera_sums[:] = 0.0
        for part in ctx.splats:
            self._deal(
                project_backward, part.means, part.quats, part.scales, part.opacities,
                ctx.camera, part.first, part.camera_row, records,
                slots, slot_used, first_pair, sums, d_means, d_quats, d_scales, d_opacities,
                d_colors, d_center, camera_sums,
                counter_at=12,
            )  # fmt: skip
        d_centre_world = np.zeros(3)
        if ctx.sh_degree is not None:
            d_colors = take("d_harmonics", padded * ctx.bases * 3)
            d_colors[:] = 0.0
            center_sums = take("center_sums", rows * 16)
            center_sums[:] = 0.0
            for part in ctx.splats:
                self._deal(
                    shade_backward, part.means, part.colors, ctx.bases, ctx.sh_degree,
                    ctx.center.astype(np.float32),
                    part.first, part.camera_row, records, sums, d_means, d_colors, center_sums,
                    counter_at=9,
                )  # fmt: skip
            d_centre_world = center_sums.reshape(rows, 16)[:, :3].sum(axis=0, dtype=np.float64)
        totals = camera_sums.reshape(rows, -1).sum(axis=0, dtype=np.float64)
        d_viewmat, d_K = _camera_gradients(totals, d_centre_world, ctx)
        columns = sums.reshape(padded, layout.GRADIENT)[:count]
        shape = (count, 3) if ctx.sh_degree is None else (count, ctx.bases, 3)
        return Gradients(
            means=d_means.reshape(-1, 3)[:count],
            quats=d_quats.reshape(-1, 4)[:count],
            scales=d_scales.reshape(-1, 3)[:count],
            opacities=d_opacities[:count],
            colors=d_colors[: int(np.prod(shape))].reshape(shape),
            viewmat=d_viewmat,
            K=d_K,
            center_gradient=d_center[:count],
            weight=columns[:, layout.G_WEIGHT],
            pixels=columns[:, layout.G_PIXELS],
            radius=records.reshape(padded, layout.RECORD)[:count, layout.RADIUS],
        )


def _camera_gradients(
    totals: npt.NDArray[np.float64], d_center: npt.NDArray[np.float64], ctx: Context
) -> tuple[Floats, Floats]:
    """Sums over the splats -> gradients of the view matrix (4,4) and of K (3,3)."""
    d_viewmat = np.zeros((4, 4))
    d_viewmat[:3, :3] = totals[:9].reshape(3, 3)
    d_viewmat[:3, 3] = totals[9:12]
    # The centre is the last column of the inverse, so d_viewmat -= inverse^T d_inverse inverse^T:
    # all four rows of the matrix count, as if the last could be changed too (torch.inverse).
    position = np.append(ctx.center, 1.0)
    through = np.append(ctx.inverse_rotation.T @ d_center, position[:3] @ d_center)
    d_viewmat -= np.outer(through, position)
    d_K = np.zeros((3, 3))
    d_K[0, 0], d_K[1, 1], d_K[0, 2], d_K[1, 2] = totals[12:16]
    return d_viewmat.astype(np.float32), d_K.astype(np.float32)

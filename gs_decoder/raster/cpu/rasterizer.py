"""The CPU rasteriser without autograd: numpy in, numpy out, workspaces reused."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from gs_decoder.raster.contract import RasterShapeError
from gs_decoder.raster.cpu import layout
from gs_decoder.raster.cpu.blend import BLOCKS, CONSTANTS, WORD, blend
from gs_decoder.raster.cpu.blend_backward import blend_backward
from gs_decoder.raster.cpu.harmonics import shade, shade_backward
from gs_decoder.raster.cpu.inputs import (
    Floats,
    camera_entries,
    check_shapes,
    make_batches,
    usable,
)
from gs_decoder.raster.cpu.median import median_depth
from gs_decoder.raster.cpu.projection import project
from gs_decoder.raster.cpu.projection_backward import project_backward
from gs_decoder.raster.cpu.results import Context, Gradients, NumpyRender
from gs_decoder.raster.cpu.tiles import count_visible, sort_into_tiles
from gs_decoder.raster.cpu.vector_type import LANES
from gs_decoder.raster.cpu.workers import deal

_EMPTY = np.empty(0, np.float32)
_KEEP_BYTES = 64 << 20


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
        deal(function, *arguments, counter_at=counter_at, threads=self.threads)

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
        padded = -(-count // LANES) * LANES
        colors = usable(colors)
        check_shapes(means, quats, scales, colors, count, sh_degree)
        batches = make_batches(
            usable(means), usable(quats), usable(scales), usable(opacities), colors
        )
        camera, center, inverse = camera_entries(viewmat, K, width, height, near)
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

    def median_depth(self, render: NumpyRender, window: float) -> tuple[Floats, Floats, Floats]:
        """Where the surface is that a pixel shows, and how clearly and finely: three of (H,W).

        The z-depth is the mean of what lies within `window`, a share of depth, of the depth at
        which half of the pixel's light is passed; how clearly: that part of the weight, 0..1; how
        finely: the standard deviation in pixels of the splats that lie there, the root of their
        mean area. All are 0 where nothing is. Not differentiable. `render` as in `backward`.

        Raises:
            RuntimeError: this rasteriser has rendered another view since.
        """
        ctx = render.context
        self._expect_last(ctx)
        take = self._buffers.take
        tiles = ctx.tiles_x * -(-ctx.height // layout.TILE)
        depth, share, sigma = (np.empty_like(render.depth) for _ in range(3))
        self._deal(
            median_depth, take("records", -(-ctx.count // LANES) * layout.RECORD * LANES),
            take("pair_splat", ctx.pairs, np.uint32), take("tile_start", tiles + 1, np.int64),
            ctx.tiles_x, ctx.width, ctx.height, ctx.max_alpha, float(window),
            ctx.alpha.reshape(-1), depth.reshape(-1), share.reshape(-1), sigma.reshape(-1),
            counter_at=9,
        )  # fmt: skip
        return depth, share, sigma

    def _expect_last(self, ctx: Context) -> None:
        if ctx.generation != self._generation:
            raise RuntimeError(
                "this render is not the last one of this rasteriser; use it "
                "before the next forward, or use a second NumbaRasterizer"
            )

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
        self._expect_last(ctx)
        take = self._buffers.take
        count, pairs = ctx.count, ctx.pairs
        padded = -(-count // LANES) * LANES
        nothing = np.zeros((ctx.height, ctx.width), np.float32)
        d_rgb = usable(d_rgb)
        d_depth = nothing if d_depth is None else usable(d_depth)
        d_alpha = nothing if d_alpha is None else usable(d_alpha)
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

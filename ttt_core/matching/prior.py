"""The matching prior: depth and confidence of key frames from their overlapping neighbours."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from ttt_core.matching.cells import CELL, COST_BINS, cell_means, pool_costs
from ttt_core.matching.confidence import depth_parallax, matching_confidence, neighbour_support
from ttt_core.matching.config import PriorConfig
from ttt_core.matching.consistency import compare_depths
from ttt_core.matching.depth_range import coverage, depth_range, known_depths
from ttt_core.matching.fill import fill_unconfident
from ttt_core.matching.geometry import plane_depths, relative
from ttt_core.matching.points import seen_points, surface_points
from ttt_core.matching.sgm import aggregate
from ttt_core.matching.smooth import smooth_surface
from ttt_core.matching.sources import choose_sources
from ttt_core.matching.sweep import NEUTRAL_COST, sweep_cost
from ttt_core.matching.triangulate import (
    Features,
    detect_features,
    nearest_in_pose,
    triangulate_pair,
)
from ttt_core.matching.views import PosedImage, PriorDepth
from ttt_core.matching.winner import pick_winner

DepthPicture = NDArray[np.float32] | None


@dataclass(slots=True, eq=False)
class _Matched:
    """One view between the sweep and the look at the other views; pictures are (H,W) float32."""

    depth: NDArray[np.float32]
    mass: NDArray[np.float32]
    cost: NDArray[np.float32]
    support: NDArray[np.float32]
    parallax: NDArray[np.float32]
    at_end: NDArray[np.bool_]
    trust: NDArray[np.float32]
    sensed: NDArray[np.bool_]
    cell_costs: NDArray[np.float32]
    near: float
    far: float
    middle: float
    sources: list[PosedImage]


class MatchingPrior:
    """Plane sweep against overlapping views, semi-global aggregation, checked across views.

    Results depend on the arguments alone: not on earlier calls, nor on the number of threads.
    """

    def __init__(self, config: PriorConfig | None = None) -> None:
        self.config = config or PriorConfig()
        self._features: dict[int, Features] = {}

    def predict(
        self,
        views: Sequence[PosedImage],
        earlier: Sequence[PosedImage] = (),
        *,
        sensor_depth: Sequence[DepthPicture] | None = None,
        map_depth: Sequence[DepthPicture] | None = None,
    ) -> list[PriorDepth]:
        """Depth of every one of `views`, matched against each other and against `earlier`.

        sensor_depth, map_depth: one (H,W) float32 picture or None a view, world units, 0 where
        there is none. Sensor depth replaces matching where it is; the map's only says where to
        look. Raises ValueError where a picture does not fit its view.
        """
        sensor = _checked("sensor_depth", sensor_depth, views)
        rendered = _checked("map_depth", map_depth, views)
        everybody = [*views, *earlier]
        known = self._known_points(views, earlier, sensor)
        sparse = self._triangulate(views, everybody, rendered, known)
        known_depth = [
            [
                known_depths(rendered[i]),
                seen_points(view, known).depths,
                seen_points(view, sparse).depths,
            ]
            for i, view in enumerate(views)
        ]
        elsewhere = np.concatenate(
            [np.zeros(0), *(depths for lists in known_depth for depths in lists)]
            + [_trusted_depths(view, self.config) for view in earlier]
        )
        matched = self._each(
            lambda i: self._match(views[i], everybody, sensor[i], known_depth[i], elsewhere),
            len(views),
        )
        return self._each(lambda i: self._conclude(i, views, earlier, matched), len(views))

    def warm_up(self, height: int, width: int) -> None:
        """Compiles every kernel, so that the first key frames do not wait for it."""
        rng = np.random.default_rng(0)
        picture = rng.random((height, width + 8), dtype=np.float32)
        K = np.array([[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]])
        views = []
        for k in range(2):
            c2w = np.eye(4)
            c2w[0, 3] = 0.1 * k
            views.append(PosedImage(k, np.ascontiguousarray(picture[:, k : k + width]), K, c2w))
        self.predict(views)

    def _each(self, work: Callable[[int], object], count: int) -> list:
        threads = self.config.threads or int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if threads == 1 or count <= 1:
            return [work(i) for i in range(count)]
        with ThreadPoolExecutor(min(threads, count)) as pool:
            return list(pool.map(work, range(count)))

    def _known_points(
        self,
        views: Sequence[PosedImage],
        earlier: Sequence[PosedImage],
        sensor: Sequence[DepthPicture],
    ) -> NDArray[np.float64]:
        """(n,3) world points from sensor depth and from confident depth of earlier views."""
        cfg = self.config
        found = [np.zeros((0, 3))]
        for view, depth in zip(views, sensor, strict=True):
            if depth is not None:
                found.append(surface_points(view, depth, _present(depth), cfg.point_step))
        for view in earlier:
            if view.depth is not None and view.confidence is not None:
                trusted = _present(view.depth) & (view.confidence > cfg.point_confidence)
                found.append(surface_points(view, view.depth, trusted, cfg.point_step))
        return np.concatenate(found)

    def _triangulate(
        self,
        views: Sequence[PosedImage],
        everybody: Sequence[PosedImage],
        rendered: Sequence[DepthPicture],
        known: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """(n,3) world points shared by the views whose content nothing else tells the depth of."""
        cfg = self.config
        found = [np.zeros((0, 3))]
        done: set[frozenset[int]] = set()
        for view, picture in zip(views, rendered, strict=True):
            covered = max(coverage(picture), seen_points(view, known).coverage)
            if covered >= cfg.known_coverage:
                continue
            for other in nearest_in_pose(view, everybody, cfg.triangulation_views):
                pair = frozenset((id(view), id(other)))
                if pair not in done:
                    done.add(pair)
                    found.append(
                        triangulate_pair(view, self._described(view), other, self._described(other))
                    )
        return np.concatenate(found)

    def _described(self, view: PosedImage) -> Features:
        # By the picture, not the view: the caller's view of an earlier key frame is a new object
        # once it holds a depth, and another one when its pose was corrected.
        number = id(view.gray)
        kept = self._features.get(number)
        if kept is None:
            kept = self._features[number] = detect_features(view)
            weakref.finalize(view.gray, self._features.pop, number, None)
        return kept

    def _match(
        self,
        view: PosedImage,
        everybody: Sequence[PosedImage],
        sensor: DepthPicture,
        known: Sequence[NDArray[np.float64]],
        elsewhere: NDArray[np.float64],
    ) -> _Matched:
        cfg = self.config
        others = [other for other in everybody if other is not view]
        near, far, content = depth_range(view, known, elsewhere, others, cfg)
        sources = choose_sources(view, others, content, cfg)
        height, width = view.gray.shape
        cost = np.empty((height, width, cfg.planes), np.float32)
        moves = [relative(view, source) for source in sources]
        rotations = np.array([move.rotation for move in moves]).reshape(-1, 3, 3)
        offsets = np.array([move.offset for move in moves]).reshape(-1, 3)
        sizes = np.array([source.gray.shape for source in sources], np.int64).reshape(-1, 2)
        reference = _masked(view)
        if sources:
            sweep_cost(
                reference,
                _stacked(sources, sizes),
                sizes,
                rotations,
                offsets,
                1.0 / plane_depths(near, far, cfg.planes),
                np.float32(cfg.noise),
                cost,
            )
        else:
            cost[:] = NEUTRAL_COST
        total = np.empty_like(cost)
        image = np.nan_to_num(reference, nan=0.0)
        aggregate(cost, image, cfg.small_penalty, cfg.large_penalty, cfg.edge_contrast, total)

        index, mass, winner_cost, support, parallax = (
            np.empty((height, width), np.float32) for _ in range(5)
        )
        pick_winner(total, cost, np.float32(cfg.temperature), 2, index, mass, winner_cost)
        plane_step = np.log(far / near) / (cfg.planes - 1)
        log_depth = (np.log(near) + index * plane_step).astype(np.float32)
        neighbour_support(log_depth, 3, np.float32(max(1.5 * plane_step, 0.03)), support)
        depth = np.exp(log_depth)
        depth_parallax(depth, rotations, offsets, sizes, parallax)
        trust = mass * support
        sensed = np.zeros((height, width), np.bool_)
        if sensor is not None:
            sensed = _present(sensor)
            depth[sensed] = sensor[sensed]
            trust[sensed] = cfg.sensor_confidence
        if view.valid is not None:
            trust[~view.valid] = 0.0
        cell_costs = np.empty((-(-height // CELL), -(-width // CELL), COST_BINS), np.float32)
        pool_costs(total, COST_BINS, cell_costs)
        return _Matched(
            depth=depth,
            mass=mass,
            cost=winner_cost,
            support=support,
            parallax=parallax,
            at_end=(index < 1.0) | (index > cfg.planes - 2.0),
            trust=trust,
            sensed=sensed,
            cell_costs=cell_costs,
            near=near,
            far=far,
            middle=float(np.median(content)),
            sources=sources,
        )

    def _conclude(
        self,
        number: int,
        views: Sequence[PosedImage],
        earlier: Sequence[PosedImage],
        matched: Sequence[_Matched],
    ) -> PriorDepth:
        cfg = self.config
        view, mine = views[number], matched[number]
        agree = np.zeros(view.gray.shape, np.float32)
        against = np.zeros(view.gray.shape, np.float32)
        witnesses = [
            (other, theirs.depth, theirs.trust)
            for other, theirs in zip(views, matched, strict=True)
            if other is not view
        ]
        witnesses += [
            (other, _plain(other.depth), _plain(other.confidence))
            for other in earlier
            if other in mine.sources and other.depth is not None and other.confidence is not None
        ]
        for other, depth, trust in witnesses:
            move = relative(view, other)
            compare_depths(
                mine.depth, depth, trust, move.rotation, move.offset,
                cfg.agreement, cfg.least_trust, agree, against,
            )  # fmt: skip
        confidence = matching_confidence(
            mass=mine.mass,
            cost=mine.cost,
            support=mine.support,
            at_end=mine.at_end,
            agree=_smooth(agree),
            against=_smooth(against),
            parallax=mine.parallax,
        )
        confidence[mine.sensed] = cfg.sensor_confidence
        if view.valid is not None:
            confidence[~view.valid] = 0.0
        own = np.empty_like(mine.depth)
        reach = cfg.smoothing * np.log(mine.far / mine.near) / (cfg.planes - 1)
        smooth_surface(np.log(mine.depth), confidence, mine.sensed, np.float32(reach), own)
        log_depth = fill_unconfident(
            own,
            confidence,
            background=_background(mine, own, confidence),
            leak=cfg.fill_leak,
        )
        return PriorDepth(
            depth=np.exp(log_depth),
            confidence=confidence,
            cells=_cells(mine, log_depth, confidence, agree - against),
            depth_range=(mine.near, mine.far),
            sources=tuple(source.key for source in mine.sources),
        )


def _trusted_depths(view: PosedImage, config: PriorConfig) -> NDArray[np.float64]:
    """(n,) a thin sample of the confident depths of an earlier view."""
    if view.depth is None or view.confidence is None:
        return np.zeros(0)
    depth, confidence = (
        p[:: config.point_step, :: config.point_step] for p in (view.depth, view.confidence)
    )
    return depth[_present(depth) & (confidence > config.point_confidence)].astype(np.float64)


def _background(
    mine: _Matched, log_depth: NDArray[np.float32], confidence: NDArray[np.float32]
) -> float:
    """Log depth for what nothing is known about: as far as the farthest that is known."""
    sure = log_depth[confidence > 0.6]
    if sure.size >= 0.01 * log_depth.size:
        return float(np.percentile(sure, 98.0))
    return float(np.log(mine.middle))


def _checked(
    name: str, pictures: Sequence[DepthPicture] | None, views: Sequence[PosedImage]
) -> list[DepthPicture]:
    if pictures is None:
        return [None] * len(views)
    if len(pictures) != len(views):
        raise ValueError(f"{name} has {len(pictures)} entries: give one (or None) for each view")
    for picture, view in zip(pictures, views, strict=True):
        if picture is not None and picture.shape != view.gray.shape:
            raise ValueError(
                f"{name} of view {view.key} is {picture.shape}: give {view.gray.shape}, as its gray"
            )
    return list(pictures)


def _smooth(votes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over 5x5 pixels: neighbours' votes say as much about a pixel as its own."""
    return np.asarray(cv2.blur(votes, (5, 5)), np.float32)


def _plain(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the kernels were compiled for: a view or a read-only array would compile them anew."""
    return np.require(picture, np.float32, ("C", "W"))


def _present(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.isfinite(depth) & (depth > 0)


def _masked(view: PosedImage) -> NDArray[np.float32]:
    """Grey values around zero (sums of squares lose fewer digits), NaN where masked."""
    centred = view.gray - np.float32(0.5)
    return centred if view.valid is None else np.where(view.valid, centred, np.float32(np.nan))


def _stacked(sources: Sequence[PosedImage], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    # One more row and column: a picture one pixel wide has no cell of four corners.
    stack = np.zeros((len(sources), *(sizes.max(0) + 1)), np.float32)
    for layer, source in zip(stack, sources, strict=True):
        height, width = source.gray.shape
        layer[:height, :width] = _masked(source)
    return stack


def _cells(
    mine: _Matched,
    log_depth: NDArray[np.float32],
    confidence: NDArray[np.float32],
    votes: NDArray[np.float32],
) -> NDArray[np.float32]:
    place = (log_depth - np.log(mine.near)) / np.log(mine.far / mine.near)
    weight = confidence + np.float32(1e-3)
    extra = (
        cell_means(place.astype(np.float32) * weight) / cell_means(weight),
        cell_means(confidence),
        cell_means(np.clip(votes, -2.0, 2.0)),
        cell_means(np.log1p(mine.parallax)),
    )
    return np.concatenate([mine.cell_costs, np.stack(extra, -1)], -1).astype(np.float32)

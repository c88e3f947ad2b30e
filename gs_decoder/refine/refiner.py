"""Refinement: Adam on splats against camera images, in the time that batches leave.

Every step takes one view per worker (two views on two threads scale better than two threads on one
view), sums their gradients in a fixed order and makes one Adam step: the result depends on the
number of workers and the seed, never on timing. A step is the unit of interruption: the caller asks
for steps while it has time, so a batch never waits longer than one of them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import adam
from gs_decoder.refine.choice import choose_views
from gs_decoder.refine.config import RefineConfig
from gs_decoder.refine.convergence import Convergence
from gs_decoder.refine.harmonics import accumulate_harmonics, harmonic_columns
from gs_decoder.refine.in_view import even_spans
from gs_decoder.refine.parameters import SplatParameters
from gs_decoder.refine.poses import PoseOffsets
from gs_decoder.refine.renderers import ViewGradient, ViewRenderer
from gs_decoder.refine.taking import Taking, take
from gs_decoder.refine.views import RefineView
from gs_decoder.refine.workers import Wait, Workers, only_wait
from gs_decoder.splats import Splats

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_FAR = 4096.0
"""Metres from the origin beyond which float32 coordinates are coarser than half a millimetre."""
_GAIN_BOUND = 1.0
"""Of a log gain: a picture without anything in it must not make one that nothing undoes."""


class Refiner:
    """Holds the splats of a map flat, and the views it is refined against.

    Poses and splats are given in world coordinates; inside, everything is relative to `origin`
    (float64), so that float32 keeps its digits far from the world's origin.
    """

    def __init__(
        self,
        renderer: ViewRenderer,
        config: RefineConfig | None = None,
        *,
        background: Float32 | None = None,
    ) -> None:
        self.config = config or RefineConfig()
        self.background = np.zeros(3, np.float32) if background is None else background
        self.parameters = SplatParameters(sh_degree=self.config.sh_degree)
        self.origin: Float64 = np.zeros(3)
        self.views: dict[int, RefineView] = {}
        self.offsets = PoseOffsets(
            share=self.config.pose_step,
            settling=self.config.pose_settling,
            hold=self.config.pose_hold,
            alike=self.config.pose_alike,
            reach=self.config.pose_reach,
            bound=self.config.pose_bound,
        )
        self.steps = 0
        self.convergence = Convergence(self.config.schedule.hold)
        self._renderer = renderer
        self._recent: deque[int] = deque(maxlen=self.config.recent_views)
        self._random = random.Random(self.config.seed)
        self._chance = np.random.default_rng(self.config.seed)
        self._workers = Workers(self.config.workers)
        self._seen = np.zeros(0, np.bool_)
        self._touched = np.zeros(0, np.bool_)
        self._taking = Taking()
        config_rates = [self.config.rate_mean] * 3 + [self.config.rate_quat] * 4
        config_rates += [self.config.rate_log_scale] * 3 + [self.config.rate_opacity]
        harmonics = harmonic_columns(self.config.sh_degree)
        columns = adam.COLUMNS + harmonics
        self._gradient = np.zeros((0, columns), np.float32)
        self._eagerness = np.ones(columns, np.float32)
        self._eagerness[adam.LOGIT] = self.config.eager_opacity
        self._eagerness[adam.COLOR : adam.COLUMNS] = self.config.eager_color
        config_rates += [self.config.rate_color] * 3 + [self.config.rate_sh] * harmonics
        self._rates = np.array(config_rates, np.float32)

    def close(self) -> None:
        self._workers.close()

    # Splats and views ------------------------------------------------------------------------

    def add_splats(self, chunk: int, splats: Splats) -> None:
        """Take a chunk's splats, means relative to `origin`."""
        self.parameters.add(chunk, splats)
        self.convergence.restart()

    def move_chunks(self, motions: Mapping[int, Float64], *, near: Float64 | None = None) -> None:
        """Chunks' new-from-old world similarities, (4, 4) float64.

        Args:
            near: (3,) where the map is now; the origin follows where that is far from it.
        """
        if motions:
            self.convergence.restart()
        origin = self.origin
        if near is not None and np.abs(near - origin).max() > _FAR:
            origin = np.round(near)
        enter, leave = np.eye(4), np.eye(4)
        enter[:3, 3], leave[:3, 3] = -origin, self.origin
        # One motion from origin to origin: between them float32 would lose the splats' digits.
        chunks = motions if origin is self.origin else self.parameters.chunks()
        stays = np.eye(4)
        self.parameters.transform(
            {chunk: enter @ motions.get(chunk, stays) @ leave for chunk in chunks}
        )
        self.origin = origin

    def move_views(self, cameras: Mapping[int, Float64], growth: Mapping[int, float]) -> None:
        """Corrected cameras of views, key → (4, 4) rigid camera to world; offsets stay on top.

        Args:
            growth: factor by which the world around each of them was scaled.
        """
        for key, camera in cameras.items():
            self.offsets.grow(key, growth[key])
            view = self.views.get(key)
            if view is None:
                continue
            view.c2w, view.far = camera, view.far * growth[key]
            if view.depth is not None and growth[key] != 1.0:
                view.depth = view.depth * np.float32(growth[key])

    def add_view(self, view: RefineView) -> None:
        """Take a view. Beyond `max_views` a random old one that is no longer recent leaves."""
        view.visited = self.steps
        self.views[view.key] = view
        self.convergence.restart()
        self._recent.append(view.key)
        if len(self.views) > self.config.max_views:
            old = [key for key in self.views if key not in self._recent]
            del self.views[self._random.choice(old)]

    @property
    def has_changes(self) -> bool:
        """Whether `changed_chunks` could name a chunk."""
        return bool(self._touched[: self.parameters.count].any())

    def changed(self, chunk: int) -> bool:
        """Whether `changed_chunks` would name the chunk."""
        self._fit_buffers()
        count = self.parameters.count
        return bool(self._touched[:count][self.parameters.chunk[:count] == chunk].any())

    def changed_chunks(self, chunks: Collection[int], most: int | None = None) -> list[int]:
        """Of these chunks, the ones that changed since they were taken last.

        With `most`, no more than that; the others at later calls, each in its turn.
        """
        self._fit_buffers()
        touched = self._touched[: self.parameters.count]
        return self._taking.turn(self.parameters, touched, chunks, most)

    def take(self, poses: Mapping[int, Float64]) -> list[tuple[int, Splats]]:
        """The splats of these chunks now, which count as unchanged from here on; chunks without
        any are left out.

        A copy, averaged over their last steps, each in its chunk's own frame.

        Args:
            poses: chunk → its (4, 4) similarity, world from the chunk.
        """
        self._fit_buffers()
        touched = self._touched[: self.parameters.count]
        return take(self.parameters, touched, {c: self.local(T) for c, T in poses.items()})

    def local(self, pose: Float64) -> Float64:
        """A (4, 4) world pose relative to `origin`."""
        local = pose.copy()
        local[:3, 3] -= self.origin
        return local

    def view_matrix(self, c2w: Float64) -> Float32:
        """World-to-camera of a camera-to-world pose, relative to `origin`."""
        return np.linalg.inv(self.local(c2w)).astype(np.float32)

    def render(
        self, c2w: Float64, K: Float64, width: int, height: int
    ) -> tuple[Float32, Float32, Float32] | None:
        """rgb (H, W, 3), z-depth (H, W), alpha (H, W) of the splats now; None while there are none.

        Args:
            c2w: (4, 4) rigid camera to world. K: (3, 3) intrinsics in pixels.
        """
        if self.parameters.count == 0:
            return None
        return self._renderer.render(
            self.parameters,
            self.view_matrix(c2w),
            K.astype(np.float32),
            width,
            height,
            self.background,
        )

    # Steps -----------------------------------------------------------------------------------

    def step(self, share: float = 0.0, wait: Wait = only_wait) -> float | None:
        """One Adam step over a view per worker; the mean loss, or None with nothing to do.

        Args:
            share: of the steps to a known end, those made; 0 where nobody knows one. Rates fall
                towards it, or towards that of `convergence` where that is closer.
            wait: for the workers.
        """
        if not self.views or self.parameters.count == 0:
            return None
        self._fit_buffers()
        share = max(share, self.convergence.share)
        rates = self._rates * np.float32(self.config.schedule.factor(share))
        views = choose_views(
            list(self.views.values()),
            self.config.workers,
            self.steps + 1,
            self.config.novelty,
            self._chance,
        )
        presence = [self._presence() for _ in views]
        results = self._workers.together(
            wait, self._view_gradient, views, range(len(views)), presence
        )
        which = [result.which for result in results]
        spans = even_spans(which, self.parameters.count, self.config.workers)
        self._workers.together(wait, lambda span: self._update_rows(span, results, rates), spans)
        self.steps += 1
        for view, result in zip(views, results):
            self._learn_of(view, result)
        self.convergence.step(self.views.values(), len(views))
        if self.steps % self.config.prune_every == 0:
            self.prune()
        return float(np.mean([result.loss for result in results]))

    def doubt(self, indices: NDArray[np.int64], log_odds: float) -> None:
        """Splats lose log-odds of being there, and with them opacity."""
        self._fit_buffers()
        for rows in (self.parameters.rows, self.parameters.average):
            rows[indices, adam.LOGIT] -= np.float32(log_odds)
        self.parameters.activate()
        self._touched[indices] = True

    def prune(self) -> int:
        """Remove splats that became transparent; how many."""
        opacities = self.parameters.opacities[: self.parameters.count]
        faint = np.flatnonzero(opacities < self.config.prune_opacity)
        self.remove(faint)
        return len(faint)

    def make_room(
        self, count: int, budget: int, reserve: float, *, protected: Collection[int]
    ) -> bool:
        """Remove the least (opacity x area) splats, so that `count` more fit into `budget`.

        Args:
            reserve: share of the budget that is freed beyond that, so that it happens rarely.
            protected: chunks that give only what nobody else can.

        Returns:
            whether anything had to go.
        """
        parameters = self.parameters
        surplus = parameters.count + count - budget
        if surplus <= 0:
            return False
        used = slice(0, parameters.count)
        old = ~np.isin(parameters.chunk[used], list(protected))
        worth = parameters.opacities[used] * np.square(parameters.scales[used].max(axis=1))
        wanted = surplus + int(reserve * budget)
        order = np.lexsort((worth, ~old))
        self.remove(order[: max(surplus, min(wanted, int(old.sum())))])
        return True

    def remove(self, indices: NDArray[np.int64]) -> None:
        """Remove splats; what is left of their chunks counts as changed."""
        if len(indices) == 0:
            return
        self._fit_buffers()
        parameters = self.parameters
        before = parameters.count
        keep = np.ones(before, np.bool_)
        keep[indices] = False
        thinned = np.unique(parameters.chunk[:before][indices])
        touched = self._touched[:before][keep]
        parameters.select(keep)
        self._touched[: parameters.count] = touched
        self._touched[parameters.count : before] = False
        self._touched[: parameters.count] |= np.isin(parameters.chunk[: parameters.count], thinned)

    def psnr(self) -> float | None:
        """Mean PSNR over the recent views' last refinement, dB; None before the first."""
        values = [
            view.psnr
            for key in self._recent
            if (view := self.views.get(key)) is not None and view.psnr is not None
        ]
        return float(np.mean(values)) if values else None

    def _fit_buffers(self) -> None:
        capacity = self.parameters.capacity
        if len(self._seen) != capacity:
            touched = np.zeros(capacity, np.bool_)
            touched[: len(self._touched)] = self._touched
            self._touched = touched
            self._seen = np.zeros(capacity, np.bool_)
            self._gradient = np.zeros((capacity, self._gradient.shape[1]), np.float32)

    def _presence(self) -> Float32 | None:
        """(N,) 1 for the splats that take part in one view's step; None: all."""
        share = min(self.config.dropout_views / len(self.views), self.config.max_dropout)
        if share <= 0:
            return None
        present = self._chance.random(self.parameters.count, np.float32) >= share
        return present.astype(np.float32)

    def _view_gradient(
        self, view: RefineView, worker: int, presence: Float32 | None
    ) -> ViewGradient:
        return self._renderer.gradient(
            worker,
            self.parameters,
            self.view_matrix(self.offsets.camera(view.key, view.c2w)),
            view,
            presence,
            background=self.background,
            ssim_weight=self.config.ssim_weight,
            depth_weight=self.config.depth_weight,
            find_pose=self.config.refine_poses and view.visits >= self.config.pose_after,
        )

    def _update_rows(
        self, span: tuple[int, int], results: list[ViewGradient], rates: Float32
    ) -> None:
        first, last = span
        parameters = self.parameters
        self._seen[first:last] = False
        for result in results:
            begin, end = np.searchsorted(result.which, span).tolist()
            adam.accumulate_rows(
                begin, end, self._gradient, self._seen, parameters.scales, parameters.opacities,
                result.which, result.means, result.quats, result.scales, result.opacities,
                result.colors,
            )  # fmt: skip
            if parameters.sh_degree:
                accumulate_harmonics(
                    begin, end, result.center, parameters.sh_degree, parameters.rows,
                    self._gradient, result.which, result.colors,
                )  # fmt: skip
        adam.adam_rows(
            first,
            last,
            parameters.rows,
            parameters.average,
            parameters.moment1,
            parameters.moment2,
            parameters.steps,
            self._gradient,
            self._seen,
            rates,
            self._eagerness,
            self.config.settling,
            self.config.average_tail,
            self.config.average_most,
            adam.BETA1,
            adam.BETA2,
            adam.EPSILON,
        )
        parameters.activate(first, last, self._seen)
        self._touched[first:last] |= self._seen[first:last]

    def _learn_of(self, view: RefineView, result: ViewGradient) -> None:
        """Note the visit, and bring the view's gain and camera closer to what suits it.

        The step is the least of the view's errors plus `gain_hold` times as many of the gain's own.
        """
        view.psnr = -10.0 * float(np.log10(max(result.mse, 1e-10)))
        view.visits += 1
        view.visited = self.steps
        hold = self.config.gain_hold
        change = self.config.gain_step * (result.gain_step - hold * view.log_gain) / (1.0 + hold)
        view.log_gain = np.clip(view.log_gain + change, -_GAIN_BOUND, _GAIN_BOUND).astype(
            np.float32
        )
        if result.pose is not None:
            before = max(0, view.visits - 1 - self.config.pose_after)
            near = self.offsets.near(view, self.views)
            self.offsets.learn(view.key, result.pose, before, near)

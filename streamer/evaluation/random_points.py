"""The start that optimisation alone has: points at random depths, coloured by their pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttt_core import Prediction, ViewBatch
from ttt_core.matching import PosedImage, PriorConfig
from ttt_core.matching.depth_range import depth_range
from ttt_core.matching.points import seen_points
from ttt_core.matching.triangulate import (
    Features,
    detect_features,
    nearest_in_pose,
    triangulate_pair,
)
from ttt_core.views import posed_images

_CELL = 4
"""Pixels along a side that share a depth: the coarsest cell that fusion makes one splat of."""
_CONFIDENCE = 0.2
"""Less than fusion asks of a surface, so that points are coarse and let half of the light through:
opaque ones at random depths hide each other (skull, long side 160, 300 steps: 13.5 dB held out
against 20.2)."""
_KEPT = 24
_POINTS = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class RandomState:
    """What is triangulated with: earlier key frames and their features by key; what was found:
    (n, 3) world points, the newest; and how many key frames there were."""

    views: tuple[PosedImage, ...] = ()
    features: Mapping[int, Features] = field(default_factory=dict)
    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    count: int = 0

    @property
    def nbytes(self) -> int:
        return self.points.nbytes + sum(view.gray.nbytes for view in self.views)

    def to_tensors(self) -> dict[str, Tensor]:
        pictures = {str(view.key): torch.from_numpy(view.gray) for view in self.views}
        return {**pictures, "points": torch.from_numpy(self.points)}


class RandomPoints:
    """A `StreamModel` that knows no surfaces: every 4x4 pixels lie at a random depth.

    Depths are uniform in their logarithm, within the range that features shared with other key
    frames span: what the bounding box of a sparse reconstruction is to 3D Gaussian Splatting
    (Kerbl et al. 2023, section 7.3 on random initialisation). Nothing is swept and nothing learned.
    """

    trained = False
    device = torch.device("cpu")

    def __init__(self, seed: int = 0, config: PriorConfig | None = None) -> None:
        self._seed = seed
        self._config = config or PriorConfig()

    def describe(self) -> str:
        return "Random depths within the range that triangulated features span."

    def initial_state(self) -> RandomState:
        return RandomState()

    def stream(self, state: RandomState, batch: ViewBatch) -> tuple[RandomState, Prediction]:
        views = posed_images(batch)
        features = {**state.features, **{view.key: detect_features(view) for view in views}}
        found = self._triangulate(views, [*views, *state.views], features)
        points = np.concatenate([state.points, found])[-_POINTS:]
        kept = (*state.views, *views)[-_KEPT:]
        after = RandomState(
            kept, {view.key: features[view.key] for view in kept}, points, state.count + len(views)
        )
        return after, self._predict(after, batch, views)

    def query(self, state: RandomState, batch: ViewBatch) -> Prediction:
        return self._predict(state, batch, posed_images(batch))

    def move(
        self,
        state: RandomState,
        poses: Mapping[int, NDArray[np.float64] | Tensor],
        scales: Mapping[int, float] | None = None,
    ) -> RandomState:
        views = tuple(
            replace(view, c2w=np.asarray(poses.get(view.key, view.c2w), np.float64))
            for view in state.views
        )
        return replace(state, views=views)

    def warm_up(self, height: int, width: int) -> None:
        picture = np.random.default_rng(0).random((height, width), dtype=np.float32)
        K = np.array([[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]])
        views = [PosedImage(number, picture, K, np.eye(4)) for number in range(2)]
        views[1].c2w[0, 3] = 0.1
        self._triangulate(views, views, {view.key: detect_features(view) for view in views})

    def _triangulate(
        self,
        views: Sequence[PosedImage],
        everybody: Sequence[PosedImage],
        features: Mapping[int, Features],
    ) -> NDArray[np.float64]:
        """(n, 3) world points that `views` share with those of `everybody` that are nearest."""
        found = [np.zeros((0, 3))]
        for view in views:
            mine = features[view.key]
            for other in nearest_in_pose(view, everybody, self._config.triangulation_views):
                found.append(triangulate_pair(view, mine, other, features[other.key]))
        return np.concatenate(found)

    def _predict(
        self, state: RandomState, batch: ViewBatch, views: Sequence[PosedImage]
    ) -> Prediction:
        random = np.random.default_rng([self._seed, state.count])
        seen = [seen_points(view, state.points).depths for view in views]
        # A view that few points fall into takes the range that the scene has elsewhere.
        everywhere = np.concatenate(
            [seen_points(view, state.points).depths for view in (*views, *state.views)]
        )
        depth = np.empty((len(views), *views[0].gray.shape), np.float32)
        for place, view in enumerate(views):
            others = [other for other in (*views, *state.views) if other is not view]
            near, far, _ = depth_range(view, [seen[place]], everywhere, others, self._config)
            height, width = view.gray.shape
            cells = random.random((-(-height // _CELL), -(-width // _CELL)))
            log_depth = np.log(near) + cells * np.log(far / near)
            fine = np.exp(log_depth).repeat(_CELL, 0).repeat(_CELL, 1)
            depth[place] = fine[:height, :width]
        shape = depth.shape
        zeros = torch.zeros(shape[0], 3, *shape[1:])
        return Prediction(
            depth=torch.from_numpy(depth),
            confidence=torch.full(shape, _CONFIDENCE),
            color=batch.image,
            log_scale_residual=zeros,
            opacity_logit_residual=torch.zeros(shape),
            rotation_residual=zeros,
        )

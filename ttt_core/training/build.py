"""From a posed sequence to a stream as the model meets it: batches, told poses, prior, map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttt_core.errors import ConfigError, SequenceError
from ttt_core.kept_views import keep_views
from ttt_core.matching import MatchingPrior, PosedImage, PriorConfig, PriorDepth
from ttt_core.submap import SubmapFrame
from ttt_core.training.point_map import PointMap
from ttt_core.training.pose_noise import PoseNoise
from ttt_core.training.samples import PosedSequence, PriorMaps, Scene, TrainingSequence
from ttt_core.views import ViewBatch, posed_images

_HALF = torch.finfo(torch.float16)
# Units that float16 depths can be stored in: a thousand times less or more keeps its digits.
_LEAST_UNIT, _GREATEST_UNIT = 0.1, 65.0
_ENOUGH_DEPTH = 0.01
_NOISE_DRAWS = 0x905E  # tells the draws of pose noise from others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """How a sequence becomes a stream.

    The figures of the prior and of the kept views are those of `StreamingConfig`: a network has
    to be trained on what the product feeds it.

    Raises:
        ConfigError: a value out of range.
    """

    batches: int = 8
    views_per_batch: int = 3
    noise: PoseNoise = field(default_factory=PoseNoise)
    alone: bool = True
    """Also make the prior of every batch by itself."""
    map_confidence: float = 0.55
    """Prior confidence above which a pixel of an earlier view is a point of the map."""
    map_points: int = 200_000
    """Points of the map, at most."""
    map_guides_prior: bool = True
    """Hand the map to the prior, which takes depth ranges from it, as the product does."""
    kept_views: int = 24
    recent_views: int = 8
    prior: PriorConfig = field(default_factory=lambda: PriorConfig(threads=1))

    def __post_init__(self) -> None:
        for name in ("batches", "views_per_batch", "map_points"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}: give 1 or more")
        if not 0 <= self.map_confidence < 1:
            raise ConfigError(f"map_confidence is {self.map_confidence}: give 0 to 1, 1 left out")
        if not 1 <= self.recent_views <= self.kept_views:
            raise ConfigError(
                f"recent_views is {self.recent_views}: give 1 to kept_views ({self.kept_views})"
            )

    @property
    def views(self) -> int:
        """Views of a whole stream."""
        return self.batches * self.views_per_batch


def build_sequence(
    scene: PosedSequence | Scene,
    spec: StreamSpec | None = None,
    *,
    seed: int = 0,
    prior: MatchingPrior | None = None,
) -> TrainingSequence:
    """The first `spec.views` views of `scene`, batch after batch through the prior and the map.

    What is made of a batch depends on it and on earlier ones alone. Same arguments, same result.
    A world of a unit that float16 cannot hold is stored in another one: poses, depths and unit
    are scaled together, by a power of two.

    Args:
        seed: of the pose noise.
        prior: to be used instead of a new one of `spec.prior`; spares compiled state nothing, but
            callers that build many keep one.

    Raises:
        SequenceError: too few views.
    """
    spec = spec or StreamSpec()
    posed = scene if isinstance(scene, PosedSequence) else PosedSequence.from_scene(scene)
    if len(posed.image) < spec.views:
        raise SequenceError(
            f"the sequence has {len(posed.image)} views: {spec.batches} batches of "
            f"{spec.views_per_batch} need {spec.views}"
        )
    prior = prior or MatchingPrior(spec.prior)
    image, c2w, depth, sky = _taken(posed, spec)
    told = _told_poses(posed, image, c2w, depth, spec, seed, prior)
    stream = _Stream(spec, prior)
    for start in range(0, spec.views, spec.views_per_batch):
        stream.take(_view_batch(posed, image, told, start, spec))
    unit = stream.unit
    scale = 1.0 if _LEAST_UNIT <= unit <= _GREATEST_UNIT else 2.0 ** -round(math.log2(unit))
    told[:, :3, 3] *= scale
    return TrainingSequence(
        keys=torch.arange(spec.views),
        batch=torch.arange(spec.views) // spec.views_per_batch,
        image=image,
        fxfycxcy=posed.fxfycxcy[: spec.views].clone(),
        c2w=told,
        true_depth=_half(depth * scale),
        sky=sky,
        unit=unit * scale,
        prior=_maps(stream.prior, scale),
        prior_alone=_maps(stream.alone, scale) if spec.alone else None,
        map_depth=_half(torch.from_numpy(np.stack(stream.map_depth)) * scale),
    )


class _Stream:
    """What the streaming model carries, without its network."""

    def __init__(self, spec: StreamSpec, matching: MatchingPrior) -> None:
        self.spec = spec
        self.prior: list[PriorDepth] = []
        self.alone: list[PriorDepth] = []
        self.map_depth: list[NDArray[np.float32]] = []
        self.unit = 0.0
        self._matching = matching
        self._map = PointMap(spec.map_points)
        self._kept: tuple[PosedImage, ...] = ()

    def take(self, batch: ViewBatch) -> None:
        """The next batch: its map, its priors, then both are written."""
        views = posed_images(batch)
        seen = [self._map.depth_in(view) for view in views]
        guide = [d if d.any() else None for d in seen] if self.spec.map_guides_prior else None
        found = self._matching.predict(views, self._kept, map_depth=guide)
        if self.spec.alone:
            self.alone += self._matching.predict(views) if self._kept else found
        if not self.unit:
            self.unit = _unit(batch.c2w, found)
        self.prior += found
        self.map_depth += seen
        described = [
            replace(view, depth=p.depth, confidence=p.confidence) for view, p in zip(views, found)
        ]
        for view, p in zip(views, found):
            self._map.add(view, p.depth, p.confidence > self.spec.map_confidence)
        self._kept = keep_views(
            self._kept,
            described,
            limit=self.spec.kept_views,
            recent=self.spec.recent_views,
            unit=self.unit,
        )


def _taken(posed: PosedSequence, spec: StreamSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image, c2w, depth, sky of the views that are used; masked pixels are grey and unknown."""
    image, depth = posed.image[: spec.views], posed.depth[: spec.views]
    depth = torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)
    sky = torch.zeros_like(depth, dtype=torch.bool)
    if posed.sky is not None:
        sky = posed.sky[: spec.views] & (depth == 0)
    if posed.valid is not None:
        valid = posed.valid[: spec.views]
        image = torch.where(valid[:, None], image, image.new_tensor(128))
        depth, sky = torch.where(valid, depth, 0.0), sky & valid
    return image.clone(), posed.c2w[: spec.views].clone(), depth, sky


def _told_poses(
    posed: PosedSequence,
    image: Tensor,
    c2w: Tensor,
    depth: Tensor,
    spec: StreamSpec,
    seed: int,
    prior: MatchingPrior,
) -> Tensor:
    if not spec.noise.any:
        return c2w
    first = depth[: spec.views_per_batch]
    known = first[first > 0]
    if known.numel() >= _ENOUGH_DEPTH * first.numel():
        unit = float(known.median())
    else:
        batch = _view_batch(posed, image, c2w, 0, spec)
        unit = _unit(batch.c2w, prior.predict(posed_images(batch)))
    return torch.from_numpy(
        spec.noise.disturb(c2w.numpy(), unit, np.random.default_rng([seed, _NOISE_DRAWS]))
    )


def has_pose_noise(spec: StreamSpec, seed: int) -> bool:
    """Whether `build_sequence` told the model noisy poses for this seed."""
    rng = np.random.default_rng([seed, _NOISE_DRAWS])
    return spec.noise.any and bool(rng.random() < spec.noise.share)


def _view_batch(
    posed: PosedSequence, image: Tensor, c2w: Tensor, start: int, spec: StreamSpec
) -> ViewBatch:
    part = slice(start, start + spec.views_per_batch)
    return ViewBatch(
        keys=tuple(range(part.start, part.stop)),
        image=image[part].float() / 255.0,
        fxfycxcy=posed.fxfycxcy[part],
        c2w=c2w[part],
        valid=None if posed.valid is None else posed.valid[part],
    )


def _unit(c2w: Tensor, found: Sequence[PriorDepth]) -> float:
    depth = torch.from_numpy(np.stack([p.depth for p in found]))
    confidence = torch.from_numpy(np.stack([p.confidence for p in found]))
    return float(SubmapFrame.from_first_batch(c2w, depth, confidence).scale)


def _maps(found: Sequence[PriorDepth], scale: float) -> PriorMaps:
    confidence = np.stack([p.confidence for p in found])
    return PriorMaps(
        depth=_half(torch.from_numpy(np.stack([p.depth for p in found])) * scale),
        confidence=torch.from_numpy(np.rint(confidence * 255.0).astype(np.uint8)),
        cells=torch.from_numpy(np.stack([p.cells for p in found])).half(),
        depth_range=torch.tensor([p.depth_range for p in found], dtype=torch.float64)
        .mul(scale)
        .float(),
    )


def _half(depth: Tensor) -> Tensor:
    """float16 of depths >= 0; what is beyond its largest number becomes that, what is not 0 stays
    so."""
    kept = depth.clamp(max=_HALF.max)
    return torch.where(depth > 0, kept.clamp(min=_HALF.smallest_normal), 0.0).half()

"""What is compared: the reconstructor and the baselines, all in the same engine.

Key frames, fusion, refinement, budgets and clock are the same for all of them; they differ in what
the splats of a new key frame are laid out from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from streamer.evaluation.errors import EvaluationError

Slug = Literal["random-points", "sensor-depth", "sweep-only", "learned", "learned-reset"]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to start.

    Attributes:
        slug: its name on the command line and in file names.
        label: its name in tables.
        about: one sentence.
        uses_depth: it needs a capture with sensor depth, and is given it.
        learned: it runs a trained network.
    """

    slug: Slug
    label: str
    about: str
    uses_depth: bool = False
    learned: bool = False


METHODS: dict[Slug, Method] = {
    method.slug: method
    for method in (
        Method(
            "random-points",
            "random points",
            "no stereo and nothing learned: where refinement gets by itself",
        ),
        Method(
            "sensor-depth",
            "sensor depth",
            "the depth sensor where it measured, the matching prior elsewhere",
            uses_depth=True,
        ),
        Method("sweep-only", "sweep only", "the matching prior alone (plane sweep and SGM)"),
        Method(
            "learned",
            "learned",
            "the matching prior, corrected by the trained network with its fast weights",
            learned=True,
        ),
        Method(
            "learned-reset",
            "learned, fast weights reset",
            "as learned, but with its fast weights emptied before every batch",
            learned=True,
        ),
    )
}


def build_model(slug: str, weights: str | None, device: str, seed: int) -> Any:
    """The `StreamModel` of a method.

    Args:
        weights: for the learned ones; None: the packaged checkpoint.

    Raises:
        CheckpointError: `weights` cannot be read, or cannot predict splats.
        EvaluationError: the method cannot run with these weights.
    """
    builders: dict[str, Callable[[], Any]] = {
        "random-points": lambda: _random_points(seed),
        "sensor-depth": lambda: _untrained(device),
        "sweep-only": lambda: _untrained(device),
        "learned": lambda: _learned(weights, device),
        "learned-reset": lambda: _forgetful(weights, device),
    }
    return builders[slug]()


def _random_points(seed: int) -> Any:
    from streamer.evaluation.random_points import RandomPoints

    return RandomPoints(seed=seed)


def _untrained(device: str) -> Any:
    from ttt_core import default_model

    return default_model("none", device)


def _learned(weights: str | None, device: str) -> Any:
    from ttt_core import default_model

    model = default_model(weights or "packaged", device)
    if not model.trained:
        raise EvaluationError(
            f"{weights or 'packaged'} holds no trained network: give a checkpoint of `splatstream "
            "train` with --weights, or leave the learned methods out with --only"
        )
    return model


def _forgetful(weights: str | None, device: str) -> Any:
    from streamer.evaluation.forgetful import Forgetful
    from ttt_core import StreamingModel

    model = _learned(weights, device)
    if not isinstance(model, StreamingModel):
        raise EvaluationError(
            f"{weights} is no compact checkpoint, and only those can have their fast weights "
            "reset: leave learned-reset out with --only"
        )
    return Forgetful(model)

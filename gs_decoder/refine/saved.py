"""What a refiner needs to go on elsewhere exactly as it would have gone on here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder.copy_room import CopyRoom, copies
from gs_decoder.refine.convergence import Convergence
from gs_decoder.refine.parameters import SPLATS
from gs_decoder.refine.refiner import Refiner
from gs_decoder.refine.views import RefineView


@dataclass(frozen=True, slots=True)
class RefinerState:
    """A copy: splats with their optimiser's state, what was learnt of each view, random numbers.

    Attributes:
        arrays: N splats: `rows`, `average`, `moment1`, `moment2` (N, C) float32, `steps` (N,)
            int32, `chunk` (N,) int64, `touched` (N,) bool (see `Refiner.changed_chunks`); V views
            in order: `view_keys` (V,) int64, `view_gains` (V, 3) float32 (logs), `view_visits`
            (V, 2) int64 (how many, and the step of the last), `view_far`, `view_psnr` (V,) float64,
            NaN: None; M offsets of poses, those of views that have left too: `offset_keys` (M,)
            int64, `offsets` (M, 6) float64.
        figures: the rest, fit for JSON.
    """

    arrays: Mapping[str, NDArray[Any]]
    figures: Mapping[str, Any]

    @property
    def view_keys(self) -> list[int]:
        """The views that it works on, in order; their pictures are not in here."""
        return [int(key) for key in self.arrays["view_keys"]]


def refiner_state(refiner: Refiner, room: CopyRoom | None = None) -> RefinerState:
    """Copy everything but the views' pictures, between two steps.

    Args:
        room: for arrays like `refiner.parameters.used()`, and for no other copy any more.
    """
    parameters = refiner.parameters
    count = parameters.count
    touched = np.zeros(count, np.bool_)
    known = refiner._touched[:count]
    touched[: len(known)] = known
    views = list(refiner.views.values())
    visits = [(view.visits, view.visited) for view in views]
    psnrs = [np.nan if view.psnr is None else view.psnr for view in views]
    arrays: dict[str, NDArray[Any]] = {
        **copies(parameters.used(), room),
        "touched": touched,
        "view_keys": np.array([view.key for view in views], np.int64),
        "view_gains": np.array([view.log_gain for view in views], np.float32).reshape(-1, 3),
        "view_visits": np.array(visits, np.int64).reshape(-1, 2),
        "view_far": np.array([view.far for view in views], np.float64),
        "view_psnr": np.array(psnrs, np.float64),
        "offset_keys": np.array(list(refiner.offsets), np.int64),
        "offsets": np.array(list(refiner.offsets.values()), np.float64).reshape(-1, 6),
    }
    figures = {
        "steps": refiner.steps,
        "convergence": dataclasses.asdict(refiner.convergence),
        "origin": refiner.origin.tolist(),
        "background": refiner.background.tolist(),
        "recent": list(refiner._recent),
        "random": refiner._random.getstate(),
        "chance": refiner._chance.bit_generator.state,
    }
    return RefinerState(arrays, figures)


def restore_refiner(refiner: Refiner, state: RefinerState, views: Mapping[int, RefineView]) -> None:
    """Bring a new refiner to a state.

    Args:
        views: pictures and cameras of `state.view_keys`; what is not there is done without.
    """
    arrays, figures = state.arrays, state.figures
    refiner.origin = np.array(figures["origin"], np.float64)
    refiner.background = np.array(figures["background"], np.float32)
    refiner.parameters.load({name: arrays[name] for name in SPLATS})
    refiner._fit_buffers()
    refiner._touched[: refiner.parameters.count] = arrays["touched"]
    refiner.views = {}
    for place, key in enumerate(state.view_keys):
        view = views.get(key)
        if view is None:
            continue
        psnr = float(arrays["view_psnr"][place])
        view.log_gain = arrays["view_gains"][place].copy()
        view.visits, view.visited = arrays["view_visits"][place].tolist()
        view.far = float(arrays["view_far"][place])
        view.psnr = None if np.isnan(psnr) else psnr
        refiner.views[key] = view
    refiner.offsets.restore(dict(zip(arrays["offset_keys"].tolist(), arrays["offsets"].copy())))
    refiner._recent.clear()
    refiner._recent.extend(figures["recent"])
    version, words, gauss = figures["random"]
    refiner._random.setstate((version, tuple(words), gauss))
    refiner._chance.bit_generator.state = figures["chance"]
    refiner.steps = figures["steps"]
    refiner.convergence = Convergence(**figures["convergence"])

"""Which views a step looks at: those that need it most, never all alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gs_decoder.refine.views import RefineView

_FACTORS = (0.5, 2.0)
"""Bounds on the error's part: a view that the map cannot show must not take every step."""
_SPREAD = (0.5, 1.5)
"""Of the random factor, without which views of one age would go in one order for ever."""


def choose_views(
    views: Sequence[RefineView], count: int, step: int, novelty: float, random: np.random.Generator
) -> list[RefineView]:
    """The `count` views of the greatest need: steps waited x error x novelty x chance.

    So views take turns, and a view's share of the turns grows with its error and while it is new.
    Against drawing them, with 300 and 700 steps: 0.3 and 0.5 dB on `hololens_office`, 0.4 and 0.05
    on `skull`, 0.03 and 0.2 on `brighton_drone` (benchmarks/results/refinement.json). Nearly all of
    that is the turns; what error and novelty bring to a stream was not measured.

    Args:
        step: number of the step to come.
        novelty: a view that was never looked at comes 1 + novelty times as soon; with n visits
            1 + novelty / (1 + n) times.
    """
    waited = np.array([step - view.visited for view in views], np.float64)
    visits = np.array([view.visits for view in views], np.float64)
    # Root of the mean squared error; a view that was never shown counts as a typical one.
    error = np.array([np.nan if v.psnr is None else 10.0 ** (-v.psnr / 20.0) for v in views])
    typical = np.nanmean(error) if np.isfinite(error).any() else 1.0
    error = np.clip(np.nan_to_num(error / typical, nan=1.0), *_FACTORS)
    need = waited * error * (1.0 + novelty / (1.0 + visits))
    need *= random.uniform(*_SPREAD, len(views))
    # Stable, so that equal needs do not depend on the sort's inner ways.
    return [views[place] for place in np.argsort(-need, kind="stable")[:count]]

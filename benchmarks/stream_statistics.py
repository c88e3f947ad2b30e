"""Errors along streams, summed up by batch and compared in pairs over scenes: used by `memory.py`,
`learned.py` and `learned_maps.py`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttt_core.training.collate import Draw
from ttt_core.training.evaluate import StreamErrors

CONDITIONS = {
    "alone": Draw(alone=1.0, drop_map=1.0),
    "earlier sources": Draw(drop_map=1.0),
    "map": Draw(alone=1.0),
    "both": Draw(),
}
"""What the prior is given, the present batch only or earlier key frames too, and whether the
network is given the map of earlier points."""
SHOWN = (1, 2, 4, 8, 16, 32)
STATISTICS: tuple[Literal["median", "mean"], ...] = ("median", "mean")
PARTS = tuple(StreamErrors.__dataclass_fields__)


def paired(a: NDArray[np.float32], b: NDArray[np.float32]) -> dict[str, float]:
    """Mean of a - b over scenes, and its standard error; NaN where it needs more scenes."""
    difference = a - b
    difference = difference[np.isfinite(difference)]
    spread = difference.std(ddof=1) if len(difference) > 1 else np.nan
    error = spread / np.sqrt(len(difference))
    return {"difference": float(difference.mean()), "standard_error": float(error)}


def summed_up(errors: StreamErrors, *, prior: bool = False) -> dict[str, Any]:
    """Pooled medians and means: all, by batch, and of points that no earlier batch saw."""
    values = errors.prior if prior else errors.network
    batches = [b for b in SHOWN if b <= values.shape[1]]
    unseen = ~errors.seen & np.isfinite(values)
    unseen[:, 0] = False
    return {
        "median": float(np.nanmedian(values)),
        "mean": float(np.nanmean(values)),
        "median_at": {str(b): float(np.nanmedian(values[:, b - 1])) for b in batches},
        "mean_at": {str(b): float(np.nanmean(values[:, b - 1])) for b in batches},
        "unseen_median": float(np.median(values[unseen])),
        "unseen_mean": float(np.mean(values[unseen])),
    }


def of_scenes(errors: StreamErrors, chosen: NDArray[np.bool_]) -> StreamErrors:
    """The errors of some of the streams."""
    return StreamErrors(*(getattr(errors, part)[chosen] for part in PARTS))


def never_seen(errors: StreamErrors) -> StreamErrors:
    """Only points that no earlier batch saw, and nothing of the first batch: where a memory can do
    harm and no good."""
    values = np.where(errors.seen, np.nan, errors.network)
    values[:, 0] = np.nan
    return replace(errors, network=values)


def in_unseen_places(
    name: str, condition: str, one: StreamErrors, other: StreamErrors
) -> list[dict[str, Any]]:
    """Rows of `by_batch` over all later batches of `never_seen`; streams without any are left
    out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(All-NaN|Mean of empty) slice")
        return by_batch(
            f"{name}, never seen",
            condition,
            never_seen(one),
            never_seen(other),
            [(2, one.network.shape[1])],
        )


def by_batch(
    name: str,
    condition: str,
    one: StreamErrors,
    other: StreamErrors,
    spans: Sequence[tuple[int, int]] = ((1, 1), (2, 2), (4, 4), (8, 8)),
) -> list[dict[str, Any]]:
    """Paired differences of the scenes' errors: a row for each span of batches (first and last,
    from 1; those that the streams do not have are left out) and each statistic."""
    rows = []
    for first, last in spans:
        if last > one.network.shape[1]:
            continue
        for statistic in STATISTICS:
            a, b = (errors.by_scene(slice(first - 1, last), statistic) for errors in (one, other))
            row = {
                "pair": name,
                "condition": condition,
                "batch": first if first == last else f"{first}-{last}",
                "statistic": statistic,
                "relative": float(np.nanmean(a) / np.nanmean(b)),
            }
            rows.append({**row, **paired(a, b)})
    return rows


def in_words(row: Mapping[str, Any]) -> str:
    """A row of `by_batch` as a line."""
    return (
        f"{row['pair']:32s} {row['condition']:16s} batch {row['batch']} {row['statistic']:6s} "
        f"{row['difference']:+.4f} ± {row['standard_error']:.4f}  x{row['relative']:.3f}"
    )


def rounded(value: Any) -> Any:
    """Numbers as a file of results has them, five digits of each."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: rounded(v) for key, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value

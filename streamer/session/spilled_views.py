"""Views of refinement as arrays of a file: pictures as PNG, so that they come back to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import RefineView
from streamer.session.corrections import rigid, scale_of

Float64 = NDArray[np.float64]

_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def pack_views(
    views: Iterable[RefineView], pose_of: Callable[[int], Float64]
) -> dict[str, NDArray[Any]]:
    """Views with what was learnt of them.

    Args:
        pose_of: a frame's similarity by seq: sensor depth is in its scale.
    """
    views = list(views)
    arrays: dict[str, NDArray[Any]] = {
        "view.keys": np.array([view.key for view in views], np.int64),
        "view.K": np.array([view.K for view in views], np.float64).reshape(-1, 3, 3),
        "view.scales": np.array([scale_of(pose_of(view.key)) for view in views], np.float64),
        "view.gains": np.array([view.log_gain for view in views], np.float32).reshape(-1, 3),
        "view.visits": np.array([view.visits for view in views], np.int64),
        "view.far": np.array([view.far for view in views], np.float64),
        "view.psnr": np.array([v.psnr if v.psnr is not None else np.nan for v in views]),
    }
    for view in views:
        arrays[f"image.{view.key}"] = _png(view.image)
        if view.valid is not None:
            arrays[f"valid.{view.key}"] = _png(view.valid.astype(np.uint8))
        if view.depth is not None:
            arrays[f"depth.{view.key}"] = np.ascontiguousarray(view.depth)
    return arrays


def unpack_views(
    arrays: Mapping[str, NDArray[Any]], pose_of: Callable[[int], Float64]
) -> list[RefineView]:
    """The opposite, from cameras as they are now; sensor depth follows their scale."""
    views = []
    for place, key in enumerate(arrays["view.keys"].tolist()):
        pose = pose_of(key)
        depth, valid = arrays.get(f"depth.{key}"), arrays.get(f"valid.{key}")
        growth = scale_of(pose) / float(arrays["view.scales"][place])
        if depth is not None and growth != 1.0:
            depth = depth * np.float32(growth)
        psnr = float(arrays["view.psnr"][place])
        views.append(
            RefineView(
                key=key,
                image=_picture(arrays[f"image.{key}"]),
                K=arrays["view.K"][place],
                c2w=rigid(pose),
                valid=None if valid is None else _picture(valid).astype(np.bool_),
                depth=depth,
                far=float(arrays["view.far"][place]) * growth,
                log_gain=arrays["view.gains"][place].copy(),
                visits=int(arrays["view.visits"][place]),
                psnr=None if np.isnan(psnr) else psnr,
            )
        )
    return views


def _png(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    good, encoded = cv2.imencode(".png", picture, _FAST)
    assert good, "an image of at least one pixel always encodes"
    return encoded.reshape(-1)


def _picture(png: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert picture is not None, "the file's CRC was right"
    return np.asarray(picture, np.uint8)


def evenly(views: list[RefineView], most: int) -> list[RefineView]:
    """At most so many of them, spread over all."""
    if len(views) <= most:
        return views
    return [views[place * len(views) // most] for place in range(max(most, 0))]

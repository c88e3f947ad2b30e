"""FRAMEs that a daemon must reject by name: header, parts, code, and a word of the reason.

Each has seq 1: it follows one good frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from raw_client import EYE, HEIGHT, WIDTH, frame, jpeg

BAD_FRAMES: dict[str, tuple[dict[str, Any], tuple[bytes, ...], str, str]] = {
    "garbage": (frame(1), (b"this is no picture",), "bad_image", "image"),
    "cut off": (frame(1), (jpeg(1)[:-100],), "bad_image", "cut off"),
    "other size": (frame(1, width=63), (jpeg(1),), "bad_image", "64x48"),
    "size of no camera": (
        frame(1, width=60, height=40),
        (jpeg(1, 60, 40),),
        "bad_camera",
        "60x40",
    ),
    "no pose": (frame(1, pose=None), (jpeg(1),), "no_pose", "pose"),
    "pose with NaN": (frame(1, pose=[float("nan")] * 16), (jpeg(1),), "bad_pose", "nan"),
    "scaled pose": (
        frame(1, pose=np.diag([2.0, 2.0, 2.0, 1.0]).reshape(-1).tolist()),
        (jpeg(1),),
        "bad_pose",
        "scaled by 2",
    ),
    "left-handed pose": (
        frame(1, pose=np.diag([1.0, 1.0, -1.0, 1.0]).reshape(-1).tolist()),
        (jpeg(1),),
        "bad_pose",
        "left-handed",
    ),
    "last row": (frame(1, pose=[*EYE[:12], 1, 0, 0, 1]), (jpeg(1),), "bad_pose", "last row"),
    "short pose": (frame(1, pose=EYE[:12]), (jpeg(1),), "bad_header", "pose"),
    "unknown camera": (frame(1, camera="rear"), (jpeg(1),), "bad_camera", "rear"),
    "unknown encoding": (frame(1, encoding="webp"), (jpeg(1),), "bad_header", "encoding"),
    "no part": (frame(1), (), "bad_part", "1 (image)"),
    "too many parts": (frame(1), (jpeg(1), b"x"), "bad_part", "2 parts"),
    "17 parts": (frame(1), (jpeg(1),) * 17, "too_large", "16"),
    "raw of another length": (frame(1, encoding="rgb8"), (b"x" * 100,), "bad_part", "9216"),
    "wrong params": (frame(1, params=[1.0]), (jpeg(1),), "bad_camera", "params"),
    "depth without unit": (
        frame(1, depth={"encoding": "z16", "width": WIDTH, "height": HEIGHT}),
        (jpeg(1), bytes(WIDTH * HEIGHT * 2)),
        "bad_header",
        "unit_m",
    ),
    "depth with a bad unit": (
        frame(1, depth={"encoding": "z16", "width": WIDTH, "height": HEIGHT, "unit_m": 0.0}),
        (jpeg(1), bytes(WIDTH * HEIGHT * 2)),
        "bad_header",
        "unit_m",
    ),
    "depth of another size": (
        frame(1, depth={"encoding": "z16", "width": 50, "height": 40, "unit_m": 1.0}),
        (jpeg(1), bytes(50 * 40 * 2)),
        "bad_image",
        "50x40",
    ),
    "mistyped stamp": (frame(1, stamp_ns="now"), (jpeg(1),), "bad_header", "stamp_ns"),
    "missing stamp": (frame(1, stamp_ns=None), (jpeg(1),), "bad_header", "stamp_ns"),
    "an image over the limit": (frame(1), (bytes((64 << 20) + 1),), "too_large", "image"),
}

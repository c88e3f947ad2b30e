"""A contact sheet of sequences: rows of pictures, and of their depth below them."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ttt_core.scenes.config import SceneSequence


def contact_sheet(sequences: Iterable[SceneSequence], columns: int = 8) -> npt.NDArray[np.uint8]:
    """(rows * H, columns * W, 3) uint8 RGB: two rows a sequence, `columns` views evenly spread.

    Depth runs from red (half a metre and nearer) over green to blue (30 m and farther) on a
    logarithmic scale that is the same for all; sky is black. Sequences must be of one size.
    """
    rows = []
    for sequence in sequences:
        chosen = torch.linspace(0, len(sequence.image) - 1, columns).round().long()
        pictures = sequence.image[chosen].permute(0, 2, 3, 1).numpy()
        depth = sequence.depth[chosen].numpy()
        share = np.log(np.maximum(depth, 1e-6) / 0.5) / np.log(60.0)
        level = (255 * (1 - np.clip(share, 0, 1))).astype(np.uint8)
        height, width = depth.shape[1:]
        flat = cv2.applyColorMap(level.reshape(-1, width), cv2.COLORMAP_TURBO)[..., ::-1]
        colours = np.where(depth[..., None] > 0, flat.reshape(columns, height, width, 3), 0)
        rows += [np.concatenate(list(pictures), 1), np.concatenate(list(colours), 1)]
    return np.concatenate(rows).astype(np.uint8)

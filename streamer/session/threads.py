"""How the libraries that compute in a session share its cores."""

from __future__ import annotations

import cv2
import numba
import torch

from streamer.hardware import usable_cores


def use_all_cores() -> None:
    """torch, numba and OpenCV each on every core this process may use; they take turns."""
    cores = usable_cores()
    torch.set_num_threads(cores)
    numba.set_num_threads(min(cores, numba.get_num_threads()))
    # The refinement workers call OpenCV from threads of their own.
    cv2.setNumThreads(1)

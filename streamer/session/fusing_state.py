"""What fusing key frames remembers from batch to batch, as arrays for a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import Witness

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class FuserState:
    """A copy: seq → witness of the newest key frames, oldest first."""

    witnesses: Mapping[int, Witness]


def fuser_arrays(state: FuserState) -> Arrays:
    """What is in it."""
    arrays: Arrays = {"seqs": np.array(list(state.witnesses), np.int64)}
    for seq, witness in state.witnesses.items():
        arrays |= {f"{seq}/depth": witness.depth, f"{seq}/K": witness.K, f"{seq}/c2w": witness.c2w}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def fuser_state(arrays: Mapping[str, NDArray[Any]]) -> FuserState:
    """What `fuser_arrays` made arrays of."""
    witnesses = {
        seq: Witness(arrays[f"{seq}/depth"], arrays[f"{seq}/K"], arrays[f"{seq}/c2w"])
        for seq in arrays["seqs"].tolist()
    }
    return FuserState(witnesses)

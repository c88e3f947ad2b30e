"""The random numbers of a run: kept, restored, and shielded from evaluations."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ttt_core.errors import RunStateError
from ttt_core.training.parallel import Ranks


class RandomState:
    """Generators of this process: torch's global ones, and one for the loss.

    Processes that share examples draw the same numbers for the loss.
    """

    def __init__(self, seed: int, ranks: Ranks, device: torch.device) -> None:
        self._ranks, self._device = ranks, device
        torch.manual_seed(seed + ranks.data_rank)
        self.of_loss = torch.Generator().manual_seed(seed + (ranks.data_rank << 32))

    def gather(self, draws: dict[str, Any]) -> list[dict[str, Any]]:
        """The states of all processes' generators and of their draws; fit for JSON."""
        mine = {
            "torch": _text(torch.get_rng_state()),
            "loss": _text(self.of_loss.get_state()),
            "draws": draws,
        }
        if self._device.type == "cuda":
            mine["cuda"] = _text(torch.cuda.get_rng_state(self._device))
        every = self._ranks.gather_bytes(json.dumps(mine).encode())
        return [json.loads(data) for data in every]

    def restore(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Set this process's generators; returns the state of its draws.

        Raises:
            RunStateError: the run had another number of processes.
        """
        if len(states) != self._ranks.size:
            raise RunStateError(
                f"the run had {len(states)} processes, now there are {self._ranks.size}: resume "
                "with as many as it was started with"
            )
        mine = states[self._ranks.rank]
        torch.set_rng_state(_tensor(mine["torch"]))
        self.of_loss.set_state(_tensor(mine["loss"]))
        if self._device.type == "cuda" and "cuda" in mine:
            torch.cuda.set_rng_state(_tensor(mine["cuda"]), self._device)
        draws: dict[str, Any] = mine["draws"]
        return draws

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """What is drawn from the global generators within the block is not missed afterwards."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            yield


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)

"""Batches for training: drawn, collated, and prepared ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

Item_co = TypeVar("Item_co", covariant=True)
Item = TypeVar("Item")
Batch = TypeVar("Batch")


class Sampler(Protocol[Item_co]):
    """Where training examples come from."""

    def sample(self, rng: np.random.Generator) -> Item_co:
        """One example, chosen by `rng`; if by nothing else, resumed runs are exact."""
        ...


class Draws(Generic[Item, Batch]):
    """Endless batches of one sampler.

    Up to `ahead` batches are prepared by a thread. Its generator runs ahead with them, so the
    state to be saved is the one from before the oldest batch that was not handed out yet: a
    resumed run draws exactly what an uninterrupted one would have, if the sampler chooses by the
    generator alone.
    """

    def __init__(
        self,
        sampler: Sampler[Item],
        collate: Callable[[Sequence[Item], np.random.Generator], Batch],
        *,
        batch_size: int,
        state: dict[str, Any],
        ahead: int = 0,
    ) -> None:
        """`state` is that of a PCG64 generator, as `new_state` or `state` give it; `collate` draws
        from it too."""
        self._sampler, self._collate, self._batch_size = sampler, collate, batch_size
        self._rng = np.random.Generator(np.random.PCG64())
        self._rng.bit_generator.state = state
        self._ahead = ahead
        self._executor = ThreadPoolExecutor(1, "draws") if ahead else None
        self._pending: deque[Future[tuple[dict[str, Any], Batch]]] = deque()

    def next(self) -> Batch:
        """The next batch; waits for it where it is not ready."""
        if self._executor is None:
            return self._draw()[1]
        if not self._pending:
            self._pending.append(self._executor.submit(self._draw))
        batch = self._pending.popleft().result()[1]
        while len(self._pending) < self._ahead:
            self._pending.append(self._executor.submit(self._draw))
        return batch

    @property
    def state(self) -> dict[str, Any]:
        """Of the generator, before the next batch; plain numbers and texts, fit for JSON."""
        if self._pending:
            return self._pending[0].result()[0]
        return dict(self._rng.bit_generator.state)

    def close(self) -> None:
        """Ends the thread; batches prepared ahead are dropped."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def _draw(self) -> tuple[dict[str, Any], Batch]:
        before = dict(self._rng.bit_generator.state)
        items = [self._sampler.sample(self._rng) for _ in range(self._batch_size)]
        return before, self._collate(items, self._rng)


def new_state(seed: int, rank: int = 0) -> dict[str, Any]:
    """State of a fresh generator; every rank draws its own numbers."""
    return dict(np.random.PCG64([seed, rank]).state)

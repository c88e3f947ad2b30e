"""Batches drawn ahead are the same as batches drawn at once, and so is what follows them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_core.training.draws import Draws, new_state


class Numbers:
    def sample(self, rng: np.random.Generator) -> float:
        return float(rng.random())


def draws(state: dict, ahead: int) -> Draws[float, list[float]]:
    def collate(items: Sequence[float], rng: np.random.Generator) -> list[float]:
        return [*items, float(rng.random())]

    return Draws(Numbers(), collate, batch_size=3, state=state, ahead=ahead)


@settings(max_examples=20, deadline=None)
@given(ahead=st.integers(0, 4), taken=st.integers(0, 5), then=st.integers(0, 4))
def test_the_state_is_that_of_what_was_handed_out(ahead: int, taken: int, then: int) -> None:
    plain = draws(new_state(7), 0)
    expected = [plain.next() for _ in range(8)]
    first = draws(new_state(7), ahead)
    got = [first.next() for _ in range(taken)]
    state = json.loads(json.dumps(first.state))
    first.close()
    second = draws(state, then)
    got += [second.next() for _ in range(8 - taken)]
    second.close()
    assert got == expected


def test_ranks_draw_different_numbers() -> None:
    assert draws(new_state(7, 0), 0).next() != draws(new_state(7, 1), 0).next()


def test_an_error_while_drawing_reaches_the_caller() -> None:
    class Broken:
        def sample(self, rng: np.random.Generator) -> float:
            raise FileNotFoundError("gone")

    broken = Draws(
        Broken(), lambda items, rng: list(items), batch_size=1, state=new_state(0), ahead=2
    )
    with pytest.raises(FileNotFoundError, match="gone"):
        broken.next()
    broken.close()

"""Figures of the memory: taken where the network reads, and quiet about memories without them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sequence_cases import network, sequence

from ttt_core.memory import MemoryState
from ttt_core.training.collate import Draw, collate
from ttt_core.training.evaluate import stream_errors
from ttt_core.training.memory_figures import MemoryFigures


def test_doubt_is_that_of_the_places_that_the_network_reads() -> None:
    model, made = network(), [sequence(seed) for seed in (0, 1)]
    figures = MemoryFigures(model)
    assert figures.figures() == {}
    doubts: list[float] = []

    def told(module, inputs, answer):  # type: ignore[no-untyped-def]
        doubts.append(float(answer[..., -1].mean()))  # the last channel is the doubt

    with model.reader.register_forward_hook(told):
        stream_errors(model, made, Draw(), memory=figures)
    found = figures.figures()
    assert found["memory/doubt"] == pytest.approx(doubts[-1], rel=1e-5)
    assert doubts[0] == pytest.approx(1) and found["memory/doubt"] < 0.99

    # the rest by hand
    state = model.initial_state(2)
    with torch.no_grad():
        for step in collate(made, np.random.default_rng(0), Draw()):
            _, state = model(step.views, state, write=True)
    norms = state["solution"].flatten(1).norm(dim=1)
    assert found["memory/solution_norm"] == pytest.approx(float(norms.mean()), rel=1e-4)
    ridge = float(model.memory.log_lambda.detach().exp())
    largest = np.linalg.eigvalsh(state["gram"].double().numpy()).max()
    assert found["memory/condition"] == pytest.approx((largest + ridge) / ridge, rel=1e-4)


@pytest.mark.parametrize("memory", ["none", "swiglu", "tokens", "anchored"])
def test_other_memories_have_none(memory: str) -> None:
    model = network(memory)
    figures = MemoryFigures(model)
    stream_errors(model, [sequence(0)], Draw(), memory=figures)
    assert figures.figures() == {}


def test_a_memory_that_diverged_does_not_end_an_evaluation() -> None:
    model = network()
    (step, *_) = collate([sequence(0)], np.random.default_rng(0), Draw())
    start = model.initial_state(1)
    broken = MemoryState({**start.tensors, "gram": start["gram"] * math.nan})
    figures = MemoryFigures(model)
    figures.at_end(step, start, broken)
    assert figures.figures()["memory/condition"] == math.inf

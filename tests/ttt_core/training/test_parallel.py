"""Two gloo processes equal one: losses, states, outputs, gradients, weights."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from regression import Clock, student, trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reconstructor_cases import random_views, tiny_config

from ttt_core import Reconstructor
from ttt_core.errors import ConfigError, ScanError
from ttt_core.memory import RidgeMemory, SwiGluMemory
from ttt_core.training.optimizer import OptimizerConfig
from ttt_core.training.parallel import Ranks, joined, views_spread
from ttt_core.training.run_state import load_run_state

_TOLERANCE = 1e-5


def _process(
    rank: int, work: Callable[..., None], port: int, sequence: int, arguments: tuple[Any, ...]
) -> None:
    import os

    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    with joined(sequence_size=sequence, timeout_s=60) as ranks:
        work(ranks, *arguments)


def two(work: Callable[..., None], sequence: int, *arguments: Any) -> None:
    """Run `work(ranks, *arguments)` in two processes; at most a minute."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = mp.spawn(_process, args=(work, port, sequence, arguments), nprocs=2, join=False)
    try:
        assert context.join(timeout=60) or context.join(timeout=20)
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        scale = max(1.0, float(tensor.abs().max()))
        assert float((tensor - other[name]).abs().max()) <= _TOLERANCE * scale, name


def reconstructed(ranks: Ranks, scan: str) -> dict[str, Tensor]:
    """Loss, gradients, outputs and states of a small model on 8 views, in whole."""
    torch.manual_seed(3)
    model = Reconstructor(tiny_config(elastic_lambda=0.05))
    inputs = random_views(8)
    mine = [ranks.my_views(t, 1) for t in inputs]
    with views_spread(model, ranks):
        if scan == "stream":
            state, raws = model.initial_state(1), []
            for start in (0, 2):
                step = mine[0].shape[1] // 2
                batch = [t[:, start // 2 * step : (start // 2 + 1) * step] for t in mine]
                state, output = model.stream(state, *batch)
                raws.append(output.raw)
            raw, weights = torch.cat(raws, 1), [layer.weights for layer in state.layers]
        else:
            output = model.reconstruct(*mine, scan=scan, views_per_update=4 // ranks.sequence_size)
            raw, weights = output.raw, list(output.fast_weights)
        loss = raw.square().mean() + raw[..., 0].mean()
        loss.backward()
    ranks.mean_gradients(model.parameters())
    per_view = ranks.all_views(raw.unflatten(1, (mine[0].shape[1], -1)), 1)
    found = {
        "loss": torch.tensor(ranks.mean([float(loss.detach())]), dtype=torch.float64),
        "raw": per_view.detach().contiguous(),
    }
    for number, layer in enumerate(weights):
        found |= {f"fast.{number}.{n}": t.detach() for n, t in layer._asdict().items()}
    return found | {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}


def _reconstruct(ranks: Ranks, scan: str, folder: Path) -> None:
    save_file(reconstructed(ranks, scan), folder / f"{scan}-{ranks.rank}")


def _reconstruct_all(ranks: Ranks, folder: Path) -> None:
    for scan in ("full", "ar", "stream"):
        _reconstruct(ranks, scan, folder)
    for kind in ("ridge", "swiglu"):
        save_file(remembered(ranks, kind), folder / f"{kind}-{ranks.rank}")
    with pytest.raises(ScanError, match="3 views cannot be dealt out to 2"):
        ranks.my_views(torch.zeros(3), 0)


def remembered(ranks: Ranks, kind: str) -> dict[str, Tensor]:
    """A place memory written twice with 2 x 4 views of 6 points, then read; gradients too."""
    torch.manual_seed(4)
    memory = RidgeMemory(32, 5) if kind == "ridge" else SwiGluMemory(8)
    states, answers = memory.initial_state(2), []
    with views_spread(memory, ranks):
        for _ in range(2):
            places = torch.randn(2, 4, 6, 3)
            values = torch.randn(2, 4, 6, memory.value_width)
            weights = torch.rand(2, 4, 6, memory.weight_channels)
            given = [ranks.my_views(t, 1).flatten(1, 2) for t in (places, values, weights)]
            states = memory.write(states, *given)
            answers.append(memory.read(states, given[0])[0])
        loss = torch.stack(answers).square().mean()
        loss.backward()
    ranks.mean_gradients(memory.parameters())
    shares = [ranks.all_views(a.unflatten(1, (-1, 6)), 1) for a in answers]
    return {
        "loss": torch.tensor(ranks.mean([float(loss.detach())]), dtype=torch.float64),
        **{f"answer.{n}": t.detach().contiguous() for n, t in enumerate(shares)},
        **{f"state.{n}": t.detach().contiguous() for n, t in states.tensors.items()},
        **{f"grad.{n}": p.grad for n, p in memory.named_parameters() if p.grad is not None},
    }


def test_views_spread_over_two_processes_equal_one(tmp_path: Path) -> None:
    two(_reconstruct_all, 2, tmp_path)
    for scan in ("full", "ar", "stream"):
        whole = reconstructed(Ranks(), scan)
        for rank in range(2):
            assert_close(whole, load_file(tmp_path / f"{scan}-{rank}"))
    for kind in ("ridge", "swiglu"):
        whole = remembered(Ranks(), kind)
        for rank in range(2):
            assert_close(whole, load_file(tmp_path / f"{kind}-{rank}"))


def _train(ranks: Ranks, folder: Path) -> None:
    """Two processes whose data together are what one process with twice the batch would have."""
    losses: list[float] = []
    run = trainer(folder / "run", losses, model=_model(), ranks=ranks, optimizer=_OPTIMIZER)
    run.run(8)
    save_file(
        {n: p.detach().clone() for n, p in run.learner.model.named_parameters()},
        folder / f"weights-{ranks.rank}",
    )
    save_file({"losses": torch.tensor(losses)}, folder / f"losses-{ranks.rank}")
    # goes on as if it had never stopped
    again = trainer(folder / "run", losses, model=_model(), ranks=ranks, optimizer=_OPTIMIZER)
    again.run(4, resume=True)
    assert again.step == run.step + 4 == 12


_OPTIMIZER = OptimizerConfig(learning_rate=1e-2, muon=True, ema_decay=0.9)


def _model() -> nn.Module:
    return student(1).eval()


def test_data_parallel_processes_stay_alike_and_average_their_gradients(tmp_path: Path) -> None:
    two(_train, 1, tmp_path)
    first, second = (load_file(tmp_path / f"weights-{rank}") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [load_file(tmp_path / f"losses-{rank}")["losses"] for rank in range(2)]
    assert not torch.equal(*losses), "each has its own examples"
    _, facts = load_run_state(tmp_path / "run" / "state")
    assert facts["samples"] == facts["step"] * 32
    assert len(facts["random"]) == 2


def test_one_process_needs_no_group() -> None:
    ranks = Ranks()
    tensor = torch.randn(2, 4)
    assert ranks.sequence_sum(tensor) is tensor
    assert ranks.all_views(ranks.my_views(tensor, 1), 1).equal(tensor)
    assert ranks.gather_bytes(b"x") == [b"x"] and ranks.mean([1.0]) == [1.0]
    with pytest.raises(ConfigError, match="groups of 2"), joined(sequence_size=2):
        pass
    assert Clock()() == 0.0

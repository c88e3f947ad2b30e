"""Two gloo processes equal one: losses, states, outputs, gradients, weights."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from regression import Clock, student, teacher, trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reconstructor_cases import random_views, tiny_config

from ttt_core import Reconstructor
from ttt_core.errors import ConfigError, ScanError
from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.memory import RidgeMemory, SwiGluMemory
from ttt_core.network import MEMORIES, CompactNetwork, NetworkConfig, NetworkInput
from ttt_core.training.collate import StreamStep
from ttt_core.training.learner import Learner
from ttt_core.training.loss import LossConfig, sequence_loss
from ttt_core.training.optimizer import OptimizerConfig
from ttt_core.training.parallel import Ranks, dealt, joined, views_spread
from ttt_core.training.run_state import load_run_state

_TOLERANCE = 1e-5
_LONGEST_S = 120.0


def _process(rank: int, ports: list[int], folder: Path) -> None:
    torch.set_num_threads(1)
    for port, sequence, work in zip(ports, (2, 1), (_share_views, _share_data)):
        os.environ.update(
            RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
        with joined(sequence_size=sequence, timeout_s=_LONGEST_S) as ranks:
            work(ranks, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, which first shared views and then had data of their own each."""
    made: Path = tmp_path_factory.mktemp("two")
    # What takes longest to import is imported once; optimizers need _dynamo.
    multiprocessing.set_forkserver_preload(["ttt_core.training.worker", "torch._dynamo"])
    arguments = ([_port(), _port()], made)
    context = mp.start_processes(_process, arguments, 2, join=False, start_method="forkserver")
    try:
        until = time.monotonic() + _LONGEST_S
        while not context.join(timeout=1):
            assert time.monotonic() < until, "the processes hang"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return made


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


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


def _share_views(ranks: Ranks, folder: Path) -> None:
    for scan in ("full", "ar", "stream"):
        _reconstruct(ranks, scan, folder)
    for kind in ("ridge", "swiglu"):
        save_file(remembered(ranks, kind), folder / f"{kind}-{ranks.rank}")
    for kind in MEMORIES:
        save_file(streamed(ranks, kind), folder / f"network-{kind}-{ranks.rank}")
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


def streamed(ranks: Ranks, kind: str) -> dict[str, Tensor]:
    """Loss, outputs, states and gradients of the compact network over three batches of 4 views.

    In double: a ridge solution has a condition number of 1e4, which float32 shows.
    """
    torch.manual_seed(5)
    network = CompactNetwork(
        NetworkConfig(
            memory=kind, width=16, cell_width=8, pixel_width=8, layers=1, attention_head_dim=8,
            planes=8, ray_samples=4, ray_width=8, features=16, value_width=8,
        )
    )  # fmt: skip
    network = network.double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
            assert parameter.any(), name
    steps = [dealt(random_step(number), ranks) for number in range(3)]
    config = LossConfig(reset=0.5, truncate=2)
    with views_spread(network, ranks):
        rng = torch.Generator().manual_seed(1)
        loss, figures = sequence_loss(network, steps, config, rng, mean=ranks.masked_mean)
        loss.backward()
        state, outputs = network.initial_state(2), []
        with torch.no_grad():
            for step in steps:
                output, state = network(step.views, state, write=True)
                outputs.append(ranks.all_views(output.log_depth, 1))
    ranks.mean_gradients(network.parameters())
    return {
        "loss": torch.tensor(ranks.mean([float(loss.detach())])),
        "figures": torch.tensor(ranks.mean(figures.values())),
        "depth": torch.stack(outputs),
        **{f"state.{n}": t.detach().float().contiguous() for n, t in state.tensors.items()},
        **{f"grad.{n}": p.grad for n, p in network.named_parameters() if p.grad is not None},
    }


def random_step(seed: int) -> StreamStep:
    """Two streams, four views of 16x24 with unevenly known depth."""
    generator = torch.Generator().manual_seed(seed)
    views, height, width = 4, 16, 24

    def rand(*shape: int) -> Tensor:
        return torch.rand(2, views, *shape, generator=generator)

    c2w = torch.eye(4).repeat(2, views, 1, 1)
    c2w[..., :3, 3] = 0.2 * rand(3)
    known = rand(height, width) < 0.2 + 0.2 * torch.arange(views)[:, None, None]
    inputs = NetworkInput(
        image=rand(3, height, width),
        log_depth=0.5 * rand(height, width),
        confidence=rand(height, width),
        map_log_depth=0.5 * rand(height, width),
        map_there=(rand(height, width) > 0.5).float(),
        cells=rand(height // CELL, width // CELL, len(CELL_CHANNELS)),
        log_range=torch.tensor([-1.0, 2.0]).expand(2, views, 2),
        fxfycxcy=torch.tensor([20.0, 20.0, 12.0, 8.0]).expand(2, views, 4),
        c2w=c2w,
    )
    truth, sky = 0.5 * rand(height, width), ~known & (rand(height, width) > 0.7)
    return StreamStep(inputs.map(Tensor.double), truth.double(), known, sky)


def test_views_spread_over_two_processes_equal_one(folder: Path) -> None:
    for scan in ("full", "ar", "stream"):
        whole = reconstructed(Ranks(), scan)
        for rank in range(2):
            assert_close(whole, load_file(folder / f"{scan}-{rank}"))
    for kind in ("ridge", "swiglu"):
        whole = remembered(Ranks(), kind)
        for rank in range(2):
            assert_close(whole, load_file(folder / f"{kind}-{rank}"))
    for kind in MEMORIES:
        whole = streamed(Ranks(), kind)
        for rank in range(2):
            assert_close(whole, load_file(folder / f"network-{kind}-{rank}"))


def _share_data(ranks: Ranks, folder: Path) -> None:
    """Two processes whose data together are what one process with twice the batch would have."""
    save_file(learned(ranks), folder / f"learned-{ranks.rank}")
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


def learned(ranks: Ranks) -> dict[str, Tensor]:
    """Losses, weights and averaged weights after five steps on two batches in all."""
    torch.manual_seed(7)
    layers = (nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3))
    learner = Learner(
        nn.Sequential(*layers), _OPTIMIZER, seed=0, device=torch.device("cpu"), ranks=ranks
    )

    def loss_of(model: nn.Module, x: Tensor, _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return nn.functional.mse_loss(model(x), teacher(x)), {}

    # the global generator is each process's own
    batches = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(8))
    mine = batches if ranks.size == 1 else batches[ranks.rank][None]
    losses = []
    for _ in range(5):
        losses.append(ranks.mean([learner.learn(mine, loss_of, 1.0).loss])[0])
    weights = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    averages = {f"average.{name}": t for name, t in learner.average.to_tensors().items()}
    return {"losses": torch.tensor(losses), **weights, **averages}


def test_data_parallel_processes_equal_one_with_all_their_data(folder: Path) -> None:
    whole = learned(Ranks())
    assert whole["losses"][-1] < whole["losses"][0]
    for rank in range(2):
        assert_close(whole, load_file(folder / f"learned-{rank}"))


def _model() -> nn.Module:
    return student(1).eval()


def test_data_parallel_processes_stay_alike_and_average_their_gradients(folder: Path) -> None:
    first, second = (load_file(folder / f"weights-{rank}") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [load_file(folder / f"losses-{rank}")["losses"] for rank in range(2)]
    assert not torch.equal(*losses), "each has its own examples"
    _, facts = load_run_state(folder / "run" / "state")
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

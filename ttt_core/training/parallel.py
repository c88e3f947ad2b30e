"""Several processes on one training run, over torch.distributed.

Data parallel: every group of processes has its own examples, gradients are averaged. Sequence
parallel: the processes of a group have the same examples but each its own views of every batch;
what the views write into a memory (fast-weight gradients, ridge sums) is summed over the group, so
that all hold the same state, which is the one that a single process would have.

Views are dealt out in turn (rank r of R has views r, r + R, ...), as in tttLRM, so that chunks of a
multiple of R views stay what they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ttt_core.errors import ConfigError, ScanError
from ttt_core.training.collate import StreamStep


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others.

    Attributes:
        rank, size: of all processes.
        sequence_rank, sequence_size: of those that share examples.
        device: where collective tensors live.
        group: of those that share examples; None where each has its own.
    """

    rank: int = 0
    size: int = 1
    sequence_rank: int = 0
    sequence_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Any = None

    @property
    def data_rank(self) -> int:
        """Number of the group: what seeds the choice of examples."""
        return self.rank // self.sequence_size

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides, writes and logs."""
        return self.rank == 0

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average `.grad` over all processes, in place.

        A parameter that has a gradient on any process gets one on all; one without stays without.
        """
        if self.size == 1:
            return
        every = list(parameters)
        flags = torch.tensor([float(p.grad is not None) for p in every])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in every]
        flat = torch.cat([g.reshape(-1).float() for g in grads] + [flags.to(grads[0].device)])
        dist.all_reduce(flat)
        touched = (flat[-len(every) :] > 0).tolist()
        start = 0
        for parameter, there in zip(every, touched):
            part = flat[start : start + parameter.numel()]
            start += parameter.numel()
            if there:
                parameter.grad = (part / self.size).view_as(parameter).to(parameter.dtype)

    def mean(self, values: Iterable[float]) -> list[float]:
        """Each value averaged over all processes."""
        given = list(values)
        if self.size == 1:
            return given
        tensor = torch.tensor(given, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in (tensor / self.size).tolist()]

    def decided(self, values: Iterable[float]) -> list[float]:
        """The leading process's values, on all."""
        given = list(values)
        if self.size == 1:
            return given
        tensor = torch.tensor(given, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return [float(value) for value in tensor.tolist()]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """What every process gave, in order of rank, on all."""
        if self.size == 1:
            return [data]
        lengths = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        lengths[self.rank] = len(data)
        dist.all_reduce(lengths)
        longest = int(lengths.max())
        mine = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [
            bytes(part[:length].cpu().numpy().tobytes())
            for part, length in zip(parts, lengths.tolist())
        ]

    def same_weights(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the leading one's tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def my_views(self, tensor: Tensor, dim: int) -> Tensor:
        """This process's share of the views along `dim`.

        Raises:
            ScanError: they cannot be dealt out evenly.
        """
        if tensor.shape[dim] % self.sequence_size:
            raise ScanError(
                f"{tensor.shape[dim]} views cannot be dealt out to {self.sequence_size} processes: "
                "give a multiple"
            )
        index = torch.arange(self.sequence_rank, tensor.shape[dim], self.sequence_size)
        return tensor.index_select(dim, index.to(tensor.device))

    def all_views(self, tensor: Tensor, dim: int) -> Tensor:
        """The inverse of `my_views`, on all processes of the group; carries no gradient."""
        if self.sequence_size == 1:
            return tensor
        mine = tensor.detach().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.sequence_size)]
        dist.all_gather(parts, mine, group=self.group)
        return torch.stack(parts, dim + 1).flatten(dim, dim + 1)

    def masked_mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """This process's part of the mean over all views' masked values: the mean of the parts
        over the sequence group is the whole mean, however unevenly the mask is spread."""
        count = mask.sum().to(values.dtype)
        if self.sequence_size > 1:
            dist.all_reduce(count, group=self.group)
        return (values * mask).sum() / count.clamp_min(1) * self.sequence_size

    def sequence_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes that share examples; gradients are summed likewise.

        The gradient is that of the sum of all processes' losses: where each has the mean over its
        own, equal share, averaging the parameters' gradients gives that of the overall mean.
        """
        if self.sequence_size == 1:
            return tensor
        summed: Tensor = _Sum.apply(tensor, self.group)  # type: ignore[no-untyped-call]
        return summed


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        summed = tensor.detach().contiguous().clone()
        dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


def dealt(step: StreamStep, ranks: Ranks) -> StreamStep:
    """This process's views of one batch of streams.

    Raises:
        ScanError: they cannot be dealt out evenly.
    """
    if ranks.sequence_size == 1:
        return step
    return StreamStep(
        step.views.map(lambda tensor: ranks.my_views(tensor, 1)),
        *(ranks.my_views(tensor, 1) for tensor in (step.true_log_depth, step.known, step.sky)),
    )


@contextmanager
def views_spread(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Within the block every memory in `model` sums what is written over the sequence group.

    These are the modules with an attribute `reduce`; those with an attribute `dealt` learn which
    views are theirs. A backward pass that recomputes activations belongs inside the block too. All
    processes of the group must run the same passes.
    """
    if ranks.sequence_size == 1:
        yield
        return
    hooks = {"reduce": ranks.sequence_sum, "dealt": (ranks.sequence_rank, ranks.sequence_size)}
    before = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in hooks
        if hasattr(module, name)
    ]
    try:
        for module, name, _ in before:
            setattr(module, name, hooks[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def joined(
    device: str | torch.device = "cpu", *, sequence_size: int = 1, timeout_s: float = 600.0
) -> Iterator[Ranks]:
    """The processes that `torchrun` started (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or one.

    gloo on the CPU; nccl on CUDA, where process n of a machine takes its device n.

    Args:
        device: of this process.
        sequence_size: processes that share examples; divides their number.
        timeout_s: how long a process waits for the others before it gives up.

    Raises:
        ConfigError: `sequence_size` does not divide the number of processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device(device)
    if sequence_size < 1 or size % sequence_size:
        raise ConfigError(
            f"{size} processes cannot form groups of {sequence_size} (parallel.sequence): start a "
            "multiple of it with torchrun"
        )
    if size == 1:
        yield Ranks(device=device)
        return
    rank = int(os.environ["RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        group = None
        # every process has to take part in making every group
        for first in range(0, size, sequence_size):
            made = dist.new_group(list(range(first, first + sequence_size)))
            if first <= rank < first + sequence_size:
                group = made
        yield Ranks(rank, size, rank % sequence_size, sequence_size, device, group)
    finally:
        dist.destroy_process_group()

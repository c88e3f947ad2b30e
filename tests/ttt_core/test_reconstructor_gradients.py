"""Training needs gradients through a whole stream: every step of it, down to the first batch."""

from __future__ import annotations

import torch
from reconstructor_cases import random_views, split_views, tiny_model
from torch import Tensor

from ttt_core import Reconstructor


def third_batch_loss(model: Reconstructor, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A loss on the third batch alone: batch 1 reaches it through the fast weights only."""
    state = model.initial_state(inputs[0].shape[0])
    for batch in split_views(inputs, 1):
        state, output = model.stream(state, *batch)
    return output.raw.square().mean()


def double_inputs() -> tuple[Tensor, Tensor, Tensor]:
    return random_views(3, height=4, width=8, dtype=torch.float64)


def test_gradients_through_three_batches_match_finite_differences() -> None:
    for elastic in (0.0, 0.2):
        model = tiny_model(elastic_lambda=elastic).double()
        image, fxfycxcy, c2w = double_inputs()
        image.requires_grad_()
        loss = third_batch_loss(model, (image, fxfycxcy, c2w))
        fast = model.blocks[0].module_list[1].f
        checked = {
            "image": image,
            "w0": fast.w0,
            "w1": fast.w1,
            "w2": fast.w2,
            "rates": fast.lr_fc.weight,
            "keys": fast.to_qkv.weight,
            "tokenizer": model.tokenizer[1].weight,
        }
        gradients = torch.autograd.grad(loss, list(checked.values()))
        generator = torch.Generator().manual_seed(7)
        for (name, tensor), gradient in zip(checked.items(), gradients):
            direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            direction /= direction.norm()
            values = []
            step = 1e-6
            with torch.no_grad():
                for sign in (1, -2, 1):  # ends where it began
                    tensor.add_(sign * step * direction)
                    values.append(float(third_batch_loss(model, (image, fxfycxcy, c2w))))
            numeric = (values[0] - values[1]) / (2 * step)
            analytic = float((gradient * direction).sum())
            assert abs(numeric - analytic) < 1e-4 * max(abs(numeric), float(gradient.norm())), name


def test_third_batch_trains_the_first_batch_and_the_initial_weights() -> None:
    model = tiny_model()
    image, fxfycxcy, c2w = random_views(3)
    image.requires_grad_()
    third_batch_loss(model, (image, fxfycxcy, c2w)).backward()
    assert image.grad is not None and (image.grad[:, 0].abs().amax() > 0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


def test_detach_truncates_the_stream() -> None:
    model = tiny_model()
    image, fxfycxcy, c2w = random_views(2)
    image.requires_grad_()
    first, second = split_views((image, fxfycxcy, c2w), 1)
    state, _ = model.stream(model.initial_state(1), *first)
    _, output = model.stream(state.detach(), *second)
    output.raw.square().mean().backward()
    assert image.grad is not None
    assert image.grad[:, 0].abs().max() == 0 and image.grad[:, 1].abs().max() > 0

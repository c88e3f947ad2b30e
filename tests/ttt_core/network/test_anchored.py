"""Token-level fast weights with keys anchored in 3D: what they are asked, and what they take in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_cases import build, seeded, views
from torch import Tensor

from ttt_core.memory import MemoryState, SwiGluMemory
from ttt_core.network.anchored import AnchoredTokens
from ttt_core.network.inputs import patch_rays
from ttt_core.network.tokens import SurestPixels, surest_pixels

WIDTH, TOKENS = 16, 6
NAMES = ("w0", "w1", "w2")


@pytest.fixture
def memory() -> AnchoredTokens:
    """Of which a key is the query of the same token at the same place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = AnchoredTokens(WIDTH).requires_grad_(False)
    made.to_query.load_state_dict(made.to_key.state_dict())
    return made


def rays(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, origins and directions of two streams of two views."""
    generator = seeded(seed)
    shapes = ((2, 2, TOKENS, WIDTH), (2, 2, 1, 3), (2, 2, TOKENS, 3))
    tokens, origins, directions = (torch.randn(s, generator=generator) for s in shapes)
    return tokens, origins, directions


def surfaces(seed: int, valid: Tensor | None = None) -> SurestPixels:
    shape, generator = (2, 2, TOKENS), seeded(seed)
    depth, confidence = (torch.rand(shape, generator=generator) for _ in range(2))
    return SurestPixels(confidence, depth, torch.zeros(*shape, 2), valid)


def plainly_written(
    memory: AnchoredTokens, state: MemoryState, seen: tuple[Tensor, ...], surest: SurestPixels
) -> dict[str, Tensor]:
    """Fast weights after a batch, and its own answers from them: token by token, gradients by
    autograd."""
    tokens, origins, directions = seen
    weights = {name: state[f"anchored.{name}"] for name in NAMES}
    after: dict[str, list[Tensor]] = {name: [] for name in (*NAMES, "answer")}
    for stream in range(2):
        leaf = {name: w[stream].clone().requires_grad_() for name, w in weights.items()}
        ascent = {name: torch.zeros_like(w) for name, w in leaf.items()}

        def asked(x: Tensor, now: dict[str, Tensor]) -> Tensor:
            return (F.silu(x @ now["w0"]) * (x @ now["w2"])) @ now["w1"]

        keys = []
        for view in range(2):
            for number in range(TOKENS):
                token, o = tokens[stream, view, number], origins[stream, view, 0]
                d = directions[stream, view, number]
                depth = surest.log_depth[stream, view, number]
                sure = surest.confidence[stream, view, number]
                x = o + d * depth.exp()
                phase = x @ memory.features.frequencies
                parts = (token, o, d, torch.linalg.cross(o, d), phase.sin(), phase.cos())
                key = F.normalize(memory.to_key(torch.cat(parts)), dim=0)
                keys.append(key)
                value = memory.to_value(torch.cat((token, x, o, depth[None], sure[None], d)))
                rate = F.softplus(memory.rate(torch.cat((token, sure[None]))))
                agreement = asked(key, leaf) @ value
                grads = torch.autograd.grad(agreement, list(leaf.values()))
                for name, share, grad in zip(NAMES, rate, grads):
                    ascent[name] += share * grad
        now = {}
        for index, name in enumerate(NAMES):
            # Newton-Schulz acts on the singular values alone
            u, s, vh = torch.linalg.svd(ascent[name], full_matrices=False)
            s = s / s.norm()
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            new = weights[name][stream] + memory.log_steps[index].exp() * (u * s) @ vh
            first = getattr(memory, name)[0]
            now[name] = new / new.norm(dim=0) * first.norm(dim=0)
            after[name].append(now[name])
        after["answer"].append(torch.stack([memory.out(asked(k, now)) for k in keys]))
    return {name: torch.stack(found) for name, found in after.items()}


def test_writes_and_reads_against_a_plain_loop(memory: AnchoredTokens) -> None:
    memory = memory.double()
    state = memory.initial_state(2)
    for number in range(2):
        seen = tuple(t.double() for t in rays(number))
        confidence, depth, pixels, _ = surfaces(number)
        surest = SurestPixels(confidence.double(), depth.double(), pixels, None)
        expected = plainly_written(memory, state, seen, surest)
        state = memory.write(state, *seen, surest)
        for name in NAMES:
            torch.testing.assert_close(state[f"anchored.{name}"], expected[name], rtol=0, atol=2e-4)
        answer = memory.read(state, *seen, surest.log_depth)
        torch.testing.assert_close(answer.flatten(1, 2), expected["answer"], rtol=0, atol=2e-4)


def test_a_token_that_looks_elsewhere_reads_something_else(memory: AnchoredTokens) -> None:
    """The same token on the same ray at another depth, and the same from another origin."""
    seen, surest = rays(0), surfaces(0)
    state = memory.write(memory.initial_state(2), *seen, surest)
    tokens, origins, directions = seen
    here = memory.read(state, *seen, surest.log_depth)
    deeper = memory.read(state, *seen, surest.log_depth + 0.7)
    aside = memory.read(state, tokens, origins + 1, directions, surest.log_depth)
    scale = here.abs().mean()
    for other in (deeper, aside):
        assert ((other - here).abs().mean(dim=-1) > 0.05 * scale).all()


def test_what_was_written_is_recalled_where_it_was_written(memory: AnchoredTokens) -> None:
    seen, surest = rays(0), surfaces(0)
    state = memory.initial_state(2)
    written = memory.write(state, *seen, surest)
    tokens, origins, directions = seen
    depth, confidence = surest.log_depth[..., None], surest.confidence[..., None]
    o = origins.expand_as(directions)
    surface = (tokens, o + directions * depth.exp(), o, depth, confidence, directions)
    values = memory.out(memory.to_value(torch.cat(surface, dim=-1)))

    def likeness(of: MemoryState, log_depth: Tensor) -> float:
        answer = memory.read(of, *seen, log_depth)
        return float(F.cosine_similarity(answer, values, dim=-1).mean())

    unwritten, recalled = (likeness(s, surest.log_depth) for s in (state, written))
    elsewhere = likeness(written, surest.log_depth + 1.5)
    assert abs(unwritten) < 0.2 and recalled > 0.5
    assert elsewhere < recalled - 0.1


def test_tokens_without_a_valid_pixel_write_nothing(memory: AnchoredTokens) -> None:
    says = torch.ones(2, 2, TOKENS, dtype=torch.bool)
    says[:, 0, 2:] = says[:, 1, :4] = False
    seen, state = rays(0), memory.initial_state(2)
    tokens = seen[0].clone()
    tokens[~says] = 9.0
    surest = surfaces(0, says)
    one = memory.write(state, *seen, surest)
    other = memory.write(state, tokens, *seen[1:], surest)
    everything = memory.write(state, *seen, surest._replace(valid=None))
    nothing = memory.write(state, *seen, surest._replace(valid=torch.zeros_like(says)))
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5)
        torch.testing.assert_close(nothing[name], state[name], rtol=1e-4, atol=0)
        assert (everything[name] - tensor).norm() > 0.01 * tensor.norm()


def test_the_surest_valid_pixels_are_written() -> None:
    inputs = views(0)
    valid = torch.rand(inputs.log_depth.shape, generator=seeded(2)) > 0.5
    valid[0, 0, :8, 8:16] = False
    found = surest_pixels(inputs.log_depth, inputs.confidence, valid, 8)
    assert found.valid is not None and int((~found.valid).sum()) == 1 and not found.valid[0, 0, 1]
    for view, token in torch.nonzero(found.valid[0]).tolist():
        x, y = (found.pixels[0, view, token] - 0.5).long().tolist()
        row, column = divmod(token, 3)
        tile = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        assert valid[0, view, y, x] and y // 8 == row and x // 8 == column
        best = inputs.confidence[0, view][tile][valid[0, view][tile]].max()
        assert found.confidence[0, view, token] == best == inputs.confidence[0, view, y, x]
        assert found.log_depth[0, view, token] == inputs.log_depth[0, view, y, x]


def test_gradients_come_back_from_the_second_batch_alone() -> None:
    network = build("anchored", acting=0.3).requires_grad_(True)
    first = views(0)
    first.image.requires_grad_(True)
    _, state = network(first, network.initial_state(1), write=True)
    network(views(1), state, write=False)[0].log_depth.square().mean().backward()
    for name, parameter in network.named_parameters():
        if name.startswith("anchored."):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    assert first.image.grad is not None and first.image.grad.any()


def test_places_asked_about_do_not_pull_at_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a token looks is taken as given: depth is not to be bent so that it reads better."""
    network = build("anchored", acting=0.3).requires_grad_(True)
    asked: list[Tensor] = []
    read = AnchoredTokens.read

    def watched(memory: AnchoredTokens, *arguments: Any) -> Tensor:
        asked.append(arguments[-1])
        return read(memory, *arguments)

    monkeypatch.setattr(AnchoredTokens, "read", watched)
    inputs = views(0)
    network(inputs, network.initial_state(1), write=False)
    assert len(asked) == 1 and not asked[0].requires_grad
    near, far = inputs.log_range.unbind(-1)
    assert (asked[0] > near[..., None]).all() and (asked[0] < far[..., None]).all()


def test_the_network_reads_something_else_from_another_pose() -> None:
    """Only through the memory: without one a pose changes nothing in tokens."""
    moved = views(1).c2w.clone()
    moved[..., :3, 3] += 1.0
    for memory, least, most in (("anchored", 1e-5, 10.0), ("none", 0.0, 0.0)):
        network = build(memory, acting=0.3)
        _, state = network(views(0), network.initial_state(1), write=True)
        here, there = (
            network(inputs, state, write=False)[0].plane_logits
            for inputs in (views(1), replace(views(1), c2w=moved))
        )
        assert least <= float((here - there).abs().max()) <= most


def test_its_state_is_told_from_one_of_the_same_shapes(memory: AnchoredTokens) -> None:
    ours, theirs = memory.initial_state(2), SwiGluMemory().initial_state(2)
    shapes = [sorted(tuple(t.shape) for t in s.tensors.values()) for s in (ours, theirs)]
    assert shapes[0] == shapes[1] and ours.nbytes == theirs.nbytes
    assert not ours.tensors.keys() & theirs.tensors.keys()


def test_patch_rays_run_through_the_centres() -> None:
    inputs = views(0)
    origins, directions = patch_rays(inputs, 8)
    assert origins.shape == (1, 2, 1, 3) and directions.shape == (1, 2, 6, 3)
    in_camera = directions @ inputs.c2w[..., :3, :3]
    focal, centre = inputs.fxfycxcy[:, :, None].split(2, dim=-1)
    pixels = in_camera[..., :2] / in_camera[..., 2:] * focal + centre
    expected = torch.tensor([[x, y] for y in (4.0, 12.0) for x in (4.0, 12.0, 20.0)])
    torch.testing.assert_close(pixels, expected.expand_as(pixels), rtol=0, atol=1e-3)

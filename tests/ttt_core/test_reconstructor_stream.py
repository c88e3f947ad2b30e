"""Scans against each other: one chunk, block-causal streaming, queries, virtual views."""

from __future__ import annotations

import pytest
import torch
from reconstructor_cases import max_difference, random_views, split_views, tiny_model
from torch import Tensor

from ttt_core import Reconstruction, Reconstructor, ReconstructorState
from ttt_core.blocks import Block
from ttt_core.state import LayerState
from ttt_core.tokens import camera_rays, ray_image

HEADS = [{}, {"fast_weight_head_dim": 16}]


def stream_all(
    model: Reconstructor, inputs: tuple[Tensor, Tensor, Tensor], per_batch: int
) -> tuple[list[ReconstructorState], list[Reconstruction]]:
    states, outputs = [model.initial_state(inputs[0].shape[0])], []
    for batch in split_views(inputs, per_batch):
        state, output = model.stream(states[-1], *batch)
        states.append(state)
        outputs.append(output)
    return states, outputs


@torch.no_grad()
def test_parameter_names_are_the_released_ones() -> None:
    model = tiny_model(layers=2)
    per_block = {
        "module_list.0.ln.weight": (16,),
        "module_list.0.f.to_qkv.weight": (48, 16),
        "module_list.0.f.c_proj.weight": (16, 16),
        "module_list.0.f.q_norm.weight": (8,),
        "module_list.0.f.k_norm.weight": (8,),
        "module_list.1.ln.weight": (16,),
        "module_list.1.f.w0": (2, 8, 16),
        "module_list.1.f.w1": (2, 16, 8),
        "module_list.1.f.w2": (2, 8, 16),
        "module_list.1.f.to_qkv.weight": (48, 16),
        "module_list.1.f.c_proj.weight": (16, 16),
        "module_list.1.f.lr_fc.weight": (6, 16),
        "module_list.1.f.lr_fc.bias": (6,),
        "module_list.1.f.o_norm.weight": (16,),
        "module_list.2.ln.weight": (16,),
        "module_list.2.f.c_fc.weight": (64, 16),
        "module_list.2.f.c_proj.weight": (16, 64),
    }
    expected = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in per_block.items()}
    expected |= {
        "tokenizer.1.weight": (16, 12 * 16),
        "input_layernorm.weight": (16,),
        "decoder.0.weight": (16,),
        "decoder.1.weight": ((3 + 3 + 3 + 4 + 1) * 16, 16),
    }
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == expected


@pytest.mark.parametrize("heads", HEADS)
@torch.no_grad()
def test_one_chunk_is_the_same_in_every_scan(heads: dict) -> None:
    model, inputs = tiny_model(**heads), random_views(4, batch=2)
    full = model.reconstruct(*inputs)
    ar = model.reconstruct(*inputs, scan="ar", views_per_update=4)
    state, streamed = model.stream(model.initial_state(2), *inputs)
    assert torch.equal(full.raw, ar.raw) and torch.equal(full.raw, streamed.raw)
    for a, b, c in zip(full.fast_weights, streamed.fast_weights, state.layers):
        assert max_difference(a, b) == 0 and max_difference(a, c.weights) == 0


@pytest.mark.parametrize("heads", HEADS)
@torch.no_grad()
def test_first_layer_weights_agree_for_any_chunks(heads: dict) -> None:
    model = tiny_model(layers=3, **heads).double()
    inputs = random_views(6, dtype=torch.float64)
    official = model.reconstruct(*inputs, scan="ar", views_per_update=2)
    states, _ = stream_all(model, inputs, 2)
    assert max_difference(official.fast_weights[0], states[-1].layers[0].weights) < 1e-9
    # deeper layers see tokens of an earlier memory: there the two computations really differ
    assert max_difference(official.fast_weights[1], states[-1].layers[1].weights) > 1e-2


@torch.no_grad()
def test_one_layer_model_equals_official_after_an_apply_only_redecode() -> None:
    model, inputs = tiny_model(layers=1).double(), random_views(6, dtype=torch.float64)
    official = model.reconstruct(*inputs, scan="ar", views_per_update=2)
    states, outputs = stream_all(model, inputs, 2)
    last = outputs[-1].raw
    torch.testing.assert_close(last, official.raw[:, -last.shape[1] :], rtol=0, atol=1e-9)
    assert (outputs[0].raw - official.raw[:, : last.shape[1]]).abs().max() > 1e-2
    redecoded = model.query(states[-1], *inputs)
    torch.testing.assert_close(redecoded.raw, official.raw, rtol=0, atol=1e-9)


@pytest.mark.parametrize("elastic", [0.0, 0.2])
@torch.no_grad()
def test_later_batches_never_change_earlier_outputs_or_states(elastic: float) -> None:
    model, inputs = tiny_model(elastic_lambda=elastic), random_views(6)
    states, outputs = stream_all(model, inputs, 2)
    shorter_states, shorter_outputs = stream_all(model, tuple(t[:, :4] for t in inputs), 2)
    for longer, shorter in zip(outputs, shorter_outputs):
        assert torch.equal(longer.raw, shorter.raw)
    for longer, shorter in zip(states, shorter_states):
        ours, theirs = longer.to_tensors(), shorter.to_tensors()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    before = {name: t.clone() for name, t in states[1].to_tensors().items()}
    model.stream(states[1], *(t[:, 4:] for t in inputs))
    assert all(torch.equal(t, before[name]) for name, t in states[1].to_tensors().items())


@torch.no_grad()
def test_query_reads_and_does_not_write() -> None:
    model, inputs = tiny_model().double(), random_views(4, dtype=torch.float64)
    states, outputs = stream_all(model, inputs, 2)
    before = {name: t.clone() for name, t in states[-1].to_tensors().items()}
    other = random_views(3, height=12, width=8, seed=9, dtype=torch.float64)
    assert model.query(states[-1], *other).raw.shape == (1, 3 * 12 * 8, 14)
    assert all(torch.equal(t, before[name]) for name, t in states[-1].to_tensors().items())
    second = split_views(inputs, 2)[1]
    torch.testing.assert_close(
        model.query(states[-1], *second).raw, outputs[-1].raw, rtol=0, atol=1e-9
    )
    # an older memory answers differently
    assert (model.query(states[1], *second).raw - outputs[-1].raw).abs().max() > 1e-2


@torch.no_grad()
def test_batch_items_do_not_mix() -> None:
    model, inputs = tiny_model().double(), random_views(4, batch=3, dtype=torch.float64)
    states, outputs = stream_all(model, inputs, 2)
    alone_states, alone = stream_all(model, tuple(t[1:2] for t in inputs), 2)
    torch.testing.assert_close(outputs[-1].raw[1:2], alone[-1].raw, rtol=0, atol=1e-9)
    w0 = states[-1].layers[0].weights.w0.unflatten(0, (3, 2))[1]
    torch.testing.assert_close(w0, alone_states[-1].layers[0].weights.w0, rtol=0, atol=1e-9)


@torch.no_grad()
def test_state_size_does_not_depend_on_the_stream() -> None:
    model, inputs = tiny_model(elastic_lambda=0.1), random_views(8)
    states, _ = stream_all(model, inputs, 2)
    assert len({state.nbytes for state in states}) == 1


def run_with_twins(
    model: Reconstructor, inputs: tuple[Tensor, Tensor, Tensor], chunk_views: int, twin: Tensor
) -> tuple[Tensor, Tensor]:
    """The released token layout, spelled out: inputs, then virtual views carrying their own images;
    only the inputs write, both halves read. Returns the tokens of both halves."""
    image, fxfycxcy, c2w = (torch.cat((t, t[:, twin]), dim=1) for t in inputs)
    rays = camera_rays(fxfycxcy, c2w, *image.shape[-2:])
    x = model.input_layernorm(model.tokenizer(ray_image(image, rays)))
    views, written = image.shape[1], inputs[0].shape[1]
    per_view = x.shape[1] // views
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, fast, mlp = block.module_list
        x = x + attention.f(attention.ln(x), views)
        normed = fast.ln(x)
        state: LayerState = block.initial_state(image.shape[0])
        _, state = fast.f(normed[:, : written * per_view], state, chunk_views * per_view)
        x = x + fast.f(normed, state, None)[0]
        x = x + mlp.f(mlp.ln(x))
    return x[:, : written * per_view], x[:, written * per_view :]


@pytest.mark.parametrize("chunk_views", [2, 4])
@torch.no_grad()
def test_no_twin_stream_is_needed(chunk_views: int) -> None:
    """A twin stream of virtual views that equal the inputs repeats the inputs bit for bit, so that
    decoding the inputs' own tokens gives the released result at half the tokens."""
    model, inputs = tiny_model(layers=3).double(), random_views(4, dtype=torch.float64)
    first, second = run_with_twins(model, inputs, chunk_views, torch.arange(4))
    assert torch.equal(first, second)
    counted: list[int] = []
    model.blocks[0].register_forward_hook(lambda m, i, out: counted.append(out[0].shape[1]))
    ours = model.reconstruct(*inputs, scan="ar", views_per_update=chunk_views)
    assert counted == [first.shape[1]]
    raw = model.decoder(second).unflatten(-1, (-1, 14)).flatten(1, 2)
    torch.testing.assert_close(ours.raw, raw, rtol=0, atol=1e-9)


@torch.no_grad()
def test_virtual_views_gather_inputs_in_any_order() -> None:
    model, inputs = tiny_model().double(), random_views(4, batch=2, dtype=torch.float64)
    every = model.reconstruct(*inputs, scan="ar", views_per_update=2)
    chosen = torch.tensor([[3, 0, 3], [1, 2, 0]])
    some = model.reconstruct(*inputs, scan="ar", views_per_update=2, virtual_views=chosen)
    per_view = every.raw.shape[1] // 4
    for name in ("raw", "ray_origins", "ray_directions"):
        by_view = getattr(every, name).unflatten(1, (4, per_view))
        expected = torch.stack([by_view[b, chosen[b]].flatten(0, 1) for b in range(2)])
        torch.testing.assert_close(getattr(some, name), expected, rtol=0, atol=1e-9)
    _, second = run_with_twins(model, tuple(t[1:] for t in inputs), 2, chosen[1])
    raw = model.decoder(second).unflatten(-1, (-1, 14)).flatten(1, 2)
    torch.testing.assert_close(some.raw[1:], raw, rtol=0, atol=1e-9)


@torch.no_grad()
def test_autocast_keeps_geometry_rates_and_memory_in_float32() -> None:
    model, inputs = tiny_model(), random_views(4)
    plain = model.reconstruct(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.reconstruct(*inputs)
    assert torch.equal(plain.ray_directions, low.ray_directions)
    assert low.raw.dtype == torch.float32 and low.fast_weights[0].w0.dtype == torch.float32
    assert not torch.equal(plain.raw, low.raw)  # the matrix products did run in bfloat16
    cosine = torch.cosine_similarity(plain.raw.flatten(), low.raw.flatten(), dim=0)
    assert cosine > 0.9


@torch.no_grad()
def test_double_poses_fit_a_float32_model() -> None:
    """`normalize_poses` returns float64: rays are computed in it and handed out in the model's."""
    model, (image, fxfycxcy, c2w) = tiny_model(), random_views(2)
    output = model.reconstruct(image, fxfycxcy, c2w.double())
    assert output.raw.dtype == output.ray_origins.dtype == output.ray_directions.dtype
    assert output.raw.dtype == torch.float32
    single = model.reconstruct(image, fxfycxcy, c2w)
    torch.testing.assert_close(output.raw, single.raw, rtol=0, atol=5e-4)


@torch.no_grad()
def test_qk_norm_eps_is_used() -> None:
    inputs = random_views(2)
    first = tiny_model(qk_norm_eps=1.1920929e-7).reconstruct(*inputs)
    second = tiny_model(qk_norm_eps=0.0078125).reconstruct(*inputs)
    assert (first.raw - second.raw).abs().max() > 1e-4

"""The model against the released computation: numeric fixtures at the tolerances they allow."""

from __future__ import annotations

import pytest
import torch
from reconstructor_cases import Case, load_case, max_difference, split_views
from safetensors.torch import load_file
from torch import Tensor

from ttt_core import Reconstruction, ReconstructorState
from ttt_core.fast_weights import newton_schulz

RAW_TOLERANCE = 5e-4
FAST_WEIGHT_TOLERANCE = 3e-4
NAMES = ("dev_a_ar_chunk4", "dev_b_full_two_heads", "dev_c_ar_chunk1_patch4")
STREAMED = ("dev_a_ar_chunk4", "dev_c_ar_chunk1_patch4")


def reconstruct(case: Case) -> Reconstruction:
    return case.model.reconstruct(
        *case.inputs, scan=case.spec["scan"], views_per_update=case.spec["mini"]
    )


def assert_loosely_equal(ours: Tensor, theirs: Tensor) -> None:
    """bfloat16 Newton-Schulz is chaotic: only size and direction of the whole can be compared."""
    ours, theirs = ours.double().flatten(), theirs.double().flatten()
    relative_rms = (ours - theirs).norm() / theirs.norm()
    cosine = torch.dot(ours, theirs) / (ours.norm() * theirs.norm())
    assert relative_rms < 0.35
    assert cosine > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_float32_reconstruction(fixture_file, name: str) -> None:
    case = load_case(fixture_file(f"tttlrm/{name}.safetensors"))
    seen: dict[str, Tensor] = {}
    case.model.input_layernorm.register_forward_hook(lambda m, i, out: seen.update(embed=out))
    for index, block in enumerate(case.model.blocks):
        block.register_forward_hook(lambda m, i, out, k=f"tokens/{index}": seen.update({k: out[0]}))
    output = reconstruct(case)
    torch.testing.assert_close(seen["embed"], case.tensors["f32/embed"], rtol=0, atol=1e-5)
    for index in range(case.spec["n_layer"]):
        torch.testing.assert_close(
            seen[f"tokens/{index}"], case.tensors[f"f32/tokens/{index}"], rtol=0, atol=RAW_TOLERANCE
        )
        theirs = case.fast_weights("f32", index)
        assert max_difference(output.fast_weights[index], theirs) < FAST_WEIGHT_TOLERANCE
    torch.testing.assert_close(output.raw, case.tensors["f32/raw"], rtol=0, atol=RAW_TOLERANCE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a working CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_float32_reconstruction_on_a_gpu(fixture_file, name: str) -> None:
    case = load_case(fixture_file(f"tttlrm/{name}.safetensors"))
    case.model.cuda()
    case.tensors = {key: t.cuda() for key, t in case.tensors.items()}
    output = reconstruct(case)
    torch.testing.assert_close(output.raw, case.tensors["f32/raw"], rtol=0, atol=RAW_TOLERANCE)
    for index, ours in enumerate(output.fast_weights):
        assert max_difference(ours, case.fast_weights("f32", index)) < FAST_WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_newton_schulz_stays_near_the_released_run(fixture_file, name: str) -> None:
    path = fixture_file(f"tttlrm/{name}.safetensors")
    case = load_case(path, newton_schulz_dtype="bfloat16")
    output = reconstruct(case)
    assert output.fast_weights[0].w0.dtype == torch.float32
    assert_loosely_equal(output.raw[:, ::5], case.tensors["bf16/raw_every5"])
    for ours, theirs in zip(output.fast_weights[0], case.fast_weights("bf16", 0)):
        assert_loosely_equal(ours, theirs)
    # and it is a different computation from the float32 one, not a label
    assert (output.raw - case.tensors["f32/raw"]).abs().max() > RAW_TOLERANCE


@pytest.mark.parametrize("name", STREAMED)
def test_stream(fixture_file, name: str) -> None:
    case = load_case(fixture_file(f"tttlrm/{name}.safetensors"))
    state: ReconstructorState = case.model.initial_state(case.spec["B"])
    raws = []
    for batch in split_views(case.inputs, case.spec["stream"]):
        state, output = case.model.stream(state, *batch)
        raws.append(output.raw)
    torch.testing.assert_close(
        torch.cat(raws, dim=1)[:, ::5],
        case.tensors["stream_f32/raw_every5"],
        rtol=0,
        atol=RAW_TOLERANCE,
    )
    for index, layer in enumerate(state.layers):
        theirs = case.fast_weights("stream_f32", index)
        assert max_difference(layer.weights, theirs) < FAST_WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", STREAMED)
def test_first_layer_weights_do_not_depend_on_the_scan(fixture_file, name: str) -> None:
    case = load_case(fixture_file(f"tttlrm/{name}.safetensors"))
    state = case.model.initial_state(case.spec["B"])
    for batch in split_views(case.inputs, case.spec["stream"]):
        state, _ = case.model.stream(state, *batch)
    theirs = case.fast_weights("f32", 0)
    assert max_difference(state.layers[0].weights, theirs) < FAST_WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_rays_are_in_splat_order(fixture_file, name: str) -> None:
    """The released splats lie on our rays: their offset from the origin is parallel to them."""
    case = load_case(fixture_file(f"tttlrm/{name}.safetensors"))
    output = reconstruct(case)
    offset = case.tensors["f32/gauss_every5/xyz"] - output.ray_origins[:, ::5]
    along = (offset * output.ray_directions[:, ::5]).sum(-1, keepdim=True)
    assert (along > 0).all()
    aside = offset - along * output.ray_directions[:, ::5]
    assert aside.abs().max() < 2e-2
    # distance = 500 sigmoid(mean of the three raw depth channels), along the unit ray
    distance = 500 * torch.sigmoid(output.raw[:, ::5, :3].mean(-1, keepdim=True))
    torch.testing.assert_close(along, distance, rtol=0, atol=2e-2)


@pytest.mark.parametrize("index", range(3))
def test_newton_schulz(fixture_file, index: int) -> None:
    tensors = load_file(fixture_file("tttlrm/dev_unit_muon.safetensors"))
    gradient = tensors[f"{index}/G"]
    ours = newton_schulz(gradient)
    torch.testing.assert_close(ours, tensors[f"{index}/f32"], rtol=0, atol=2e-4)
    low = newton_schulz(gradient, torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert_loosely_equal(low, tensors[f"{index}/bf16"])

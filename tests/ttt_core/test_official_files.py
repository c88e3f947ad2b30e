"""Released checkpoints: sizes from shapes, every parameter covered, terms said, errors named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from official_cases import lact_parameters, one_head, tttlrm_file
from reconstructor_cases import random_views, tiny_model
from torch import Tensor

from ttt_core import CheckpointError, Reconstructor
from ttt_core.errors import PictureCheckpointError, UnknownCheckpointError
from ttt_core.official_files import QK_NORM_EPS, load_reconstructor, reconstructor_from_lact


def save(path: Path, tensors: dict[str, Tensor], **beside: object) -> Path:
    torch.save({"model": tensors, **beside}, path)
    return path


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"sh_degree": 3, "fast_weight_expansion": 4},
        {"layers": 3, "patch_size": 8, "sh_degree": 1},
        {"width": 24, "fast_weight_head_dim": 24, "attention_head_dim": 12, "sh_degree": 2},
        {"fast_weight_head_dim": 4},
    ],
)
def test_the_configuration_is_read_off_the_shapes(tmp_path: Path, sizes: dict) -> None:
    source = one_head(**sizes)
    model = load_reconstructor(tttlrm_file(tmp_path / "model.pt", source), qk_norm_eps=1.1920929e-7)
    assert model.config == source.config
    side = model.config.patch_size
    views = random_views(3, height=2 * side, width=3 * side)
    with torch.no_grad():
        assert torch.equal(model.reconstruct(*views).raw, source.reconstruct(*views).raw)


def test_released_weights_take_the_eps_that_they_were_trained_with(tmp_path: Path) -> None:
    path = tttlrm_file(tmp_path / "model.pt", one_head())
    assert load_reconstructor(path).config.qk_norm_eps == QK_NORM_EPS
    changed = load_reconstructor(path, newton_schulz_dtype="bfloat16")
    assert changed.config.newton_schulz_dtype == "bfloat16"


def test_the_model_is_independent_of_the_file(tmp_path: Path) -> None:
    path = tttlrm_file(tmp_path / "model.pt", one_head())
    model = load_reconstructor(path)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    source = one_head()
    tensors = {name: t.bfloat16() for name, t in source.state_dict().items()}
    model = load_reconstructor(save(tmp_path / "half.pt", tensors))
    for name, t in model.state_dict().items():
        assert t.dtype == torch.float32
        assert torch.equal(t, tensors[name].float())


def test_the_two_known_prefixes_are_left_aside_and_no_others(tmp_path: Path) -> None:
    state = dict(one_head().state_dict())
    extra = {
        "depth_anything.pretrained.cls_token": torch.zeros(3),
        "perceptual_loss_module.vgg.0.weight": torch.zeros(2, 2),
    }
    load_reconstructor(save(tmp_path / "extra.pt", {**state, **extra}))
    for surprise in ("discriminator.weight", "blocks.0.module_list.1.f.w3", "depth_anythingx"):
        path = save(tmp_path / "more.pt", {**state, surprise: torch.zeros(3)})
        with pytest.raises(CheckpointError, match=f"1 unknown .{surprise}"):
            load_reconstructor(path)


def test_no_parameter_may_be_missing(tmp_path: Path) -> None:
    state = dict(one_head(layers=1).state_dict())
    for name in state:
        lacking = {other: t for other, t in state.items() if other != name}
        with pytest.raises(CheckpointError, match=f"(1 missing .|lacks ){name}"):
            load_reconstructor(save(tmp_path / "lacking.pt", lacking))


def test_a_missing_block(tmp_path: Path) -> None:
    state = dict(one_head(layers=3).state_dict())
    gap = {name: t for name, t in state.items() if not name.startswith("blocks.1.")}
    with pytest.raises(CheckpointError, match=r"missing .blocks.1.*unknown .blocks.2"):
        load_reconstructor(save(tmp_path / "gap.pt", gap))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("tokenizer.1.weight", (16, 100), r"a token has 12 channels"),
        ("tokenizer.1.weight", (16, 0), r"expected 2 dimensions"),
        ("tokenizer.1.weight", (16,), r"expected 2 dimensions"),
        ("decoder.1.weight", (100, 16), r"no number of splat channels for patches of 4x4"),
        ("blocks.0.module_list.1.f.w0", (1, 8, 16), r"does not fit width 16"),
        ("blocks.0.module_list.1.f.w0", (1, 16, 17), r"does not fit width 16"),
        ("blocks.0.module_list.0.f.q_norm.weight", (5,), r"attention_head_dim is 5"),
        ("blocks.1.module_list.1.f.w2", (1, 16, 48), r"1 of another shape .*w2 \(1, 16, 48\)"),
        ("blocks.1.module_list.2.f.c_fc.weight", (64, 17), r"of another shape .*c_fc"),
    ],
)
def test_wrong_shapes(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    state = {**one_head().state_dict(), name: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        load_reconstructor(save(tmp_path / "wrong.pt", state))


def test_wrong_values(tmp_path: Path) -> None:
    state = dict(one_head().state_dict())
    name = "blocks.1.module_list.2.f.c_fc.weight"
    broken = {**state, name: torch.full_like(state[name], torch.nan)}
    with pytest.raises(CheckpointError, match=f"not finite in {name}"):
        load_reconstructor(save(tmp_path / "nan.pt", broken))
    with pytest.raises(CheckpointError, match=rf"1 of another type .{name} torch.int8"):
        load_reconstructor(save(tmp_path / "int.pt", {**state, name: state[name].to(torch.int8)}))


def test_the_licence_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tttlrm_file(tmp_path / "model.pt", one_head())
    with caplog.at_level(logging.WARNING):
        load_reconstructor(path)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text and "Adobe Research License" in caplog.text
    assert "non-commercial" in caplog.text


def test_a_training_checkpoint_gives_its_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = one_head()
    path = tttlrm_file(tmp_path / "train.pt", source, optimizer={"state": {}}, lr_scheduler={})
    with caplog.at_level(logging.WARNING):
        model = load_reconstructor(path)
    assert torch.equal(model.decoder[1].weight, source.decoder[1].weight)
    assert "training checkpoint" in caplog.text and "optimizer and lr_scheduler" in caplog.text


def test_lact_is_refused_where_splats_are_wanted(tmp_path: Path) -> None:
    path = save(tmp_path / "lact.pt", lact_parameters(one_head()))
    with pytest.raises(PictureCheckpointError, match=r"lact.pt.*pictures.*no decoder.*training"):
        load_reconstructor(path)


def test_lact_starts_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = one_head(fast_weight_expansion=2)
    path = save(tmp_path / "lact.pt", lact_parameters(source), optimizer={}, now_iters=7)
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING):
        model = reconstructor_from_lact(path, sh_degree=1)
    assert "Adobe Research License" in caplog.text and "trained from them" in caplog.text
    assert isinstance(model, Reconstructor)
    assert model.config.sh_degree == 1 and model.config.fast_weight_expansion == 2
    for name, t in source.state_dict().items():
        if name != "decoder.1.weight":
            assert torch.equal(model.state_dict()[name], t)
    decoder = model.decoder[1].weight
    assert 0.015 < float(decoder.detach().std()) < 0.025
    out = model.reconstruct(*random_views(2))
    out.raw.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_lact_files_that_cannot_start_a_training(tmp_path: Path) -> None:
    tensors = lact_parameters(one_head())
    lacking = {k: t for k, t in tensors.items() if k != "image_token_decoder.1.weight"}
    for wrong, message in (
        (lacking, "image_token_decoder.1.weight is missing"),
        ({**tensors, "image_token_decoder.1.weight": torch.ones(3, 16)}, r"is \(3, 16\)"),
        ({**tensors, "surprise": torch.ones(1)}, "1 unknown .surprise"),
        (lact_parameters(tiny_model()), "2 fast-weight heads"),
    ):
        with pytest.raises(CheckpointError, match=message):
            reconstructor_from_lact(save(tmp_path / "lact.pt", wrong))
    with pytest.raises(UnknownCheckpointError, match="is a tttLRM file"):
        reconstructor_from_lact(tttlrm_file(tmp_path / "tttlrm.pt", one_head()))

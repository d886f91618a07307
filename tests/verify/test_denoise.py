"""The reference step: equal files give no difference, and what differs is seen where it is."""

from math import inf, isnan
from pathlib import Path

import pytest
import torch

from ckptool.verify.denoise import Settings
from fixtures.models import state_dict
from fixtures.torchfile import save_zip
from tests.verify.models import FACTOR, QUICK, changed, halved, pair, ran, save, tensors

UNET = "model.diffusion_model."
# Architecture, and the part of it that is run: whole checkpoints would run their VAE again and again.
PARTS = (
    ("sd1", ""),
    ("sd2-eps", "cond_stage_model."),
    ("sd2.1-v", UNET),
    ("sdxl-base", "conditioner."),
    ("sdxl-base", UNET),
    ("sdxl-refiner", UNET),
    ("sdxl-refiner", "conditioner."),
    ("sd1-inpainting", UNET),
    ("vae", ""),
    ("diffusers-unet-sdxl", ""),
    ("diffusers-vae", ""),
    ("diffusers-te-sd1", ""),
    ("diffusers-te-sd2", ""),
    ("diffusers-te-sdxl-2", ""),
    ("controlnet-sd1", ""),
    ("diffusers-controlnet-sdxl", ""),
)


@pytest.mark.parametrize(("architecture", "part"), PARTS)
def test_a_copy_in_another_place_gives_no_difference(tmp_path: Path, architecture: str, part: str) -> None:
    values = tensors(architecture, only=part)
    result = pair(tmp_path, values, values, Settings(steps=1, size=16))
    assert result
    for component in result.values():
        assert component.skipped is None
        assert (component.max_abs, component.relative_l2, component.psnr) == (0, 0, inf)
        assert component.parted is None
        assert component.original.any()


def test_a_conversion_gives_no_difference(tmp_path: Path) -> None:
    save_zip(state_dict("sd1", FACTOR), tmp_path / "original.ckpt")
    copy = save(tensors("sd1"), tmp_path / "copy.safetensors")
    result = ran(tmp_path / "original.ckpt", copy)
    assert set(result) == {"unet", "vae", "text_encoder"}
    assert all(component.max_abs == 0 for component in result.values())


def test_an_fp16_copy_is_as_near_as_rounding_allows(tmp_path: Path) -> None:
    values = tensors("sd1", 16)
    result = pair(tmp_path, values, halved(values))
    for component in result.values():
        assert 1e-5 < component.relative_l2 < 1e-3
        assert component.psnr > 70
        assert 0.999 < component.cosine < 1


def test_the_block_where_two_files_part_is_named(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    name = f"{UNET}output_blocks.4.1.transformer_blocks.0.attn2.to_v.weight"

    def wrong(tensor: torch.Tensor) -> torch.Tensor:
        tensor[0, 0] = 3
        return tensor

    result = pair(tmp_path, values, changed(values, name, wrong))["unet"]
    assert result.relative_l2 > 0
    assert result.parted == "up_blocks.1"
    errors = dict(result.blocks)
    assert errors["mid_block"] == errors["up_blocks.0"] == 0 < errors["up_blocks.3"]


def test_every_step_is_reported_and_errors_add_up(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    result = pair(tmp_path, values, halved(values), Settings(steps=3, size=16))["unet"]
    assert [step.name for step in result.steps] == ["t=999", "t=666", "t=332", "latent"]
    assert result.original.shape == (1, 4, 16, 16)


def test_the_same_two_files_give_the_same_figures(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    once, again = (pair(tmp_path, values, halved(values))["unet"] for _ in range(2))
    assert (once.relative_l2, once.blocks, once.activations) == (again.relative_l2, again.blocks, again.activations)


def test_the_seed_chooses_the_noise(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    one = pair(tmp_path, values, halved(values))["unet"]
    two = pair(tmp_path, values, halved(values), Settings(steps=2, size=16, seed=1))["unet"]
    assert one.relative_l2 != two.relative_l2


@pytest.mark.parametrize("kind", ["v", "edm"])
def test_the_sampler_follows_what_the_network_predicts(tmp_path: Path, kind: str) -> None:
    values = tensors("sdxl-base", only=UNET)
    marker = {"v_pred": torch.zeros(0)} if kind == "v" else {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}
    plain = pair(tmp_path, values, values)["unet"]
    result = pair(tmp_path, {**values, **marker}, {**values, **marker})["unet"]
    assert ("prediction", kind) in result.settings
    assert result.max_abs == 0
    assert (result.original != plain.original).any()


def test_a_float_list_of_positions_is_cut_off_as_loaders_do(tmp_path: Path) -> None:
    values = tensors("sd1", only="cond_stage_model.")
    name = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    damaged = torch.arange(77.0)[None]
    damaged[0, 76] = 75.9975
    result = pair(tmp_path, changed(values, name, lambda _: damaged), values)["text_encoder"]
    assert result.relative_l2 > 0
    assert result.parted == "embeddings"


def test_a_network_that_lacks_a_tensor_is_not_run(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    gone = {name: tensor for name, tensor in values.items() if not name.endswith("input_blocks.1.1.proj_out.weight")}
    result = pair(tmp_path, values, gone)["unet"]
    assert result.skipped is not None
    assert "the candidate" in result.skipped
    assert "attentions.0.proj_out.weight" in result.skipped
    assert result.relative_l2 == inf


def test_an_architecture_that_is_not_known_is_skipped_with_the_reason(tmp_path: Path) -> None:
    values = {"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(128), "img_in.weight": torch.ones(8, 64)}
    (result,) = pair(tmp_path, values, values).values()
    assert result.skipped is not None
    assert isnan(result.relative_l2)


@pytest.mark.parametrize("name", ["conv_in.weight", "down_blocks.1.resnets.0.conv1.weight"])
def test_hostile_widths_are_refused_and_not_built(tmp_path: Path, name: str) -> None:
    values = tensors("diffusers-unet-sd1")
    result = pair(tmp_path, values, changed(values, name, lambda t: t[:0]), QUICK)["unet"]
    assert result.skipped is not None


def test_nan_in_both_is_no_difference_and_in_one_is_all_of_it(tmp_path: Path) -> None:
    values = tensors("vae")
    broken = changed(values, "decoder.conv_out.bias", lambda t: t.fill_(torch.nan))
    assert pair(tmp_path, broken, broken)["vae"].max_abs == 0
    assert pair(tmp_path, values, broken)["vae"].relative_l2 == inf

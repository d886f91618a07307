"""The fp16 probe: layers whose activations half precision has no number for are found and named."""

from pathlib import Path

import pytest
import torch

from ckptool.verify.denoise import ComponentResult
from ckptool.verify.probe import HALF_MAX
from tests.verify.models import changed, pair, tensors

# Where an overflow is planted, which layer has to be named, and in which component.
PLANTED = (
    ("sd1", "first_stage_model.", "decoder.up.1.block.0.conv2.weight", "vae"),
    ("sd1", "model.diffusion_model.", "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight", "unet"),
    ("sd1", "cond_stage_model.", "transformer.text_model.encoder.layers.5.mlp.fc1.weight", "text_encoder"),
    ("sdxl-base", "conditioner.embedders.1.", "model.transformer.resblocks.7.mlp.c_fc.weight", "text_encoder_2"),
    ("diffusers-vae", "", "decoder.conv_in.weight", "vae"),
)


def overflowing(result: ComponentResult) -> list[str]:
    return [layer for layer, largest in result.activations if largest > HALF_MAX]


@pytest.mark.parametrize(("architecture", "part", "name", "component"), PLANTED)
def test_a_planted_overflow_is_named_as_the_file_names_it(
    tmp_path: Path, architecture: str, part: str, name: str, component: str
) -> None:
    values = tensors(architecture, only=part)
    loud = changed(values, part + name, lambda tensor: tensor * 1e9)
    assert (part + name).removesuffix(".weight") in overflowing(pair(tmp_path, loud, loud)[component])


def test_weights_that_fit_half_precision_may_still_overflow(tmp_path: Path) -> None:
    """What no look at the weights can see: each is far below the limit, and what they make is beyond it."""
    values = tensors("vae")
    loud = {name: t * 600 if name.endswith("conv2.weight") and ".up.0." in name else t for name, t in values.items()}
    loud = {name: torch.ones_like(t) * 900 if name.endswith("norm2.weight") else t for name, t in loud.items()}
    assert max(float(t.abs().max()) for t in loud.values()) < 1000
    assert overflowing(pair(tmp_path, loud, loud)["vae"])


def test_a_healthy_model_overflows_nowhere(tmp_path: Path) -> None:
    values = tensors("sd1", only="first_stage_model.")
    result = pair(tmp_path, values, values)["vae"]
    assert not overflowing(result)
    names = [layer for layer, _ in result.activations]
    assert "first_stage_model.decoder.conv_in" in names
    assert all(name.startswith("first_stage_model.") for name in names)


def test_every_layer_with_weights_is_looked_at(tmp_path: Path) -> None:
    values = tensors("vae")
    names = {layer for layer, _ in pair(tmp_path, values, values)["vae"].activations}
    layers = {name.rpartition(".")[0] for name in values}
    assert layers <= names

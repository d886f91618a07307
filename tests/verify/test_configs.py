"""A network is built from names and shapes alone, and has exactly the parameters that the file has."""

from dataclasses import replace
from math import prod

import pytest

from ckptool.tensor import Inline, Plan, Tensor
from ckptool.verify.configs import MOST_BLOCKS, Config, Unknown, text_config, unet_config
from ckptool.verify.ldm_extra import Weights, components_of
from ckptool.verify.networks import bare, canonical, config_of, fits
from fixtures import manifests

NETWORKS = tuple(
    name
    for name in manifests.names()
    if not any(part in name for part in ("lora", "locon", "lycoris", "textual", "hyper"))
)
# Heads by level, as the published configurations have them.
HEADS = {
    "sd1": (8, 8, 8, 8), "sd2-eps": (5, 10, 20, 20), "sdxl-base": (5, 10, 20), "sdxl-refiner": (6, 12, 24, 24),
    "diffusers-unet-sdxl": (5, 10, 20), "sd1-inpainting": (8, 8, 8, 8),
}  # fmt: skip
INPUTS = {"sd1-inpainting": 9, "sd2-inpainting": 9, "sd1": 4, "sdxl-refiner": 4}


def weights_of(architecture: str, factor: int = 1) -> dict[str, Weights]:
    manifest = manifests.scaled(manifests.load(architecture), factor)
    return components_of(Plan("test", tuple(Tensor(n, d, s, Inline(b"")) for n, (d, s) in manifest.items())))


def unet_of(architecture: str) -> Config:
    return config_of("unet", weights_of(architecture)["unet"])


@pytest.mark.parametrize("factor", [1, 16])
@pytest.mark.parametrize("architecture", NETWORKS)
def test_every_known_network_is_built_with_the_parameters_of_its_file(architecture: str, factor: int) -> None:
    components = weights_of(architecture, factor)
    assert components
    for component, weights in components.items():
        module = bare(component, config_of(component, weights))
        parameters = {canonical(name): tuple(p.shape) for name, p in module.named_parameters()}
        assert weights.keys() - parameters.keys() <= {"embeddings.position_ids"}
        for name, shape in parameters.items():
            assert fits(weights[name].shape, shape, weights[name].transposed), name
            assert prod(shape) == prod(weights[name].shape)


@pytest.mark.parametrize("architecture", HEADS)
def test_attention_has_the_heads_of_the_architecture(architecture: str) -> None:
    assert unet_of(architecture).arguments["attention_head_dim"] == HEADS[architecture]


@pytest.mark.parametrize("architecture", INPUTS)
def test_the_inputs_are_those_of_the_first_convolution(architecture: str) -> None:
    assert unet_of(architecture).arguments["in_channels"] == INPUTS[architecture]


def test_sdxl_and_its_refiner_are_told_sizes_and_pooled_text() -> None:
    base, refiner = unet_of("sdxl-base"), unet_of("sdxl-refiner")
    assert (base.time_ids, base.pooled) == (6, 1280)
    assert (refiner.time_ids, refiner.pooled) == (5, 1280)
    assert base.arguments["transformer_layers_per_block"] == [1, 2, 10]


def test_norms_have_32_groups_or_as_many_as_fit() -> None:
    assert unet_of("sd1").groups == 32
    assert config_of("unet", weights_of("sd1", 16)["unet"]).groups == 20


@pytest.mark.parametrize(
    ("architecture", "activation"),
    [("sd1", "quick_gelu"), ("sd2-eps", "gelu"), ("diffusers-te-sd2", "gelu"), ("diffusers-te-sd1", "quick_gelu")],
)
def test_only_clip_l_has_the_quick_gelu(architecture: str, activation: str) -> None:
    found = config_of("text_encoder", weights_of(architecture)["text_encoder"])
    assert found.arguments["hidden_act"] == activation


def test_a_unet_with_less_attention_is_built_as_ssd_1b_is() -> None:
    """SDXL without attention in the middle, and fewer transformer blocks layer by layer."""

    def stays(name: str) -> bool:
        if name.startswith("mid_block.") and not name.startswith("mid_block.resnets.0."):
            return False
        parts = name.split(".")
        if "transformer_blocks" not in parts:
            return True
        block = int(parts[parts.index("transformer_blocks") + 1])
        most = {"down": {1: (2, 2), 2: (4, 4)}, "up": {0: (4, 4, 10), 1: (2, 1, 1)}}[parts[0].split("_")[0]]
        return block < most[int(parts[1])][int(parts[3])]

    manifest = manifests.scaled(manifests.load("diffusers-unet-sdxl"), 16)
    tensors = tuple(Tensor(n, d, s, Inline(b"")) for n, (d, s) in manifest.items() if stays(n))
    weights = components_of(Plan("test", tensors))["unet"]
    module = bare("unet", config_of("unet", weights))
    assert {name for name, _ in module.named_parameters()} == set(weights)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"conv_in.weight": (4, 4, 3, 3)},
        {f"down_blocks.{n}.resnets.0.conv1.weight": (8, 8, 3, 3) for n in range(MOST_BLOCKS + 9)},
        {"down_blocks.0.resnets.0.conv1.weight": ()},
        {"down_blocks.0.resnets.0.conv1.weight": (0, 1, 3, 3)},
        {"down_blocks.0.resnets.0.conv1.weight": (1 << 40, 1, 3, 3)},
        {"." * 1000: (1,), "a" + ".0" * 5000: (2,)},
    ],
)
def test_what_is_no_network_is_said_to_be_none(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(Unknown):
        unet_config(shapes)
    with pytest.raises(Unknown):
        text_config(shapes, False)


@pytest.mark.parametrize(
    ("architecture", "component", "name", "shape"),
    [
        ("vae", "vae", "encoder.conv_in.weight", (128, 60_000, 3, 3)),
        ("vae", "vae", "decoder.conv_out.weight", (60_000, 128, 3, 3)),
        ("diffusers-te-sd1", "text_encoder", "embeddings.position_embedding.weight", (60_000, 768)),
        ("controlnet-sd1", "control", "controlnet_cond_embedding.conv_in.weight", (60_000, 3, 3, 3)),
        ("sd1", "unet", "conv_in.weight", (320, 60_000, 3, 3)),
    ],
)
def test_a_small_file_cannot_claim_a_layer_that_takes_all_memory(
    architecture: str, component: str, name: str, shape: tuple[int, ...]
) -> None:
    weights = weights_of(architecture)[component]
    with pytest.raises(Unknown, match="wide"):
        config_of(component, weights | {name: replace(weights[name], shape=shape)})

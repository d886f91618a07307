"""Every other row of the facts: variants of Stable Diffusion, the networks after it, and adapters in every naming."""

import pytest

from ckptool.identify.families import BASES, FAMILIES, TITLES
from fixtures import manifests
from fixtures.families import (
    BLOCK,
    CHECKPOINTS,
    NAMINGS,
    NETWORKS,
    WIDTHS,
    P,
    Shapes,
    adapter,
    encoder,
    of,
    vae,
)
from tests.identify.knowing import known, load

WHOLE = [name for name in CHECKPOINTS if name != "sd2-upscaler"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_variants_of_stable_diffusion_are_known(name: str) -> None:
    base, variant, prediction, build = CHECKPOINTS[name]
    found = known(build())
    assert (found.kind, found.base, found.variant) == ("checkpoint", base, variant)
    assert found.prediction.type == prediction
    assert found.problems == ()


@pytest.mark.parametrize("factor", [8, 16])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_variants_are_known_scaled_down(name: str, factor: int) -> None:
    base, variant, _, build = CHECKPOINTS[name]
    found = known(manifests.scaled(build(), factor))
    assert (found.kind, found.base, found.variant) == ("checkpoint", base, variant)


@pytest.mark.parametrize("prefix", [P, "diffusion_model.", "model.", "module.", ""])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_after_stable_diffusion_are_known_alone(name: str, prefix: str) -> None:
    base, variant, shapes = NETWORKS[name]
    found = known(of(shapes, prefix))
    assert (found.kind, found.base, found.variant) == ("unet", base, variant)


@pytest.mark.parametrize("factor", [2, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_after_stable_diffusion_are_known_scaled_down(name: str, factor: int) -> None:
    base, variant, shapes = NETWORKS[name]
    found = known(manifests.scaled(of(shapes, P), factor))
    assert (found.base, found.variant) == (base, variant)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_encoders_beside_it_is_a_checkpoint(name: str) -> None:
    base, _, shapes = NETWORKS[name]
    whole = of(shapes, P) | vae("first_stage_model.", 16) | encoder("text_encoders.clip_g.transformer.", 1280)
    assert (known(whole).kind, known(whole).base) == ("checkpoint", base)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_transformer_in_a_diffusers_folder_is_known(name: str) -> None:
    base, _, shapes = NETWORKS[name]
    found = known(of(shapes, "transformer.") | vae("vae.", 16))
    assert (found.kind, found.base) == ("checkpoint", base)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.base)
def test_every_family_has_a_builder_and_a_title(family: object) -> None:
    base = getattr(family, "base", "")
    assert base in TITLES
    assert base in BASES
    assert base in {row[0] for row in NETWORKS.values()} | {row[0] for row in CHECKPOINTS.values()}


@pytest.mark.parametrize("base", WIDTHS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_adapters_are_known_in_every_naming(naming: str, base: str) -> None:
    layer, endings = NAMINGS[naming]
    found = known(adapter({layer: WIDTHS[base]}, endings))
    assert (found.kind, found.algorithm, found.base) == ("lora", "lora", base)


@pytest.mark.parametrize("factor", [8, 16])
@pytest.mark.parametrize("base", WIDTHS)
def test_an_adapter_of_one_layer_is_known_by_ratio(base: str, factor: int) -> None:
    layer, endings = NAMINGS["peft"]
    outputs, inputs = WIDTHS[base]
    found = known(adapter({layer: (outputs // factor, inputs // factor)}, endings))
    assert found.base == base


K = "lora_unet_" + BLOCK.replace(".", "_")
ALGORITHMS: dict[str, tuple[str, Shapes]] = {
    "lora": ("lora", {f"{K}.lora_down.weight": (8, 1024), f"{K}.lora_up.weight": (640, 8), f"{K}.alpha": ()}),
    "locon": ("locon", {
        f"{K}.lora_down.weight": (8, 1024), f"{K}.lora_up.weight": (640, 8),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": (8, 320, 3, 3),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": (320, 8, 1, 1),
    }),
    "tucker": ("locon", {
        f"{K}.lora_down.weight": (8, 1024), f"{K}.lora_up.weight": (640, 8),
        "lora_unet_conv_in.lora_down.weight": (8, 4, 1, 1), "lora_unet_conv_in.lora_mid.weight": (8, 8, 3, 3),
        "lora_unet_conv_in.lora_up.weight": (320, 8, 1, 1),
    }),
    "loha": ("loha", {
        f"{K}.hada_w1_a": (640, 8), f"{K}.hada_w1_b": (8, 1024),
        f"{K}.hada_w2_a": (640, 8), f"{K}.hada_w2_b": (8, 1024),
    }),
    "lokr": ("lokr", {f"{K}.lokr_w1": (8, 8), f"{K}.lokr_w2": (80, 128)}),
    "lokr-factored": ("lokr", {
        f"{K}.lokr_w1_a": (8, 4), f"{K}.lokr_w1_b": (4, 16), f"{K}.lokr_w2_a": (80, 4), f"{K}.lokr_w2_b": (4, 64),
    }),
    "dora": ("dora", {
        f"{K}.lora_down.weight": (8, 1024), f"{K}.lora_up.weight": (640, 8), f"{K}.dora_scale": (640, 1),
    }),
    "dora-peft": ("dora", {
        f"unet.{BLOCK}.lora_A.weight": (8, 1024), f"unet.{BLOCK}.lora_B.weight": (640, 8),
        f"unet.{BLOCK}.lora_magnitude_vector": (640,),
    }),
    "glora": ("glora", {
        f"{K}.a1.weight": (1024, 8), f"{K}.a2.weight": (8, 1024),
        f"{K}.b1.weight": (640, 8), f"{K}.b2.weight": (8, 1024),
    }),
    "full": ("full", {f"{K}.diff": (640, 1024), f"{K}.diff_b": (640,)}),
    "full-with-norms": ("full", {f"{K}.diff": (640, 1024), "lora_unet_conv_norm_out.w_norm": (320,)}),
}  # fmt: skip


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_is_known_and_its_base_from_the_width_of_the_text(name: str) -> None:
    algorithm, shapes = ALGORITHMS[name]
    found = known(of(shapes))
    assert (found.algorithm, found.base) == (algorithm, "sd2")
    assert found.kind == ("lora" if algorithm in ("lora", "locon") else "lycoris")


def test_the_scripts_that_wrote_a_locon_tell_what_it_is_called() -> None:
    assert known(of(ALGORITHMS["locon"][1]), {"ss_network_module": "lycoris.kohya"}).kind == "lycoris"


TE = "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
WITHOUT_INPUTS: dict[str, tuple[str, Shapes]] = {
    "ia3": ("ia3", {f"{K}.weight": (640, 1), f"{K}.on_input": ()}),
    "oft": ("oft", {f"{K}.oft_blocks": (4, 160, 160), f"{K}.alpha": ()}),
    "boft": ("boft", {f"{K}.oft_blocks": (2, 4, 160, 160), f"{K}.alpha": ()}),
}


@pytest.mark.parametrize("name", WITHOUT_INPUTS)
def test_algorithms_that_say_no_input_width_are_known_and_their_base_is_no_guess(name: str) -> None:
    algorithm, shapes = WITHOUT_INPUTS[name]
    found = known(of(shapes))
    assert (found.kind, found.algorithm, found.base) == ("lycoris", algorithm, "ambiguous")
    assert {"sd1", "sd2"} <= set(found.candidates)


def test_an_orthogonal_adapter_of_a_text_encoder_has_its_width_for_base() -> None:
    assert known(of({f"{TE}.oft_blocks": (4, 256, 256)})).base == "sd2"
    assert known(of({f"{TE}.oft_blocks": (4, 192, 192)})).base == "sd1"


@pytest.mark.parametrize(
    ("layer", "base"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "flux"),
        ("transformer.single_transformer_blocks.0.attn.to_k", "flux"),
        ("lora_unet_double_blocks_19_img_attn_qkv", "hunyuan-video"),
        ("lora_unet_joint_blocks_0_context_block_attn_qkv", "sd3"),
        ("transformer.transformer_blocks.0.attn.add_k_proj", "sd3"),
        ("diffusion_model.blocks.0.self_attn.q", "wan"),
        ("transformer.transformer_blocks.0.img_mlp.net.2", "qwen-image"),
        ("diffusion_model.double_stream_blocks.0.block.attn1.to_k", "hidream"),
        ("transformer.joint_transformer_blocks.0.attn.to_k", "auraflow"),
    ],
)
def test_adapters_of_networks_without_levels_are_known(layer: str, base: str) -> None:
    found = known(adapter({layer: (3072, 3072)}, {"down": ".lora_A.weight", "up": ".lora_B.weight"}))
    assert (found.kind, found.base) == ("lora", base)


def test_a_transformer_with_wide_keys_is_not_taken_for_sdxl() -> None:
    layer = "transformer.transformer_blocks.0.attn2.to_k"
    found = known(adapter({layer: (2048, 2048)}, {"down": ".lora_A.weight", "up": ".lora_B.weight"}))
    assert (found.base, found.candidates) == ("ambiguous", ("pixart", "ltxv"))


def test_text_encoder_adapters_alone_are_known() -> None:
    sd1 = {n: d for n, d in load("lora-kohya-sd1").items() if n.startswith("lora_te")}
    sd2 = {n: d for n, d in load("lora-kohya-sd2", 16).items() if n.startswith("lora_te")}
    sdxl = {n: d for n, d in load("lora-kohya-sdxl", 16).items() if n.startswith("lora_te")}
    assert [known(part).base for part in (sd1, sd2, sdxl)] == ["sd1", "sd2", "sdxl"]


def test_embeddings_for_several_encoders_are_known_by_their_names() -> None:
    assert known(of({"clip_l": (4, 768), "clip_g": (4, 1280)})).base == "sdxl"
    assert known(of({"clip_l": (4, 768), "t5xxl": (4, 4096)})).base == "flux"
    assert known(of({"clip_l": (4, 768), "clip_g": (4, 1280), "t5xxl": (4, 4096)})).base == "sd3"


@pytest.mark.parametrize("prefix", ["module.", "net."])
@pytest.mark.parametrize("name", ["lora-kohya-sd2", "lora-kohya-sdxl", "lycoris-lokr-sd1"])
def test_adapters_are_known_behind_what_stands_before_every_name(name: str, prefix: str) -> None:
    plain, wrapped = known(load(name, 16)), known(load(name, 16), prefix=prefix)
    assert (wrapped.kind, wrapped.algorithm, wrapped.base) == (plain.kind, plain.algorithm, plain.base)


def test_distilled_models_that_are_not_known_get_no_name_of_one() -> None:
    middle = {name: d for name, d in load("sdxl-base").items() if "middle_block.1." not in name}
    assert (known(middle).base, known(middle).variant) == ("sdxl", "distilled")
    assert any("no attention in the middle" in line for line in known(middle).evidence)


@pytest.mark.parametrize("prefix", ["unet_ema.", "ema_model.", "state_dict_ema.model.diffusion_model."])
def test_an_average_alone_is_known(prefix: str) -> None:
    layout = "sdxl-base" if "diffusion" in prefix else "diffusers-unet-sdxl"
    unet = {n.removeprefix(P): d for n, d in load(layout).items() if layout != "sdxl-base" or n.startswith(P)}
    assert (known(unet, prefix=prefix).kind, known(unet, prefix=prefix).base) == ("unet", "sdxl")


def test_several_tokens_in_one_file_are_an_embedding() -> None:
    assert known(of({"<a>": (768,), "<b>": (2, 768)})).base == "sd1"
    assert known(of({"text_encoders_0": (2, 768), "text_encoders_1": (2, 1280)})).base == "sdxl"


def test_an_embedding_under_a_plain_token_is_known() -> None:
    assert known(of({"sks": (1024,)})).kind == "textual-inversion"
    assert known(of({"sks.weight": (1024, 1024)})).kind == "unknown"


def tiny(linear: bool, context: int, blocks: int = 1) -> Shapes:
    """A UNet of two levels with 32 and 64 channels, as diffusers' own tests use."""
    shapes: Shapes = {"conv_in.weight": (32, 4, 3, 3), "time_embedding.linear_1.weight": (128, 32)}
    for place in ("down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0"):
        shapes[f"{place}.proj_in.weight"] = (64, 64) if linear else (64, 64, 1, 1)
        for number in range(blocks):
            shapes[f"{place}.transformer_blocks.{number}.attn2.to_k.weight"] = (64, context)
    return shapes


@pytest.mark.parametrize(
    ("shapes", "base"),
    [
        (tiny(False, 32), "sd1"),
        (tiny(False, 768), "sd1"),
        (tiny(True, 1024), "sd2"),
        (tiny(True, 2048), "sdxl"),
        (tiny(True, 64, 2) | {"add_embedding.linear_1.weight": (128, 80)}, "sdxl"),
        (tiny(True, 32), "ambiguous"),
    ],
)
def test_networks_of_two_levels_are_known_by_layers_and_not_by_places(shapes: Shapes, base: str) -> None:
    assert (known(of(shapes)).kind, known(of(shapes)).base) == ("unet", base)

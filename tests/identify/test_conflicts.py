"""Where signs contradict each other or are too few, the answer is `ambiguous`, and what contradicts is told."""

from random import Random

import pytest

from ckptool.identify.identify import Folder, identify
from fixtures import manifests
from fixtures.families import diffusers, of
from fixtures.manifests import Manifest
from tests.identify.knowing import known, load, plan_of

P = "model.diffusion_model."


def widened(manifest: Manifest, width: int) -> Manifest:
    """The same with another width of text."""
    return {
        name: (dtype, (shape[0], width) if "attn2.to_" in name and name.endswith(("k.weight", "v.weight")) else shape)
        for name, (dtype, shape) in manifest.items()
    }


@pytest.mark.parametrize(
    ("name", "width", "candidates"),
    [("sd1", 1024, {"sd1", "sd2"}), ("sd2-eps", 768, {"sd1", "sd2"}), ("sd1", 2048, {"sd1", "sdxl"})],
)
def test_a_width_against_the_structure_is_ambiguous(name: str, width: int, candidates: set[str]) -> None:
    found = known(widened(load(name), width))
    assert found.base == "ambiguous"
    assert candidates <= set(found.candidates)
    assert any("exclude each other" in problem and str(width) in problem for problem in found.problems)


def test_a_text_encoder_of_another_base_is_a_conflict() -> None:
    unet = {name: d for name, d in load("sd1").items() if not name.startswith("cond_stage_model.")}
    other = {name: d for name, d in load("sd2-eps").items() if name.startswith("cond_stage_model.")}
    found = known(unet | other)
    assert (found.kind, found.base) == ("checkpoint", "ambiguous")
    assert set(found.candidates) == {"sd1", "sd2"}
    assert any("cond_stage_model.model." in problem for problem in found.problems)


def test_two_widths_of_text_in_one_network_are_a_conflict() -> None:
    mixed = load("diffusers-unet-sd1")
    name = "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight"
    found = known(mixed | {name: ("F32", (320, 1024))})
    assert found.base == "ambiguous"
    assert {"sd1", "sd2"} <= set(found.candidates)
    assert found.problems


def test_an_adapter_named_for_sdxl_with_the_width_of_sd1_is_a_conflict() -> None:
    te = {name: d for name, d in load("lora-kohya-sdxl").items() if name.startswith("lora_te")}
    unet = {name: d for name, d in load("lora-kohya-sd1").items() if name.startswith("lora_unet")}
    found = known(te | unet)
    assert found.base == "ambiguous"
    assert {"sd1", "sdxl"} <= set(found.candidates)
    assert found.problems


def attention_to_itself(name: str, *blocks: str) -> Manifest:
    return {
        key: described
        for key, described in load(name).items()
        if key.startswith("lora_unet") and "attn2" not in key and any(f"transformer_blocks_{n}_" in key for n in blocks)
    }


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("lora-kohya-sd1", "0"), ("lora-kohya-sd2", "0"), ("lora-kohya-sdxl", "0"), ("lora-kohya-sdxl", "01")],
)
def test_adapters_without_text_and_without_a_third_block_are_ambiguous(name: str, blocks: str) -> None:
    found = known(attention_to_itself(name, *blocks))
    assert (found.kind, found.base) == ("lora", "ambiguous")
    assert len(found.candidates) > 1
    assert name.rpartition("-")[2] in found.candidates


@pytest.mark.parametrize("blocks", ["012", "0123456789", "2"])
@pytest.mark.parametrize("factor", [1, 16])
def test_adapters_without_text_but_with_a_third_block_are_for_sdxl(blocks: str, factor: int) -> None:
    found = known(manifests.scaled(attention_to_itself("lora-kohya-sdxl", *blocks), factor))
    assert (found.kind, found.base) == ("lora", "sdxl")


def test_adapters_of_convolutions_alone_are_ambiguous() -> None:
    convs = {n: d for n, d in load("locon-kohya-sd1").items() if "_resnets_" in n}
    found = known(convs)
    assert (found.algorithm, found.base, found.candidates) == ("locon", "ambiguous", ("sd1", "sd2", "sdxl"))


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        ("lora-kohya-sd1", {"ss_base_model_version": "sdxl_base_v1-0"}),
        ("lora-kohya-sdxl", {"ss_base_model_version": "sd_v1"}),
        ("lora-kohya-sd1", {"ss_v2": "True"}),
        ("lora-kohya-sd2", {"ss_v2": "False"}),
        ("lora-kohya-sd2", {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}),
        ("sd1", {"modelspec.architecture": "stable-diffusion-v2-768-v"}),
        ("sdxl-base", {"modelspec.architecture": "stable-diffusion-xl-v1-refiner"}),
        ("sdxl-base", {"modelspec.architecture": "flux-1-dev"}),
    ],
)
def test_shapes_are_the_truth_and_metadata_against_them_a_problem(name: str, metadata: dict[str, str]) -> None:
    found = known(load(name), metadata)
    assert found.base == known(load(name)).base
    (key, value), *_ = metadata.items()
    assert any(key in problem and value in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        ("lora-kohya-sd1", {"ss_base_model_version": "sd_v1", "ss_v2": "False"}),
        ("lora-kohya-sd2", {"ss_base_model_version": "sd_v2_v", "ss_v2": "True"}),
        ("lora-kohya-sdxl", {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"}),
        ("lora-kohya-sdxl", {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}),
        ("sdxl-base", {"modelspec.architecture": "stable-diffusion-xl-v1-base"}),
        ("sd1", {"modelspec.architecture": "something-new-v7", "ss_base_model_version": "\x00"}),
    ],
)
def test_metadata_that_agree_or_say_nothing_known_are_no_problem(name: str, metadata: dict[str, str]) -> None:
    assert known(load(name), metadata).problems == ()


def test_metadata_choose_among_candidates_and_are_shown_for_it() -> None:
    layers = attention_to_itself("lora-kohya-sd1", "0")
    found = known(layers, {"ss_base_model_version": "sd_v1"})
    assert (found.base, found.candidates) == ("sd1", ())
    assert any("ss_base_model_version" in line for line in found.evidence)


def test_metadata_do_not_choose_what_the_shapes_exclude() -> None:
    found = known(attention_to_itself("lora-kohya-sd1", "0"), {"ss_base_model_version": "flux1"})
    assert found.base == "ambiguous"
    assert any("flux1" in problem for problem in found.problems)


def test_an_architecture_of_another_kind_is_a_problem() -> None:
    found = known(load("sdxl-base"), {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"})
    assert any("lora" in problem for problem in found.problems)


def test_a_control_net_beside_another_checkpoint_is_a_problem() -> None:
    found = known(load("sd1") | load("controlnet-sd2"))
    assert found.kind == "controlnet"
    assert any("different bases" in problem for problem in found.problems)


def test_difference_alone_is_useless_and_said_to_be() -> None:
    found = known(load("controlnet-sd1") | {"difference": ("F32", ())})
    assert (found.kind, found.variant) == ("controlnet", "difference")
    assert any("useless" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("unet", "pipeline", "base", "variant"),
    [
        ("diffusers-unet-sd1", "StableDiffusionPipeline", "sd1", None),
        ("diffusers-unet-sd1-inpainting", "StableDiffusionInpaintPipeline", "sd1", "inpainting"),
        ("diffusers-unet-sdxl", "StableDiffusionXLPipeline", "sdxl", None),
        ("diffusers-unet-sdxl", "SomethingOfTheirOwn", "sdxl", None),
        ("diffusers-unet-sd1", "StableDiffusionXLPipeline", "ambiguous", None),
    ],
)
def test_the_pipeline_of_a_folder_is_held_against_the_shapes(
    unet: str, pipeline: str, base: str, variant: str | None
) -> None:
    found = identify(plan_of(diffusers(unet)), None, Folder(pipeline=pipeline))
    assert (found.base, found.variant) == (base, variant)
    assert bool(found.problems) == (base == "ambiguous")


def test_a_pipeline_decides_what_shapes_leave_open() -> None:
    bare = of({"conv_in.weight": (320, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)}, "unet.")
    assert identify(plan_of(bare)).base == "ambiguous"
    found = identify(plan_of(bare), None, Folder(pipeline="StableDiffusionXLPipeline"))
    assert (found.base, found.candidates) == ("ambiguous", ("sdxl", "sdxl-refiner"))
    assert identify(plan_of(bare), None, Folder(pipeline="StableUnCLIPImg2ImgPipeline")).variant == "unclip"


def test_a_text_encoder_as_wide_as_one_and_as_deep_as_another_is_ambiguous() -> None:
    wide: Manifest = {"embeddings.token_embedding.weight": ("F32", (49408, 768))}
    found = known(load("diffusers-te-sd2") | wide)
    assert found.base == "ambiguous"
    assert found.problems


@pytest.mark.parametrize("marker", ["scaled_fp8", "model.diffusion_model.scaled_fp8"])
def test_a_quantised_checkpoint_keeps_its_identity_and_says_so(marker: str) -> None:
    found = known(load("sd1") | {marker: ("F8_E4M3", (0,))})
    assert (found.kind, found.base) == ("checkpoint", "sd1")
    assert any("already quantised" in problem for problem in found.problems)


def test_packed_weights_do_not_hide_what_a_network_is() -> None:
    packed: Manifest = {}
    for name, (dtype, shape) in load("sdxl-base").items():
        if len(shape) == 2 and name.startswith(P):
            packed[name] = ("U8", (shape[0] * shape[1] // 2, 1))
            packed[f"{name}.quant_state.bitsandbytes__nf4"] = ("U8", (97,))
            packed[f"{name}.absmax"] = ("F32", (shape[0],))
        else:
            packed[name] = (dtype, shape)
    found = known(packed)
    assert (found.kind, found.base) == ("checkpoint", "sdxl")
    assert any("NF4" in problem or "bitsandbytes" in problem for problem in found.problems)


TRUE = {
    "lora-kohya-sd1": "sd1", "lora-kohya-sd2": "sd2", "lora-kohya-sdxl": "sdxl", "lycoris-loha-sd1": "sd1",
    "lycoris-lokr-sd1": "sd1", "locon-kohya-sd1": "sd1", "sd1": "sd1", "sd2-eps": "sd2", "sdxl-base": "sdxl",
    "sdxl-refiner": "sdxl-refiner", "diffusers-unet-sdxl": "sdxl", "controlnet-sd2": "sd2",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TRUE)
def test_what_is_left_of_a_file_is_known_rightly_or_not_at_all(name: str, seed: int) -> None:
    """Any modules of an adapter, any tensors of a network, scaled by anything: never another base."""
    chance = Random(f"{name} {seed}")
    for _ in range(12):
        whole = load(name, chance.choice([1, 1, 2, 8, 16]))
        modules = sorted({key.partition(".")[0] if "-kohya-" in name or "lycoris" in name else key for key in whole})
        kept = set(chance.sample(modules, min(len(modules), chance.choice([1, 3, 10, 40, 200, 600]))))
        found = known({key: d for key, d in whole.items() if key in kept or key.partition(".")[0] in kept})
        assert found.base in (TRUE[name], "ambiguous", None)
        assert found.base != "ambiguous" or found.kind == "vae" or TRUE[name] in found.candidates


def test_a_network_of_no_known_family_is_one_all_the_same() -> None:
    alone = of({"stream.0.q.weight": (64, 64)}, P)
    assert (known(alone).kind, known(alone).base) == ("unet", None)
    vae = {name: d for name, d in load("sd1").items() if name.startswith("first_stage_model.")}
    assert (known(alone | vae).kind, known(alone | vae).base) == ("checkpoint", None)
    assert any("no family that is known" in problem for problem in known(alone).problems)

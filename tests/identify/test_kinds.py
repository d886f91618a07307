"""Every real layout is known by its kind, base, variant and algorithm: as published, scaled down, and thinned out."""

import pytest

from ckptool.identify.identify import identify
from ckptool.identify.identity import ALGORITHMS, KINDS
from ckptool.tensor import Inline, Plan, Tensor
from fixtures import manifests
from fixtures.families import OTHERS, hollow
from tests.identify.knowing import known, load, narrow, plan_of

VAE = ("sd1", "sd2", "sdxl")
# Manifest -> kind, algorithm, base, variant.
LAYOUTS: dict[str, tuple[str, str | None, str | None, str | None]] = {
    "controlnet-sd1": ("controlnet", None, "sd1", None),
    "controlnet-sd1-cldm-full": ("controlnet", None, "sd1", None),
    "controlnet-sd2": ("controlnet", None, "sd2", None),
    "controlnet-sd2-cldm-full": ("controlnet", None, "sd2", None),
    "diffusers-controlnet-sd1": ("controlnet", None, "sd1", None),
    "diffusers-controlnet-sd2": ("controlnet", None, "sd2", None),
    "diffusers-controlnet-sdxl": ("controlnet", None, "sdxl", None),
    "diffusers-te-sd1": ("text-encoder", None, "ambiguous", "clip-l"),
    "diffusers-te-sd2": ("text-encoder", None, "sd2", "openclip-h"),
    "diffusers-te-sdxl-2": ("text-encoder", None, "ambiguous", "openclip-bigg"),
    "diffusers-unet-sd1": ("unet", None, "sd1", None),
    "diffusers-unet-sd1-inpainting": ("unet", None, "sd1", "inpainting"),
    "diffusers-unet-sd2": ("unet", None, "sd2", None),
    "diffusers-unet-sdxl": ("unet", None, "sdxl", None),
    "diffusers-unet-sdxl-refiner": ("unet", None, "sdxl-refiner", None),
    "diffusers-vae": ("vae", None, "ambiguous", "4-channel"),
    "hypernetwork-a1111": ("hypernetwork", None, "sd1", None),
    "locon-kohya-sd1": ("lora", "locon", "sd1", None),
    "lora-kohya-sd1": ("lora", "lora", "sd1", None),
    "lora-kohya-sd2": ("lora", "lora", "sd2", None),
    "lora-kohya-sdxl": ("lora", "lora", "sdxl", None),
    "lycoris-locon-dora-sd1": ("lycoris", "dora", "sd1", None),
    "lycoris-loha-sd1": ("lycoris", "loha", "sd1", None),
    "lycoris-lokr-sd1": ("lycoris", "lokr", "sd1", None),
    "sd1": ("checkpoint", None, "sd1", None),
    "sd1-full-ema": ("checkpoint", None, "sd1", None),
    "sd1-inpainting": ("checkpoint", None, "sd1", "inpainting"),
    "sd2-eps": ("checkpoint", None, "sd2", None),
    "sd2-inpainting": ("checkpoint", None, "sd2", "inpainting"),
    "sd2.1-v": ("checkpoint", None, "sd2", None),
    "sd2.1-v-full-ema": ("checkpoint", None, "sd2", None),
    "sdxl-base": ("checkpoint", None, "sdxl", None),
    "sdxl-refiner": ("checkpoint", None, "sdxl-refiner", None),
    "textual-inversion-a1111": ("textual-inversion", None, "sd1", None),
    "textual-inversion-diffusers": ("textual-inversion", None, "sd1", None),
    "textual-inversion-sd1": ("textual-inversion", None, "sd1", None),
    "textual-inversion-sdxl": ("textual-inversion", None, "sdxl", None),
    "vae": ("vae", None, "ambiguous", "4-channel"),
}
BY_WIDTH_ALONE = ("textual-inversion-a1111", "textual-inversion-diffusers", "textual-inversion-sd1")
"""Nothing but the width of a vector tells these apart, so scaled down they are ambiguous."""
WRAPPED = [n for n in LAYOUTS if LAYOUTS[n][0] not in ("lora", "lycoris", "hypernetwork", "textual-inversion")]
"""What a compiler or a parallel trainer would have wrapped."""


def test_every_manifest_is_in_the_table() -> None:
    assert set(LAYOUTS) == set(manifests.names())


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_as_published_are_known(name: str) -> None:
    found = known(load(name))
    assert (found.kind, found.algorithm, found.base, found.variant) == LAYOUTS[name]
    assert found.problems == ()


@pytest.mark.parametrize("factor", [2, 8, 16, 64])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_scaled_down_are_known_by_names_and_ratios(name: str, factor: int) -> None:
    kind, algorithm, base, variant = LAYOUTS[name]
    found = known(load(name, factor))
    base = "ambiguous" if name in BY_WIDTH_ALONE else base
    assert (found.kind, found.algorithm, found.base, found.variant) == (kind, algorithm, base, variant)


@pytest.mark.parametrize("factor", [4, 16])
@pytest.mark.parametrize("name", [name for name, row in LAYOUTS.items() if row[0] not in ("vae", "text-encoder")])
def test_layouts_with_thin_layers_are_known_by_the_width_of_their_text(name: str, factor: int) -> None:
    kind, algorithm, base, variant = LAYOUTS[name]
    base = "ambiguous" if name in BY_WIDTH_ALONE else base
    found = known(narrow(load(name), factor))
    assert (found.kind, found.algorithm, found.base, found.variant) == (kind, algorithm, base, variant)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("name", WRAPPED)
def test_what_stands_before_every_name_changes_nothing(name: str, prefix: str) -> None:
    found = known(load(name), prefix=prefix)
    assert (found.kind, found.algorithm, found.base, found.variant) == LAYOUTS[name]


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_a_unet_is_known_with_and_without_its_prefix(prefix: str) -> None:
    own = {n.removeprefix("model."): d for n, d in load("sdxl-base").items() if n.startswith("model.diffusion_model.")}
    found = known(own, prefix=prefix)
    assert (found.kind, found.base) == ("unet", "sdxl")
    bare = {name.removeprefix("diffusion_model."): described for name, described in own.items()}
    assert (known(bare).kind, known(bare).base) == ("unet", "sdxl")


def test_text_encoder_names_without_text_model_are_known() -> None:
    renamed = {name.replace(".text_model.", "."): d for name, d in load("sd1").items()}
    assert (known(renamed).kind, known(renamed).base, known(renamed).problems) == ("checkpoint", "sd1", ())


@pytest.mark.parametrize("name", OTHERS)
def test_kinds_without_a_manifest_are_known(name: str) -> None:
    kind, base, variant, build = OTHERS[name]
    found = known(build())
    assert (found.kind, found.base, found.variant) == (kind, base, variant)


@pytest.mark.parametrize(
    "name",
    [n for n in OTHERS if OTHERS[n][0] in ("t2i-adapter", "ip-adapter", "controlnet") and n != "t2i-light"],
)
def test_kinds_without_a_manifest_are_known_scaled_down(name: str) -> None:
    kind, base, variant, build = OTHERS[name]
    found = known(manifests.scaled(build(), 8))
    # IP-Adapters of SD2 and of SDXL have the same ratio, but not as many layers.
    assert (found.kind, found.base, found.variant) == (kind, base, variant)


@pytest.mark.parametrize(("channels", "variant"), [(9, "inpainting"), (8, "instruct-pix2pix"), (5, "depth"), (4, None)])
def test_the_first_convolution_tells_the_variant(channels: int, variant: str | None) -> None:
    assert known(hollow("sd1", channels)).variant == variant
    assert known(hollow("diffusers-unet-sd1", channels)).variant == variant


def test_a_file_of_nothing_but_averages_is_known() -> None:
    averages = {name: d for name, d in load("sdxl-base").items() if not name.startswith("model.")}
    averages |= {
        "model_ema." + name.removeprefix("model.").replace(".", ""): d
        for name, d in load("sdxl-base").items()
        if name.startswith("model.")
    }
    assert (known(averages).kind, known(averages).base) == ("checkpoint", "sdxl")


def test_labels_are_those_of_the_design() -> None:
    for name in LAYOUTS:
        found = known(load(name))
        assert found.kind in KINDS
        assert found.algorithm is None or found.algorithm in ALGORITHMS


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in BY_WIDTH_ALONE])
def test_every_label_shows_a_name_and_a_shape_of_the_file(name: str) -> None:
    manifest = load(name)
    evidence = " ".join(known(manifest).evidence)
    assert any(key[:100] in evidence for key in manifest)
    assert "[" in evidence


def test_unrelated_tensors_are_unknown() -> None:
    found = known({"a": ("F32", (3,)), "b.c": ("I64", ())})
    assert (found.kind, found.base, found.prediction.type) == ("unknown", None, None)


HOSTILE = [
    "", ".", "..", "\0", "model.", "module.module.", "x" * 100_000, "a." * 50_000, "lora_unet_" + "down_blocks_" * 3000,
    "model.diffusion_model.", "model.diffusion_model.input_blocks.0.0.weight", "conv_in.weight", "ip_adapter.x.to_k_ip",
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "emb_params", "clip_l", "768",
    "model.diffusion_model.input_blocks.999.1.transformer_blocks.9999.attn2.to_k.weight", "lora_controlnet",
    "768.0.linear.0.weight", "lllite_unet_x", "control_model.zero_convs.0.0.weight", "decoder.conv_in.weight", "⁹.0",
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", "img_in.weight",
    "lora_unet_x.oft_blocks", "lora_unet_y.a1.weight", "text_model.embeddings.token_embedding.weight", "difference",
    "lora_unet_x.lokr_w1", "lora_unet_x.hada_w1_a", "ip_adapter.1.to_k_ip.weight", "adapter.conv_in.weight",
    "model.diffusion_model.label_emb.0.0.weight", "double_blocks.0.img_attn.norm.key_norm.scale", "scaled_fp8",
    "encoder.block.0.layer.0.SelfAttention.q.weight", "body.0.in_conv.weight", "ip_adapter.²".ljust(40, "9"),
]  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (0, 0), (0, 0, 0, 0), (1,) * 64, (2**40, 2**20), (3, 0, 3)])
def test_hostile_names_and_shapes_raise_nothing(shape: tuple[int, ...]) -> None:
    for name in HOSTILE:
        identify(Plan("safetensors", (Tensor(name, "F32", shape, Inline(b"")),)))
    identify(Plan("safetensors", tuple(Tensor(name, "F16", shape, Inline(b"")) for name in HOSTILE)))


@pytest.mark.parametrize("name", ["sd1", "sdxl-base", "lycoris-lokr-sd1", "lora-kohya-sdxl", "controlnet-sd1", "vae"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 0), (1,) * 64])
def test_real_names_with_hostile_shapes_raise_nothing(name: str, shape: tuple[int, ...]) -> None:
    identify(plan_of({key: (dtype, shape) for key, (dtype, _) in load(name).items()}))


def test_no_tensors_are_unknown() -> None:
    assert identify(Plan("safetensors", ())).kind == "unknown"

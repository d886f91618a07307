"""Which addon fits which checkpoint: every real adapter against its own base, and against all others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptool.identify.compat import Checkpoint, Fit, checkpoint_of, compat
from ckptool.identify.identify import identify
from ckptool.tensor import Plan
from fixtures import manifests
from tests.convert.converting import Ran, ckptool
from tests.identify.fitting import CROSS_ATTENTIONS, described, ip_adapter, plan_of, scaled, stored, t2i_adapter, zeros

CHECKPOINTS = {"sd1": "sd1", "sd2": "sd2.1-v", "sdxl": "sdxl-base", "sdxl-refiner": "sdxl-refiner"}
# Every adapter with the one base that it is for.
ADAPTERS = {
    "lora-kohya-sd1": "sd1",
    "locon-kohya-sd1": "sd1",
    "lycoris-loha-sd1": "sd1",
    "lycoris-lokr-sd1": "sd1",
    "lycoris-locon-dora-sd1": "sd1",
    "lora-kohya-sd2": "sd2",
    "lora-kohya-sdxl": "sdxl",
    "controlnet-sd1": "sd1",
    "controlnet-sd2": "sd2",
    "diffusers-controlnet-sd1": "sd1",
    "diffusers-controlnet-sd2": "sd2",
    "diffusers-controlnet-sdxl": "sdxl",
    "hypernetwork-a1111": "sd1",
    "textual-inversion-a1111": "sd1",
    "textual-inversion-sd1": "sd1",
    "textual-inversion-diffusers": "sd1",
}
CASES = [
    (adapter, base, factor)
    for adapter in ADAPTERS
    for base in CHECKPOINTS
    for factor in (1, 16)
    # The factors of LoKr are no multiples of 64, so that a scaled one is a full-size one.
    if factor == 1 or "lokr" not in adapter
]
CACHE: dict[tuple[str, int], Checkpoint] = {}


def checkpoint(architecture: str, factor: int = 1) -> Checkpoint:
    if (architecture, factor) not in CACHE:
        plan = described(architecture, factor)
        CACHE[architecture, factor] = checkpoint_of(plan, identify(plan))
    return CACHE[architecture, factor]


def fit(base: Checkpoint, addon: Plan) -> Fit:
    return compat(base, addon, identify(addon))


@pytest.mark.parametrize(("adapter", "base", "factor"), CASES)
def test_an_adapter_fits_its_own_base_and_no_other(adapter: str, base: str, factor: int) -> None:
    found = fit(checkpoint(CHECKPOINTS[base], factor), described(adapter, factor))
    assert found.fits is (ADAPTERS[adapter] == base), found.reasons
    assert bool(found.reasons) is not found.fits
    if found.fits:
        assert found.matched == found.total > 0
        assert not found.unmatched
        assert not found.misfits
    else:
        assert found.matched < found.total


@pytest.mark.parametrize("architecture", ["sd1-inpainting", "sd1-full-ema", "controlnet-sd1-cldm-full"])
def test_variants_take_what_their_base_takes(architecture: str) -> None:
    for adapter in ("lora-kohya-sd1", "controlnet-sd1", "hypernetwork-a1111", "textual-inversion-sd1"):
        assert fit(checkpoint(architecture), described(adapter)).fits, adapter


@pytest.mark.parametrize("adapter", ["lycoris-loha-sd1", "lycoris-lokr-sd1", "lycoris-locon-dora-sd1"])
def test_the_first_convolution_is_filled_up_on_an_inpainting_model(adapter: str) -> None:
    found = fit(checkpoint("sd1-inpainting"), described(adapter))
    assert (found.fits, found.matched, found.total) == (True, 354, 354)
    assert any("zeros" in note for note in found.notes)


def test_a_text_encoder_that_two_bases_share_proves_nothing() -> None:
    """CLIP-L is in SD1 and in SDXL."""
    shapes = {n: s for n, (_, s) in scaled("lora-kohya-sd1", 1).items() if n.startswith("lora_te_")}
    assert fit(checkpoint("sdxl-base"), plan_of(shapes)).fits is not True
    assert fit(checkpoint("sd2.1-v"), plan_of(shapes)).fits is False


def test_a_lora_says_how_many_modules_match_and_why_not_all() -> None:
    found = fit(checkpoint("sd1"), described("lora-kohya-sdxl"))
    words = " | ".join(found.reasons)
    assert "made for SDXL, and this checkpoint is SD1" in words
    assert "its attn2 takes 2,048, this checkpoint takes 768" in words
    assert "lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q" in found.unmatched
    misfit = next(m for m in found.misfits if m.name.endswith("input_blocks_4_1_transformer_blocks_0_attn2_to_k"))
    assert (misfit.addon, misfit.checkpoint) == ((640, 2048), (640, 768))


def test_every_module_counts() -> None:
    shapes = {name: shape for name, (_, shape) in scaled("lora-kohya-sd1", 1).items()}
    name = "lora_unet_mid_block_attentions_0_proj_out.lora_up.weight"
    found = fit(checkpoint("sd1"), plan_of({**shapes, name: (1281, *shapes[name][1:])}))
    assert (found.fits, found.matched, found.total, len(found.misfits)) == (False, 263, 264, 1)
    extra = {f"lora_unet_down_blocks_3_attentions_0_proj_in.lora_{part}.weight": (8, 8) for part in ("up", "down")}
    found = fit(checkpoint("sd1"), plan_of({**shapes, **extra}))
    assert found.unmatched == ("lora_unet_down_blocks_3_attentions_0_proj_in",)
    assert found.fits is False


def lora(names: dict[str, tuple[int, int]], down: str, up: str, rank: int = 8) -> Plan:
    """A LoRA that changes these layers of so many rows and columns; `{}` in the endings' place is the layer."""
    return plan_of(
        {down.format(name): (rank, columns) for name, (_, columns) in names.items()}
        | {up.format(name): (rows, rank) for name, (rows, _) in names.items()}
    )


def attention(architecture: str) -> dict[str, tuple[int, int]]:
    """Rows and columns of the attention's matrices."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, (_, shape) in manifests.load(architecture).items()
        if ".attn" in name and name.endswith(".weight") and len(shape) == 2
    }


# How trainers name one layer: its own name, in their own wrapping.
STYLES = {
    "peft": ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight"),
    "peft, with the adapter's name": ("unet.{}.lora_A.default.weight", "unet.{}.lora_B.default.weight"),
    "peft, bare": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
    "diffusers 0.20": ("unet.{}.lora_linear_layer.down.weight", "unet.{}.lora_linear_layer.up.weight"),
    "kohya with dots": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("base", ["sd1", "sd2", "sdxl"])
def test_layers_are_found_by_every_naming(style: str, base: str) -> None:
    addon = lora(attention(f"diffusers-unet-{base}"), *STYLES[style])
    for name, architecture in CHECKPOINTS.items():
        found = fit(checkpoint(architecture), addon)
        assert found.fits is (name == base), (name, found.reasons)


def test_the_oldest_diffusers_names_are_found() -> None:
    """`attn1.processor.to_q_lora.down.weight`, and `to_out` without its number."""
    names = {name.removesuffix(".0"): shape for name, shape in attention("diffusers-unet-sd1").items()}
    shapes = {}
    for name, (rows, columns) in names.items():
        layer, _, part = name.rpartition(".")
        shapes[f"unet.{layer}.processor.{part}_lora.down.weight"] = (4, columns)
        shapes[f"unet.{layer}.processor.{part}_lora.up.weight"] = (rows, 4)
    found = fit(checkpoint("sd1"), plan_of(shapes))
    assert (found.fits, found.matched, found.total) == (True, len(names), len(names))


@pytest.mark.parametrize("ending", ["lora_A.weight", "lora_A.default.weight", "lora_linear_layer.down.weight"])
def test_text_encoders_are_found_by_every_naming(ending: str) -> None:
    up = ending.replace("lora_A", "lora_B").replace("down", "up")
    shapes = {}
    for component, architecture in (("text_encoder", "diffusers-te-sd1"), ("text_encoder_2", "diffusers-te-sdxl-2")):
        for name, (_, shape) in manifests.load(architecture).items():
            if name.endswith("_proj.weight"):
                layer = f"{component}.text_model.{name.removeprefix('text_model.').removesuffix('.weight')}"
                shapes |= {f"{layer}.{ending}": (8, shape[1]), f"{layer}.{up}": (shape[0], 8)}
    found = fit(checkpoint("sdxl-base"), plan_of(shapes))
    assert (found.fits, found.matched, found.total) == (True, 4 * (12 + 32), 4 * (12 + 32))
    assert fit(checkpoint("sd2.1-v"), plan_of(shapes)).fits is False


FLUX = {
    "img_in.weight": (96, 64),
    "guidance_in.in_layer.weight": (96, 16),
    "double_blocks.0.img_attn.norm.key_norm.scale": (8,),
    "double_blocks.0.img_attn.proj.weight": (96, 96),
    "double_blocks.0.img_attn.qkv.weight": (288, 96),
    "single_blocks.0.linear1.weight": (672, 96),
}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_other_families_are_held_against_each_other_where_the_names_agree(prefix: str) -> None:
    plan = plan_of({prefix + name: shape for name, shape in FLUX.items()})
    base = checkpoint_of(plan, identify(plan))
    names = {"double_blocks_0_img_attn_proj": (96, 96), "double_blocks_0_img_attn_qkv": (288, 96)}
    kohya = ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight")
    assert fit(base, lora(names, *kohya)).fits is True
    assert fit(base, lora({**names, "double_blocks_0_img_attn_proj": (96, 64)}, *kohya)).fits is False
    other = lora(
        {"transformer_blocks.0.attn.to_q": (96, 96)}, "transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"
    )
    assert fit(base, other).fits is not True
    assert fit(base, described("lora-kohya-sd1")).fits is False
    assert fit(checkpoint("sd1"), lora(names, *kohya)).fits is False


def test_ldm_names_of_sd1_are_found() -> None:
    names = {
        name.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_"): (shape[0], shape[1])
        for name, (_, shape) in manifests.load("sd1").items()
        if ".attn" in name and name.endswith(".weight") and len(shape) == 2 and "diffusion_model" in name
    }
    found = fit(checkpoint("sd1"), lora(names, "lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight"))
    assert (found.fits, found.matched) == (True, len(names))


def test_self_attention_alone_does_not_say_which_base_it_is_for() -> None:
    """These layers are the same in SD1 and SD2: that they match proves nothing."""
    alike = {name: shape for name, shape in attention("diffusers-unet-sd1").items() if ".attn1." in name}
    addon = lora(alike, *STYLES["peft"])
    for architecture in ("sd1", "sd2.1-v"):
        found = fit(checkpoint(architecture), addon)
        assert found.fits is None
        assert found.matched == found.total == len(alike)
        assert found.reasons
    assert fit(checkpoint("sdxl-base"), addon).fits is False


def test_a_component_that_the_checkpoint_lacks_is_told_and_does_not_count() -> None:
    unet = described("diffusers-unet-sdxl")
    found = fit(checkpoint_of(unet, identify(unet)), described("lora-kohya-sdxl"))
    assert found.fits is True
    assert found.total == 722
    assert any("text encoder" in note for note in found.notes)


def test_an_sdxl_embedding_needs_both_encoders() -> None:
    both = described("textual-inversion-sdxl")
    assert fit(checkpoint("sdxl-base"), both).fits is True
    assert fit(checkpoint("sd1"), both).fits is False
    assert fit(checkpoint("sd2.1-v"), both).fits is False
    assert fit(checkpoint("sdxl-base"), plan_of({"clip_g": (4, 1280)})).fits is not True
    assert fit(checkpoint("sdxl-base"), plan_of({"clip_l": (4, 768), "clip_g": (4, 1024)})).fits is False


def test_an_embedding_is_held_against_the_attention_where_there_is_no_encoder() -> None:
    for base, architecture in (("sd1", "textual-inversion-sd1"), ("sdxl", "textual-inversion-sdxl")):
        unet = described(f"diffusers-unet-{base}")
        assert fit(checkpoint_of(unet, identify(unet)), described(architecture)).fits is True


@pytest.mark.parametrize(("width", "base"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl")])
def test_an_ip_adapter_fits_by_the_width_of_its_tokens(width: int, base: str) -> None:
    found = fit(checkpoint(CHECKPOINTS[base]), plan_of(ip_adapter(width)))
    assert found.fits is (base != "sdxl")  # whose cross attentions are others
    assert fit(checkpoint("sdxl-refiner"), plan_of(ip_adapter(width))).fits is False


def test_an_ip_adapter_covers_every_cross_attention() -> None:
    assert fit(checkpoint("sd1"), plan_of(ip_adapter())).total == len(CROSS_ATTENTIONS) == 16


def test_a_t2i_adapter_is_told_by_how_it_shrinks_pictures() -> None:
    assert fit(checkpoint("sdxl-base"), plan_of(t2i_adapter(768))).fits is True
    assert fit(checkpoint("sd1"), plan_of(t2i_adapter(768))).fits is False
    assert fit(checkpoint("sdxl-base"), plan_of(t2i_adapter(192))).fits is False


def test_a_vae_fits_by_its_channels() -> None:
    for architecture in ("vae", "diffusers-vae"):
        found = fit(checkpoint("sd1"), described(architecture))
        assert found.fits is True
        assert any("4-channel" in note for note in found.notes)
    shapes = {name: shape for name, (_, shape) in scaled("vae", 1).items()}
    sixteen = plan_of({**shapes, "decoder.conv_in.weight": (512, 16, 3, 3)})
    found = fit(checkpoint("sd1"), sixteen)
    assert found.fits is False
    assert "16 channels" in found.reasons[0]


def test_a_hypernetwork_that_leaves_the_text_alone_is_ambiguous() -> None:
    pair = {f"{side}.linear.0.{part}" for side in (0, 1) for part in ("weight", "bias")}
    shapes = {f"640.{name}": (1280, 640) if name.endswith("weight") else (1280,) for name in pair}
    assert fit(checkpoint("sd1"), plan_of(shapes)).fits is None


def test_a_control_lora_is_held_against_its_layers() -> None:
    shapes: dict[str, tuple[int, ...]] = {"lora_controlnet": (0,)}
    for name, (_, shape) in manifests.load("sdxl-base").items():
        layer = name.removeprefix("model.diffusion_model.").removesuffix(".weight")
        if ".attn2.to_k." in name and layer.startswith("input_blocks."):
            shapes |= {f"{layer}.down": (16, shape[1]), f"{layer}.up": (shape[0], 16)}
    addon = plan_of({**shapes, "input_hint_block.0.weight": (16, 3, 3, 3)})
    assert fit(checkpoint("sdxl-base"), addon).fits is True
    found = fit(checkpoint("sd1"), addon)
    assert found.fits is False
    assert "its attn2 takes 2,048, this checkpoint takes 768" in found.reasons
    assert {misfit.checkpoint for misfit in found.misfits} == {(640, 768), (1280, 768)}


def test_llite_modules_are_held_against_their_layers() -> None:
    """Each reads what its layer reads, and more."""
    layer = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    shapes: dict[str, tuple[int, ...]] = {
        f"{layer}.conditioning1.0.weight": (16, 3, 4, 4),
        f"{layer}.down.0.weight": (64, 640),
        f"{layer}.mid.0.weight": (64, 96),
        f"{layer}.up.0.weight": (640, 64),
    }
    assert fit(checkpoint("sdxl-base"), plan_of(shapes)).fits is True
    wide = {**shapes, f"{layer}.down.0.weight": (64, 320)}
    assert fit(checkpoint("sdxl-base"), plan_of(wide)).fits is False
    deep = {name.replace("4_1", "1_1"): shape for name, shape in shapes.items()}
    assert fit(checkpoint("sdxl-base"), plan_of(deep)).unmatched


def test_a_controlnet_with_other_channels_does_not_fit() -> None:
    shapes = {name: shape for name, (_, shape) in scaled("controlnet-sd1", 1).items()}
    found = fit(checkpoint("sd1"), plan_of({**shapes, "control_model.zero_convs.5.0.weight": (320, 320, 1, 1)}))
    assert (found.fits, found.matched, found.total) == (False, 12, 13)
    assert found.misfits[0].name == "controlnet_down_blocks.5.weight"
    short = {name: shape for name, shape in shapes.items() if ".zero_convs.11." not in name}
    assert fit(checkpoint("sd1"), plan_of(short)).fits is False


def test_an_upscaler_fits_everything() -> None:
    esrgan = {"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}
    found = fit(checkpoint("sd1"), plan_of(esrgan))
    assert found.fits in (True, None)


# --- as a command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compat")
    stored("sd1", folder / "sd1.safetensors")
    for name in ("lora-kohya-sd1", "lora-kohya-sd2", "textual-inversion-sd1", "controlnet-sd1"):
        stored(name, folder / f"{name}.safetensors")
    return folder


def run(files: Path, *names: str, options: tuple[str, ...] = ()) -> Ran:
    return ckptool("compat", *(files / f"{name}.safetensors" for name in names), *options)


def data(ran: Ran) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(ran.out)
    return loaded


def test_exit_0_when_all_fit(files: Path) -> None:
    ran = run(files, "sd1", "lora-kohya-sd1", "textual-inversion-sd1", "controlnet-sd1", options=("--json",))
    assert ran.code == 0, ran.err
    report = data(ran)
    assert (report["checkpoint"]["kind"], report["checkpoint"]["base"]) == ("checkpoint", "sd1")
    assert [addon["fits"] for addon in report["addons"]] == [True] * 3
    assert report["verdict"] == "fits"
    assert report["addons"][0]["matched"] == report["addons"][0]["modules"] == 264


def test_exit_1_when_one_does_not(files: Path) -> None:
    ran = run(files, "sd1", "lora-kohya-sd1", "lora-kohya-sd2")
    assert ran.code == 1
    assert "does not fit: " in ran.out
    assert "fits: " in ran.out
    assert "its attn2 takes 64, this checkpoint takes 48" in ran.out


def test_people_see_ten_and_the_report_holds_all(files: Path, tmp_path: Path) -> None:
    ran = run(files, "sd1", "lora-kohya-sd2", options=("--report", str(tmp_path / "r.json")))
    report = json.loads((tmp_path / "r.json").read_text())
    (addon,) = report["addons"]
    assert len(addon["unmatched"]) == 66
    assert addon["matched"] + len(addon["unmatched"]) + len(addon["shapes"]) == addon["modules"] == 330
    assert "… and 56 more (-v shows all)" in ran.out
    assert ran.out.count("lora_te_text_model") < 25
    assert run(files, "sd1", "lora-kohya-sd2", options=("-v",)).out.count("lora_te_text_model") == 138


@pytest.mark.parametrize("ending", ["md", "html", "sarif"])
def test_what_does_not_fit_is_in_every_report(files: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"r.{ending}"
    assert run(files, "sd1", "lora-kohya-sd2", options=("-q", "--report", str(path))).code == 1
    assert "does not fit" in path.read_text()
    assert "made for SD2" in path.read_text()


def test_a_refused_addon_gives_3_and_the_others_are_still_looked_at(files: Path, tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<html>")
    ran = ckptool("compat", files / "sd1.safetensors", tmp_path / "page.safetensors",
                  files / "lora-kohya-sd1.safetensors", "--json")  # fmt: skip
    assert ran.code == 3
    refused, fitting = data(ran)["addons"]
    assert "web page" in refused["error"]["message"]
    assert (refused["fits"], fitting["fits"]) == (None, True)
    assert data(ran)["verdict"] == "refused"


def test_a_checkpoint_is_no_addon_and_a_lora_no_checkpoint(files: Path) -> None:
    ran = run(files, "sd1", "sd1", "lora-kohya-sd1")
    assert ran.code == 3
    assert f"error: {files / 'sd1.safetensors'}: a file of the kind 'checkpoint' is no addon" in ran.err
    ran = run(files, "lora-kohya-sd1", "sd1")
    assert (ran.code, len(ran.err.splitlines())) == (3, 2)
    assert ran.err.startswith(f"error: {files / 'lora-kohya-sd1.safetensors'}: ")
    assert "give the checkpoint first" in ran.err


def test_a_file_that_is_not_there_is_a_usage_error(files: Path) -> None:
    assert run(files, "sd1", "nothing").code == 2
    assert run(files, "nothing", "lora-kohya-sd1").code == 2


def test_a_diffusers_folder_is_a_checkpoint_too(tmp_path: Path, files: Path) -> None:
    pipeline = tmp_path / "pipeline"
    for part, architecture, file in (
        ("unet", "diffusers-unet-sd1", "diffusion_pytorch_model"),
        ("vae", "diffusers-vae", "diffusion_pytorch_model"),
        ("text_encoder", "diffusers-te-sd1", "model"),
    ):
        (pipeline / part).mkdir(parents=True)
        stored(architecture, pipeline / part / f"{file}.safetensors")
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    addons = [files / f"{name}.safetensors" for name in ("lora-kohya-sd1", "textual-inversion-sd1", "controlnet-sd1")]
    ran = ckptool("compat", pipeline, *addons)
    assert ran.code == 0, ran.out + ran.err
    assert ckptool("compat", pipeline, files / "lora-kohya-sd2.safetensors").code == 1


def test_names_in_a_file_do_not_reach_the_terminal_as_they_are(files: Path, tmp_path: Path) -> None:
    name = "lora_unet_\x1b[31mred\nnew line"
    zeros({f"{name}.lora_down.weight": (4, 48), f"{name}.lora_up.weight": (48, 4)}, tmp_path / "l.safetensors")
    ran = ckptool("compat", files / "sd1.safetensors", tmp_path / "l.safetensors")
    assert ran.code == 1
    assert "\x1b[31mred" not in ran.out
    assert "\nnew line" not in ran.out


ODD_SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (3,),
    (0, 4),
    (4, 0),
    (2, 2),
    (1, 1, 1),
    (2, 3, 1, 1),
    (1,) * 7,
)
ROLES = (
    "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale", "hada_w1_a", "hada_w1_b",
    "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "diff", "diff_b",
    "w_norm", "b_norm", "on_input", "weight", "a1.weight", "a2.weight", "b1.weight", "b2.weight", "oft_blocks",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_parts_of_any_shape_in_any_company_never_fit_by_accident(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def pick(count: int) -> int:
        return int(torch.randint(0, count, (), generator=generator))

    shapes = {}
    for module in ("lora_unet_conv_in", "lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_x", "unet.."):
        for role in ROLES:
            if pick(3) == 0:
                shapes[f"{module}.{role}"] = ODD_SHAPES[pick(len(ODD_SHAPES))]
    addon = plan_of({**shapes, "lora_unet_x.lora_down.weight": (1, 1), "lora_unet_x.lora_up.weight": (1, 1)})
    for architecture in ("sd1", "sdxl-base"):
        assert compat(checkpoint(architecture), addon, identify(described("lora-kohya-sd1"))).fits is not True


@pytest.mark.parametrize("kind", ["controlnet-sd1", "textual-inversion-sdxl", "hypernetwork-a1111", "vae"])
@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_odd_shapes_are_no_reason_to_fail(kind: str, shape: tuple[int, ...]) -> None:
    names = [name for name, _ in scaled(kind, 1).items()]
    addon = plan_of(dict.fromkeys(names, shape))
    compat(checkpoint("sdxl-base"), addon, identify(described(kind)))


def test_a_checkpoint_of_odd_shapes_is_no_reason_to_fail(tmp_path: Path) -> None:
    names = list(manifests.load("sd1"))
    for shape in ODD_SHAPES:
        base = checkpoint_of(plan_of(dict.fromkeys(names, shape)), identify(described("sd1")))
        for kind in ("lora-kohya-sd1", "controlnet-sd1", "textual-inversion-sd1", "hypernetwork-a1111", "vae"):
            assert compat(base, described(kind), identify(described(kind))).fits is not True


def test_what_it_was_trained_to_predict_is_a_note(tmp_path: Path) -> None:
    """A v LoRA on an epsilon checkpoint loads, and looks wrong."""
    stored("sd2-eps", tmp_path / "base.safetensors", 16)
    weights = {
        name: torch.zeros(shape, dtype=torch.float16) for name, (_, shape) in scaled("lora-kohya-sd2", 16).items()
    }
    metadata = {"modelspec.prediction_type": "v", "ss_v2": "True"}
    save_file(weights, tmp_path / "lora.safetensors", metadata)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    ran = ckptool("compat", tmp_path / "base.safetensors", tmp_path / "lora.safetensors", "--json")
    (addon,) = data(ran)["addons"]
    assert addon["prediction"] == "v"
    if data(ran)["checkpoint"]["prediction"] == "epsilon":
        assert any("trained to predict v" in note for note in addon["notes"])
    assert addon["fits"] is True

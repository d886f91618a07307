"""The table of folders, held against the facts: every kind in every UI."""

import pytest

from ckptool.identify.folders import KINDS, UIS, NoPlace, Place, folders_of, refusals_of, where
from ckptool.identify.identity import KINDS as ALL_KINDS

# Kind -> A1111, Forge, ComfyUI, SD.Next; None where the UI cannot load it.
DIFFUSION = "models/Stable-diffusion"
TABLE: dict[str, tuple[str | None, str, str, str]] = {
    "checkpoint": (DIFFUSION, DIFFUSION, "models/checkpoints", DIFFUSION),
    "unet": (None, DIFFUSION, "models/diffusion_models", "models/UNET"),
    "vae": ("models/VAE", "models/VAE", "models/vae", "models/VAE"),
    "text-encoder": (None, "models/text_encoder", "models/text_encoders", "models/Text-encoder"),
    "lora": ("models/Lora", "models/Lora", "models/loras", "models/Lora"),
    "lycoris": ("models/Lora", "models/Lora", "models/loras", "models/Lora"),
    "textual-inversion": ("embeddings", "embeddings", "models/embeddings", "models/embeddings"),
    "hypernetwork": ("models/hypernetworks",) * 4,
    "controlnet": ("models/ControlNet", "models/ControlNet", "models/controlnet", "models/control"),
    "control-lora": ("models/ControlNet", "models/ControlNet", "models/controlnet", "models/control"),
    "t2i-adapter": ("models/ControlNet", "models/ControlNet", "models/controlnet", "models/control"),
    "ip-adapter": ("models/ControlNet", "models/ControlNet", "models/ipadapter", "models/control"),
    "upscaler": ("models/ESRGAN", "models/ESRGAN", "models/upscale_models", "models/ESRGAN"),
}  # fmt: skip
CASES = [
    (kind, ui, folder)
    for kind, folders in TABLE.items()
    for ui, folder in zip(("a1111", "forge", "comfyui", "sdnext"), folders, strict=True)
]


@pytest.mark.parametrize(("kind", "ui", "folder"), CASES)
def test_each_kind_has_its_folder(kind: str, ui: str, folder: str | None) -> None:
    found = where(kind, ui)
    assert found == Place(folder) if folder else isinstance(found, NoPlace)
    assert folders_of(kind).get(ui) == folder


def test_every_kind_but_unknown_is_in_the_table() -> None:
    assert set(KINDS) == set(TABLE) == set(ALL_KINDS) - {"unknown"}
    assert folders_of("unknown") == {}
    assert refusals_of("unknown") == {}
    assert isinstance(where("unknown", "a1111"), NoPlace)


@pytest.mark.parametrize("kind", TABLE)
def test_invokeai_imports_into_a_database(kind: str) -> None:
    found = where(kind, "invokeai")
    assert isinstance(found, NoPlace)
    assert "database" in found.reason
    assert "Model Manager" in found.hint
    assert "invokeai" in refusals_of(kind)
    assert "invokeai" not in folders_of(kind)


def test_every_ui_either_has_a_folder_or_says_why_not() -> None:
    for kind in KINDS:
        assert set(folders_of(kind)) | set(refusals_of(kind)) == set(UIS)
        assert not set(folders_of(kind)) & set(refusals_of(kind))
        for refusal in refusals_of(kind).values():
            assert refusal.reason
            assert refusal.hint


UPSCALERS = {
    "layers.0.residual_group.blocks.0.norm1.weight": "models/SwinIR",
    "layers.0.residual_group.overlap_attn.relative_position_bias_table": "models/HAT",
    "layers.0.blocks.0.attn.attn_mask_0": "models/DAT",
    "m_body.0.trans_block.ln1.weight": "models/ScuNET",
    "RRDB_trunk.0.RDB1.conv1.weight": "models/ESRGAN",
}


@pytest.mark.parametrize("ui", ["a1111", "forge", "sdnext"])
@pytest.mark.parametrize("name", UPSCALERS)
def test_upscalers_have_folders_by_architecture(name: str, ui: str) -> None:
    names = ["conv_first.weight", "layers.0.residual_group.conv.weight"] if "overlap" in name else ["conv_first.weight"]
    assert where("upscaler", ui, names=[*names, name]) == Place(UPSCALERS[name])
    assert where("upscaler", "comfyui", names=[*names, name]) == Place("models/upscale_models")


@pytest.mark.parametrize("kind", ["checkpoint", "lora"])
def test_a1111_loads_no_family_that_is_younger_than_it(kind: str) -> None:
    assert isinstance(where(kind, "a1111", "flux"), NoPlace)
    for base in (None, "ambiguous", "sd1", "sd2", "sdxl", "sdxl-refiner", "sd3"):
        assert isinstance(where(kind, "a1111", base), Place)
    assert where("checkpoint", "comfyui", "flux") == Place("models/checkpoints")

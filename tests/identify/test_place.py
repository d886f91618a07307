"""Every kind goes where its UI looks for it, whole, and never over another file or out of the root."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptool.identify.folders import KINDS
from fixtures.models import hypernetwork, state_dict, textual_inversion
from fixtures.torchfile import save_zip
from tests.convert.converting import Ran, ckptool
from tests.identify.fitting import ESRGAN, SWINIR, ip_adapter, scaled, stored, t2i_adapter, zeros
from tests.identify.test_folders import TABLE

COLUMNS = ("a1111", "forge", "comfyui", "sdnext")


def control_lora() -> dict[str, tuple[int, ...]]:
    layers = {
        f"input_blocks.4.1.transformer_blocks.0.attn2.to_{part}.{half}": shape
        for part in "kv"
        for half, shape in (("down", (8, 128)), ("up", (40, 8)))
    }
    return {"lora_controlnet": (0,), "input_hint_block.0.weight": (16, 3, 3, 3), **layers}


# Kind -> what writes a file of it.
FILES: dict[str, Callable[[Path], Path]] = {
    "checkpoint": lambda path: stored("sd1", path),
    "unet": lambda path: stored("diffusers-unet-sd1", path),
    "vae": lambda path: stored("vae", path),
    "text-encoder": lambda path: stored("diffusers-te-sdxl-2", path),
    "lora": lambda path: stored("lora-kohya-sd1", path),
    "lycoris": lambda path: stored("lycoris-loha-sd1", path),
    "textual-inversion": lambda path: stored("textual-inversion-sd1", path, 1),
    "controlnet": lambda path: stored("controlnet-sd1", path),
    "control-lora": lambda path: zeros(control_lora(), path),
    "t2i-adapter": lambda path: zeros(t2i_adapter(factor=16), path),
    "ip-adapter": lambda path: zeros(ip_adapter(48, 16), path),
    "upscaler": lambda path: zeros(ESRGAN, path),
}
CASES = [
    (kind, ui, folder) for kind, row in TABLE.items() if kind in FILES for ui, folder in zip(COLUMNS, row, strict=True)
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    for kind, make in FILES.items():
        make(folder / f"{kind}.safetensors")
    return folder


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return zeros({name: shape for name, (_, shape) in LORA.items()}, tmp_path / "style.safetensors")


LORA = dict(list(scaled("lora-kohya-sd1", 16).items())[-300:])


def root_of(ui: str, folder: Path) -> Path:
    root = folder / ui
    (root / ("custom_nodes" if ui == "comfyui" else "modules")).mkdir(parents=True)
    (root / "models").mkdir()
    return root


def place(source: Path, ui: str, root: Path, *options: object) -> Ran:
    return ckptool("place", source, "--ui", ui, "--root", root, *options)


def files_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize(("kind", "ui", "folder"), CASES)
def test_each_kind_goes_into_its_folder(kind: str, ui: str, folder: str | None, library: Path, tmp_path: Path) -> None:
    root = root_of(ui, tmp_path)
    source = library / f"{kind}.safetensors"
    ran = place(source, ui, root)
    if folder is None:
        assert (ran.code, len(ran.err.splitlines())) == (3, 2), ran
        assert files_below(root) == set()
        return
    assert ran.code == 0, ran.err
    assert files_below(root) == {f"{folder}/{kind}.safetensors"}
    assert (root / folder / source.name).read_bytes() == source.read_bytes()
    assert folder in ran.out


@pytest.mark.parametrize("kind", FILES)
def test_invokeai_is_told_to_import(kind: str, library: Path, tmp_path: Path) -> None:
    ran = place(library / f"{kind}.safetensors", "invokeai", tmp_path)
    assert ran.code == 3
    assert "database" in ran.err
    assert "Model Manager" in ran.err
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize("ui", COLUMNS)
def test_a_hypernetwork_becomes_a_clean_pt(ui: str, tmp_path: Path) -> None:
    root = root_of(ui, tmp_path)
    save_zip(hypernetwork(), tmp_path / "anime.pt")
    assert place(tmp_path / "anime.pt", ui, root).code == 3
    ran = place(tmp_path / "anime.pt", ui, root, "--convert")
    assert ran.code == 0, ran.err
    assert files_below(root) == {"models/hypernetworks/anime.pt"}
    loaded = torch.load(root / "models/hypernetworks/anime.pt", weights_only=True)
    assert set(loaded) >= {320, 640, 768, 1280, "layer_structure", "activation_func"}
    again = place(tmp_path / "anime.pt", ui, root, "--convert")
    assert (again.code, "already there" in again.out) == (0, True)


def test_a_hypernetwork_as_safetensors_loads_nowhere(tmp_path: Path) -> None:
    stored("hypernetwork-a1111", tmp_path / "anime.safetensors", 1)
    for ui in COLUMNS:
        for options in ((), ("--convert",)):
            ran = place(tmp_path / "anime.safetensors", ui, root_of(ui, tmp_path / str(len(options))), *options)
            assert ran.code == 3
            assert ".pt" in ran.err


@pytest.mark.parametrize("ui", ["a1111", "sdnext"])
def test_an_upscaler_goes_by_its_architecture(ui: str, tmp_path: Path) -> None:
    root = root_of(ui, tmp_path)
    assert place(zeros(SWINIR, tmp_path / "x.safetensors"), ui, root, "--kind", "upscaler").code == 0
    assert files_below(root) == {"models/SwinIR/x.safetensors"}


# --- pickles and models in parts ---------------------------------------------------------------------------


def test_a_pickle_is_refused_unless_it_is_converted(tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    tensors = state_dict("lora-kohya-sd1", 16)
    save_zip(tensors, tmp_path / "l.ckpt")
    ran = place(tmp_path / "l.ckpt", "a1111", root)
    assert (ran.code, len(ran.err.splitlines())) == (3, 2)
    assert "--convert" in ran.err
    assert files_below(root) == set()
    ran = place(tmp_path / "l.ckpt", "a1111", root, "--convert")
    assert ran.code == 0, ran.err
    assert files_below(root) == {"models/Lora/l.safetensors"}
    ckptool("convert", tmp_path / "l.ckpt", tmp_path / "expected.safetensors")
    assert (root / "models/Lora/l.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    again = place(tmp_path / "l.ckpt", "a1111", root, "--convert")
    assert (again.code, "already there" in again.out) == (0, True)


def test_a_hash_that_the_file_states_of_itself_is_made_true_and_found_again(tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    save_zip({**state_dict("lora-kohya-sd1", 16), "sshs_model_hash": "0" * 64}, tmp_path / "l.pt")
    assert place(tmp_path / "l.pt", "a1111", root, "--convert").code == 0
    assert b"0" * 64 not in (root / "models/Lora/l.safetensors").read_bytes()[:2000]
    again = place(tmp_path / "l.pt", "a1111", root, "--convert")
    assert (again.code, "already there" in again.out) == (0, True), again.err


def test_a_payload_is_reported_and_does_not_arrive(tmp_path: Path) -> None:
    from fixtures.assembler import Call, Global

    root = root_of("comfyui", tmp_path)
    payload = Call(Global("posix", "system"), ("touch PWNED",))
    save_zip({**state_dict("lora-kohya-sd1", 16), "zz": payload}, tmp_path / "l.pt")
    ran = place(tmp_path / "l.pt", "comfyui", root, "--convert", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert any(finding["severity"] == "error" for finding in report["findings"])
    assert b"PWNED" not in (root / "models/loras/l.safetensors").read_bytes()


def test_an_embedding_is_converted_to_what_uis_load(tmp_path: Path) -> None:
    root = root_of("forge", tmp_path)
    save_zip(textual_inversion(), tmp_path / "style.pt")
    assert place(tmp_path / "style.pt", "forge", root, "--convert").code == 0
    (vectors,) = load_file(root / "embeddings/style.safetensors").values()
    assert vectors.shape == (4, 768)


def test_a_model_in_shards_becomes_one_file(tmp_path: Path) -> None:
    root = root_of("comfyui", tmp_path)
    save_zip(state_dict("diffusers-unet-sd1", 16), tmp_path / "u.pt")
    ran = ckptool("convert", tmp_path / "u.pt", tmp_path / "u.safetensors", "--max-shard-size", "1MB")
    assert ran.code == 0, ran.err
    index = tmp_path / "u.safetensors.index.json"
    ran = place(index, "comfyui", root)
    assert ran.code == 3
    assert "--convert" in ran.err
    assert place(index, "comfyui", root, "--convert").code == 0
    assert files_below(root) == {"models/diffusion_models/u.safetensors"}


def test_a_pipeline_in_a_folder_is_no_checkpoint_in_a_file(tmp_path: Path) -> None:
    """Its layers would have names that no UI reads from one file."""
    for part, architecture, file in (("unet", "diffusers-unet-sd1", "diffusion_pytorch_model"),
                                     ("vae", "diffusers-vae", "diffusion_pytorch_model")):  # fmt: skip
        (tmp_path / "p" / part).mkdir(parents=True)
        stored(architecture, tmp_path / "p" / part / f"{file}.safetensors")
    (tmp_path / "p" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    for options in ((), ("--convert",)):
        ran = place(tmp_path / "p", "a1111", root_of("a1111", tmp_path / str(len(options))), *options)
        assert (ran.code, len(ran.err.splitlines())) == (3, 2), ran
        assert "one by one" in ran.err
    root = root_of("comfyui", tmp_path)
    assert place(tmp_path / "p" / "unet", "comfyui", root).code == 0
    assert files_below(root) == {"models/diffusion_models/unet.safetensors"}


# --- names, links and what is there already ----------------------------------------------------------------


def test_nothing_is_overwritten(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    goal = root / "models/Lora/style.safetensors"
    goal.parent.mkdir()
    goal.write_text("mine")
    for options in ((), ("--link",), ("--dry-run",)):
        ran = place(lora, "a1111", root, *options)
        assert (ran.code, len(ran.err.splitlines())) == (2, 2)
        assert goal.read_text() == "mine"
    goal.unlink()
    goal.symlink_to(tmp_path / "nowhere")
    assert place(lora, "a1111", root).code == 2
    assert files_below(root) == {"models/Lora/style.safetensors"}
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("first", [(), ("--link",)])
@pytest.mark.parametrize("second", [(), ("--link",)])
def test_the_same_content_is_no_obstacle(
    first: tuple[str, ...], second: tuple[str, ...], lora: Path, tmp_path: Path
) -> None:
    root = root_of("a1111", tmp_path)
    assert place(lora, "a1111", root, *first).code == 0
    ran = place(lora, "a1111", root, *second)
    assert ran.code == 0
    assert "already there" in ran.out


def test_a_file_that_is_in_its_place_stays_there(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    (root / "models/Lora").mkdir()
    lora.rename(root / "models/Lora/style.safetensors")
    assert place(root / "models/Lora/style.safetensors", "a1111", root).code == 0
    assert files_below(root) == {"models/Lora/style.safetensors"}


def test_a_link_is_hard_on_one_file_system(lora: Path, tmp_path: Path) -> None:
    root = root_of("comfyui", tmp_path)
    ran = place(lora, "comfyui", root, "--link")
    assert ran.code == 0
    assert "hard link" in ran.out
    assert os.path.samefile(root / "models/loras/style.safetensors", lora)
    assert not (root / "models/loras/style.safetensors").is_symlink()


@pytest.mark.parametrize("options", [("--link", "--convert"), ("--link",)])
def test_a_pickle_is_never_linked(options: tuple[str, ...], tmp_path: Path) -> None:
    root = root_of("comfyui", tmp_path)
    save_zip(state_dict("lora-kohya-sd1", 16), tmp_path / "l.pt")
    assert place(tmp_path / "l.pt", "comfyui", root, *options).code in (2, 3)
    assert files_below(root) == set()


def test_safetensors_under_another_ending_get_the_ending_that_uis_look_for(lora: Path, tmp_path: Path) -> None:
    """A UI would read style.ckpt as a pickle."""
    root = root_of("a1111", tmp_path)
    ran = place(lora.rename(tmp_path / "style.ckpt"), "a1111", root)
    assert ran.code == 0
    assert files_below(root) == {"models/Lora/style.safetensors"}


ODD_NAMES = {
    "..": "model", "...x": "x", "a\nb": "a_b", "a\x1b[31mb": "a_[31mb", "<lora:x:1>": "_lora_x_1_", "a\\b": "a_b",
    ".hidden": "hidden", "x" * 240: "x" * 180, "é" * 120: "é" * 90, "a b": "a b", "v1.5": "v1.5", "  a  ": "a",
}  # fmt: skip


@pytest.mark.parametrize("stem", ODD_NAMES)
def test_names_become_safe(stem: str, lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    source = lora.rename(tmp_path / f"{stem}.safetensors")
    ran = place(source, "a1111", root)
    assert ran.code == 0, ran.err
    assert files_below(root) == {f"models/Lora/{ODD_NAMES[stem]}.safetensors"}
    assert "\x1b" not in ran.out


def test_a_name_that_is_no_unicode_becomes_safe(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    source = os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"
    os.rename(lora, source)
    ran = place(Path(os.fsdecode(source)), "a1111", root, "--json")
    assert ran.code == 0, ran.err
    assert files_below(root) == {"models/Lora/__.safetensors"}


def test_the_sidecar_goes_with_it(tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    source = stored("sd2.1-v", tmp_path / "v.safetensors")
    source.with_suffix(".yaml").write_text('parameterization: "v"\n')
    ran = place(source, "a1111", root)
    assert ran.code == 0
    assert files_below(root) == {"models/Stable-diffusion/v.safetensors", "models/Stable-diffusion/v.yaml"}
    (root / "models/Stable-diffusion/v.yaml").write_text("mine")
    (root / "models/Stable-diffusion/v.safetensors").unlink()
    assert place(source, "a1111", root).code == 2
    assert files_below(root) == {"models/Stable-diffusion/v.yaml"}
    assert (root / "models/Stable-diffusion/v.yaml").read_text() == "mine"


def test_the_vae_rule_of_a1111_is_told(tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    ran = place(stored("vae", tmp_path / "model.vae.safetensors"), "a1111", root)
    assert ran.code == 0
    assert "only beside its checkpoint" in ran.out
    stored("sd1", tmp_path / "model.safetensors")
    (root / "models/Stable-diffusion").mkdir()
    (root / "models/Stable-diffusion/model.vae.safetensors").write_bytes(b"a VAE")
    assert "as its VAE" in place(tmp_path / "model.safetensors", "a1111", root).out
    hidden = (tmp_path / "model.safetensors").rename(tmp_path / "my.vae.big.safetensors")
    assert "hides" in place(hidden, "a1111", root).out


# --- the kind ----------------------------------------------------------------------------------------------


def test_an_unknown_kind_is_refused_until_somebody_says_what_it_is(tmp_path: Path) -> None:
    root = root_of("comfyui", tmp_path)
    source = zeros({"something.weight": (3, 4)}, tmp_path / "x.safetensors")
    ran = place(source, "comfyui", root)
    assert (ran.code, len(ran.err.splitlines())) == (3, 2)
    assert "--kind" in ran.err
    assert place(source, "comfyui", root, "--kind", "vae").code == 0
    assert files_below(root) == {"models/vae/x.safetensors"}


def test_every_kind_can_be_said(tmp_path: Path) -> None:
    source = zeros({"something.weight": (3, 4)}, tmp_path / "x.safetensors")
    for kind in KINDS:
        root = root_of("comfyui", tmp_path / kind)
        assert place(source, "comfyui", root, "--kind", kind).code == (3 if kind == "hypernetwork" else 0)


def test_what_is_said_against_the_evidence_is_warned_of(lora: Path, tmp_path: Path) -> None:
    ran = place(lora, "comfyui", root_of("comfyui", tmp_path), "--kind", "vae")
    assert ran.code == 0
    assert "it looks like a file of the kind 'lora'" in ran.out


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    root = root_of("comfyui", tmp_path)
    (tmp_path / "x.safetensors").write_text("<!doctype html>")
    assert place(tmp_path / "x.safetensors", "comfyui", root, "--kind", "lora").code == 3
    assert place(tmp_path / "nothing.safetensors", "comfyui", root).code == 2
    assert files_below(root) == set()


# --- reports -----------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_path_and_writes_nothing(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    ran = place(lora, "a1111", root, "--dry-run")
    assert ran.code == 0
    assert str(root / "models/Lora/style.safetensors") in ran.out
    assert files_below(root) == set()
    assert not (root / "models/Lora").exists()


def test_the_report_says_what_was_put_where(lora: Path, tmp_path: Path) -> None:
    root = root_of("a1111", tmp_path)
    ran = place(lora, "a1111", root, "--json", "--report", tmp_path / "r.html")
    report = json.loads(ran.out)
    goal = root / "models/Lora/style.safetensors"
    assert report["output"]["path"] == str(goal)
    assert report["output"]["bytes"] == goal.stat().st_size
    assert (report["ui"], report["kind"], report["method"]) == ("a1111", "lora", "copied")
    assert len(report["output"]["sha256"]) == 64
    assert "style.safetensors" in (tmp_path / "r.html").read_text()


def test_a_refusal_is_in_the_report(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    ran = place(tmp_path / "x.safetensors", "comfyui", root_of("comfyui", tmp_path), "--json")
    assert ran.code == 3
    assert "--kind" in json.loads(ran.out)["error"]["hint"]

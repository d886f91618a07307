"""Components and names: what is asked for stays, under the names that loaders want, and nothing else does."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixtures.models import StateDict, state_dict
from fixtures.tensors import of
from fixtures.torchfile import save_zip
from tests.convert.converting import ckptool
from tests.prune.pruning import Pruned, checkpoint, prune, refused, same, same_bytes, saved

UNET = "model.diffusion_model."
VAE = "first_stage_model."


def stripped(tensors: StateDict, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}


# Architecture, component, what goes from its names.
ALONE = (
    ("sd1", "vae", VAE), ("sdxl-base", "vae", VAE), ("sd1", "unet", UNET), ("sd2.1-v", "unet", UNET),
    ("sdxl-base", "unet", UNET), ("sd1", "text_encoder", "cond_stage_model.transformer."),
    ("sd2-eps", "text_encoder", "cond_stage_model.model."),
    ("sdxl-base", "text_encoder", "conditioner.embedders.0.transformer."),
    ("sdxl-base", "text_encoder_2", "conditioner.embedders.1.model."),
    ("sdxl-refiner", "text_encoder", "conditioner.embedders.0.model."),
)  # fmt: skip


@pytest.mark.parametrize(("architecture", "component", "prefix"), ALONE)
def test_a_component_alone_gets_the_names_that_loaders_want(
    architecture: str, component: str, prefix: str, tmp_path: Path
) -> None:
    path, tensors = checkpoint(tmp_path, architecture)
    pruned = prune(path, "--only", component)
    same_bytes(pruned, tensors, stripped(tensors, prefix))
    assert len(pruned.report["renamed"]) == len(pruned.tensors)


@pytest.mark.parametrize(
    ("alias", "component"), [("te", "text_encoder"), ("clip", "text_encoder"), ("te2", "text_encoder_2")]
)
def test_short_names(alias: str, component: str, tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sdxl-base")
    assert prune(path, "--only", alias).tensors.keys() == prune(path, "--only", component).tensors.keys()


def test_a_text_encoder_that_left_its_text_model_off_gets_it_back(tmp_path: Path) -> None:
    prefix = "cond_stage_model.transformer."
    tensors = {n.replace(prefix + "text_model.", prefix): t for n, t in state_dict("sd1", 64).items()}
    save_zip(tensors, tmp_path / "m.ckpt")
    names = {f"text_model.{n.removeprefix(prefix)}": n for n in tensors if n.startswith(prefix)}
    same_bytes(prune(tmp_path / "m.ckpt", "--only", "te"), tensors, names)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["controlnet-sd1-cldm-full", "controlnet-sd2-cldm-full"])
def test_a_controlnet_out_of_a_full_file_keeps_its_names(architecture: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, architecture)
    pruned = prune(path, "--only", "control")
    same_bytes(pruned, tensors, same(name for name in tensors if name.startswith("control_model.")))
    assert pruned.report["renamed"] == []


def test_the_checkpoint_around_a_controlnet(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "controlnet-sd1-cldm-full")
    pruned = prune(path, "--without", "control")
    same_bytes(pruned, tensors, same(name for name in tensors if not name.startswith("control_model.")))


def test_two_components_keep_their_names(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path)
    same_bytes(
        prune(path, "--only", "unet", "--only", "vae"), tensors, same(n for n in tensors if n.startswith((UNET, VAE)))
    )


def test_without_components(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path)
    pruned = prune(path, "--without", "vae", "--without", "te")
    same_bytes(pruned, tensors, same(n for n in tensors if not n.startswith((VAE, "cond_stage_model."))))


def test_a_unet_takes_the_markers_of_its_prediction_along(tmp_path: Path) -> None:
    markers = {name: of("F32", (0,), b"") for name in ("v_pred", "ztsnr")}
    path, tensors = checkpoint(tmp_path, "sdxl-base", **markers)
    same_bytes(prune(path, "--only", "unet"), tensors, stripped(tensors, UNET) | same(markers))


def test_the_unet_of_the_average(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sd1-full-ema")
    expected = {
        name: "model_ema." + full.removeprefix("model.").replace(".", "")
        for name, full in stripped(tensors, UNET).items()
    }
    same_bytes(prune(path, "--only", "unet", "--ema", "use"), tensors, expected)


def test_only_the_average(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "sd1-full-ema")
    assert "--ema keep" in refused(path, "--only", "ema", code=2).err
    pruned = prune(path, "--only", "ema", "--ema", "keep")
    same_bytes(pruned, tensors, same(name for name in tensors if name.startswith("model_ema.")))


def test_the_half_of_a_lora_that_changes_the_unet(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, "lora-kohya-sd1", 16)
    same_bytes(prune(path, "--only", "unet"), tensors, same(n for n in tensors if n.startswith("lora_unet_")))


def test_a_component_that_is_not_there(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    for option in ("--only", "--without"):
        error = refused(path, option, "control", code=2).err
        assert "no control" in error
        assert "text_encoder, unet, vae" in error
    refused(path, "--only", "nonsense", code=2)


def prune_to(source: Path, target: Path) -> Path:
    assert ckptool("prune", source, target).code == 0
    return target


def some() -> dict[str, torch.Tensor]:
    return {name: torch.ones(1) for name in ("a.b.weight", "a.b.bias", "a.c.weight", "d[0].weight", "e")}


def left(pruned: Pruned) -> set[str]:
    return set(pruned.tensors)


def test_names_by_glob(tmp_path: Path) -> None:
    path = saved(some(), tmp_path)
    everything = set(some())
    assert left(prune(path, "--drop", "a.*.weight")) == everything - {"a.b.weight", "a.c.weight"}
    assert left(prune(path, "--drop", "a.?.bias", "--drop", "e")) == everything - {"a.b.bias", "e"}
    assert left(prune(path, "--drop", "d[[]0].*")) == everything - {"d[0].weight"}
    assert left(prune(path, "--drop", "a.*", "--keep", "*.bias")) == everything - {"a.b.weight", "a.c.weight"}


def test_keep_wins_over_components(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path)
    pruned = prune(path, "--only", "vae", "--keep", "betas")
    same_bytes(pruned, tensors, stripped(tensors, VAE) | {"betas": "betas"})


def test_names_stay_whole_where_more_than_one_component_is_kept(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path)
    pruned = prune(path, "--only", "unet", "--keep", VAE + "*")
    same_bytes(pruned, tensors, same(name for name in tensors if name.startswith((UNET, VAE))))


def test_metadata_of_the_whole_file_do_not_hinder(tmp_path: Path) -> None:
    described = {"modelspec.architecture": "stable-diffusion-v1", "modelspec.prediction_type": "epsilon"}
    path, _ = checkpoint(tmp_path)
    whole = load_file(prune_to(path, tmp_path / "whole.safetensors"))
    source = saved(whole, tmp_path, described)
    for component in ("unet", "vae", "te"):
        prune(source, "--only", component)


@pytest.mark.parametrize("option", ["--keep", "--drop"])
def test_a_glob_that_matches_nothing_names_what_is_near(option: str, tmp_path: Path) -> None:
    error = refused(saved(some(), tmp_path), option, "a.b.wieght", code=2).err
    assert "a.b.wieght" in error
    assert "a.b.weight" in error


def test_dropping_everything_is_refused(tmp_path: Path) -> None:
    assert "nothing would be left" in refused(saved(some(), tmp_path), "--drop", "*").err


@pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "[" * 50, "(a+)+$", "[!a-", "**************b"])
def test_odd_globs_end_soon(pattern: str, tmp_path: Path) -> None:
    refused(saved({"a" * 5000: torch.ones(1)}, tmp_path), "--drop", pattern, code=2)


def test_names_that_would_be_the_same_are_refused(tmp_path: Path) -> None:
    tensors = state_dict("sd1", 64)
    save_zip({**tensors, "encoder.conv_in.weight": tensors["betas"]}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", "--only", "vae", "--keep", "encoder.conv_in.weight")

"""What comes out is identified again: another model is refused."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from ckptool.convert.read import read
from ckptool.identify.identify import identify
from fixtures.tensors import of
from tests.prune.pruning import checkpoint, prune, refused

V_PRED = of("F32", (0,), b"")


def test_a_v_model_without_its_marker_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sdxl-base", v_pred=V_PRED)
    error = refused(path, "--drop", "v_pred").err
    assert "prediction type v becomes epsilon" in error


def test_components_alone_show_less_and_that_is_right(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "sd1-inpainting")
    assert len(prune(path, "--only", "vae").tensors) == 248


def test_a_unet_that_would_lose_what_tells_its_variant_is_refused(tmp_path: Path) -> None:
    """Without its middle attention an SDXL looks like another network."""
    path, _ = checkpoint(tmp_path, "sdxl-base")
    refused(path, "--drop", "model.diffusion_model.middle_block.1.*")


@pytest.mark.parametrize("architecture", ["sd1", "sd1-inpainting", "sd2-inpainting", "sdxl-refiner"])
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_every_component_of_a_variant_comes_out(architecture: str, component: str, tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, architecture)
    prune(path, "--only", component)


def kind_of(path: Path) -> str:
    with ExitStack() as stack:
        return identify(read(path, stack)).kind


KINDS = (("vae", "vae"), ("unet", "unet"), ("text_encoder", "text-encoder"))


@pytest.mark.parametrize("architecture", ["sd1", "sd2.1-v", "sdxl-base"])
@pytest.mark.parametrize(("component", "kind"), KINDS)
def test_a_component_alone_is_known_as_what_it_is(architecture: str, component: str, kind: str, tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, architecture, 16)
    prune(path, "--only", component)
    assert kind_of(tmp_path / "out.safetensors") == kind


def test_a_controlnet_alone_is_known_as_one(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "controlnet-sd1-cldm-full", 16)
    prune(path, "--only", "control")
    assert kind_of(tmp_path / "out.safetensors") == "controlnet"

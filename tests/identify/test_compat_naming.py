"""The two ways of naming, held against every name and shape of the real architectures."""

from dataclasses import dataclass
from math import prod

import pytest

from ckptool.identify.naming import Target, backwards, ldm_names, renamed, targets, unet_table, vae_table
from ckptool.tensor import Inline, Tensor
from fixtures import manifests

Shapes = dict[tuple[str, str], tuple[int, ...]]


def tensors(architecture: str, prefix: str = "") -> list[Tensor]:
    return [Tensor(prefix + n, d, s, Inline(b"")) for n, (d, s) in manifests.load(architecture).items()]


def shapes(found: tuple[Target, ...]) -> Shapes:
    result = {(target.component, target.name): target.shape for target in found}
    assert len(result) == len(found), "two tensors have one canonical name"
    return result


@dataclass(frozen=True, slots=True)
class Pair:
    """A checkpoint, the parts of the same model in diffusers, and the LDM tensors that diffusers has not."""

    ldm: str
    parts: dict[str, str]
    only_ldm: frozenset[str] = frozenset()


POSITIONS = "embeddings.position_ids"
PAIRS = (
    Pair("sd1", {"unet": "diffusers-unet-sd1", "vae": "diffusers-vae", "text_encoder": "diffusers-te-sd1"}),
    Pair("sd1-inpainting", {"unet": "diffusers-unet-sd1-inpainting", "vae": "diffusers-vae"}),
    Pair("sd2-eps", {"unet": "diffusers-unet-sd2", "vae": "diffusers-vae", "text_encoder": "diffusers-te-sd2"}),
    Pair("sd2.1-v", {"unet": "diffusers-unet-sd2", "vae": "diffusers-vae", "text_encoder": "diffusers-te-sd2"}),
    Pair(
        "sdxl-base",
        {
            "unet": "diffusers-unet-sdxl",
            "vae": "diffusers-vae",
            "text_encoder": "diffusers-te-sd1",
            "text_encoder_2": "diffusers-te-sdxl-2",
        },
    ),
    Pair(
        "sdxl-refiner",
        {"unet": "diffusers-unet-sdxl-refiner", "vae": "diffusers-vae", "text_encoder_2": "diffusers-te-sdxl-2"},
    ),
)


def in_file_only(component: str, name: str, pair: Pair) -> bool:
    """What LDM files have and diffusers leaves out: buffers, the scale of CLIP's loss, SD2's last layer."""
    if not component.startswith("text_encoder"):
        return False
    unused = ("encoder.layers.23.", "text_projection.") if pair.ldm.startswith("sd2") else ()
    return name in (POSITIONS, "logit_scale", "transformer.text_model.embeddings.position_ids") or name.startswith(
        unused
    )


def reshaped(component: str, name: str, ldm: tuple[int, ...]) -> tuple[int, ...]:
    """What diffusers stores in another shape: the VAE's attention as matrices instead of 1 × 1 convolutions."""
    if component == "vae" and ".attentions.0.to_" in name and name.endswith(".weight"):
        assert ldm[2:] == (1, 1)
        return ldm[:2]
    return ldm


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.ldm)
def test_every_ldm_name_maps_onto_the_diffusers_name_of_the_same_shape(pair: Pair) -> None:
    found = shapes(targets(tensors(pair.ldm)))
    expected: Shapes = {}
    for component, architecture in pair.parts.items():
        expected |= shapes(targets(tensors(architecture, f"{component}.")))
    ours = {
        (component, name): reshaped(component, name, shape)
        for (component, name), shape in found.items()
        if component in pair.parts and not in_file_only(component, name, pair)
    }
    assert ours.keys() == expected.keys()
    assert ours == expected


@pytest.mark.parametrize("base", ["sd1", "sd2"])
def test_a_controlnet_maps_too(base: str) -> None:
    found = shapes(targets(tensors(f"controlnet-{base}")))
    assert found == shapes(targets(tensors(f"diffusers-controlnet-{base}")))
    assert {component for component, _ in found} == {"control"}


@pytest.mark.parametrize("architecture", ["sd1", "sd2.1-v", "sdxl-base", "sdxl-refiner"])
def test_the_map_reads_backwards(architecture: str) -> None:
    for tensor in tensors(architecture):
        for prefix, network in (("model.diffusion_model.", "unet"), ("first_stage_model.", "vae")):
            name = tensor.name.removeprefix(prefix)
            new = renamed(name, unet_table() if network == "unet" else vae_table(4))
            if name != tensor.name and new is not None:
                assert name in ldm_names(new, network), name


def test_only_an_upsampler_has_two_places_in_ldm() -> None:
    for new, old in backwards("unet").items():
        assert len(old) == 1 or new.endswith(".upsamplers.0.conv"), (new, old)


@pytest.mark.parametrize(
    ("architecture", "component"),
    [
        ("diffusers-unet-sdxl", "unet"),
        ("diffusers-vae", "vae"),
        ("vae", "vae"),
        ("diffusers-te-sdxl-2", "text_encoder"),
    ],
)
def test_a_component_alone_is_known_by_its_names(architecture: str, component: str) -> None:
    found = targets(tensors(architecture))
    assert {target.component for target in found} == {component}
    assert sum(prod(t.shape) for t in found) == sum(prod(s) for _, s in manifests.load(architecture).values())


def test_a_clip_without_text_model_in_its_names_is_the_same() -> None:
    """Some SD1 files were saved by a transformers that left it out."""
    old = tensors("sd1")
    short = [Tensor(t.name.replace(".text_model.", "."), t.dtype, t.shape, t.data) for t in old]
    assert shapes(targets(short)) == shapes(targets(old))


@pytest.mark.parametrize(
    "name", ["", ".", "...........", "a" * 100_000, "unet." * 50_000, "transformer.resblocks.9" * 99]
)
def test_names_of_any_form_are_taken_as_they_are(name: str) -> None:
    odd = Tensor(name, "F32", (3,), Inline(b""))
    rest = Tensor("model.diffusion_model." + name, "F32", (), Inline(b""))
    assert len(targets([odd, rest])) in (1, 2)

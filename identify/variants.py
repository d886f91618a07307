"""Variants of the networks that names alone tell apart."""

from ckptool.identify.names import Names, shown
from ckptool.tensor import Tensor

# Inputs of Flux' `img_in`: a latent patch of 2 × 2 × 16 (64), with a mask and a masked picture, with a control picture.
FLUX_INPUTS: dict[int, str] = {384: "fill", 128: "control"}
FLUX_HIDDEN = 3072
FLUX_IN = ("img_in.weight", "x_embedder.weight")
FLUX_GUIDANCE = ("guidance_in.in_layer.weight", "time_text_embed.guidance_embedder.linear_1.weight")
CASCADE_B = "effnet_mapper.0.weight"


def family_variant(base: str, names: Names) -> tuple[str | None, tuple[str, ...]]:
    """The variant of a network of this family, and the evidence for it."""
    if base == "flux":
        return flux_variant(names)
    if base == "cascade" and names.has(CASCADE_B):
        return "stage-b", (f"{CASCADE_B}: stage B",)
    return None, ()


def flux_variant(names: Names) -> tuple[str | None, tuple[str, ...]]:
    patches = next((names.tensors[name] for name in FLUX_IN if name in names.tensors), None)
    special = flux_inputs(patches)
    if patches and special:
        return special, (f"{shown(patches)}: takes more than a latent, {special}",)
    guidance = next((names.tensors[name] for name in FLUX_GUIDANCE if name in names.tensors), None)
    if guidance:
        return "dev", (f"{shown(guidance)}: guidance, as in dev",)
    return "schnell", ("no guidance_in, as in schnell",)


def flux_inputs(patches: Tensor | None) -> str | None:
    """By the ratio to the hidden width first: it stays when all widths are divided."""
    if patches is None or len(patches.shape) != 2:
        return None
    hidden, inputs = patches.shape
    for size in (64, *FLUX_INPUTS):
        if hidden and inputs * FLUX_HIDDEN == hidden * size:
            return FLUX_INPUTS.get(size)
    return FLUX_INPUTS.get(inputs)

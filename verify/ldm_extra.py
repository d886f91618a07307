"""The weights of a file by component and by the names that diffusers and transformers give their layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptool.identify.naming import Target, targets
from ckptool.tensor import Plan, Tensor

if TYPE_CHECKING:
    import torch

SCALES = (".scale_weight", ".weight_scale")
"""What FP8 weights are multiplied by, beside them."""
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "control")
# What no layer of these networks reads: the rest of CLIP, and the names of what is beside weights.
UNREAD = ("logit_scale", "vision_model.", "scale_input", "input_scale")


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """Where a parameter of a layer comes from."""

    tensor: Tensor
    shape: tuple[int, ...]
    """As the file has it, of its part: a layer may want it in fewer dimensions."""
    part: tuple[int, int] = (0, 1)
    """Which of how many equal parts, one below the other."""
    transposed: bool = False
    scale: Tensor | None = None
    change: "Callable[[torch.Tensor], None] | None" = None
    """What an adapter does to it, in F32 and in place."""


Weights = dict[str, Weight]


def components_of(plan: Plan) -> dict[str, Weights]:
    """The weights of each component in the file, in the order of COMPONENTS. Reads no values."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    found: dict[str, Weights] = {}
    seen: dict[str, int] = {}
    for target in bare_encoder(plan) or targets(plan.tensors):
        if target.component not in COMPONENTS or target.name.startswith(UNREAD) or is_scale(target.name):
            continue
        tensor = tensors[target.source]
        stacked = target.shape != tensor.shape
        part = (seen.get(target.source, 0), 3) if stacked else (0, 1)
        seen[target.source] = part[0] + 1
        found.setdefault(target.component, {}).setdefault(
            target.name, Weight(tensor, target.shape, part, is_transposed(target), scale_of(tensor, tensors))
        )
    return {name: renamed(name, found[name]) for name in COMPONENTS if name in found}


def bare_encoder(plan: Plan) -> tuple[Target, ...]:
    """A text encoder as transformers 5 writes it, without `text_model.` in front of its names."""
    if not any(tensor.name == "embeddings.token_embedding.weight" for tensor in plan.tensors):
        return ()
    return tuple(Target("text_encoder", t.name, t.shape, t.name) for t in plan.tensors)


def is_scale(name: str) -> bool:
    return name.endswith((*SCALES, ".scale_input", ".input_scale"))


def is_transposed(target: Target) -> bool:
    """OpenCLIP keeps this one as it is multiplied from the right."""
    return target.name == "text_projection.weight" and target.source.endswith("text_projection")


def scale_of(tensor: Tensor, tensors: dict[str, Tensor]) -> Tensor | None:
    if not tensor.dtype.startswith("F8") or not tensor.name.endswith(".weight"):
        return None
    layer = tensor.name.removesuffix(".weight")
    return next((tensors[layer + ending] for ending in SCALES if layer + ending in tensors), None)


def renamed(component: str, weights: Weights) -> Weights:
    """The few names that depend on what else the network has."""
    if component not in ("unet", "control"):
        return weights
    # LDM has one name for two things: sizes and text (SDXL), and the embedding of a picture (unCLIP).
    unclip = "down_blocks.0.attentions.0.norm.weight" in weights and "add_embedding.linear_1.weight" in weights
    made: Weights = {}
    for name, weight in weights.items():
        if unclip and name.startswith("add_embedding."):
            name = "class_" + name.removeprefix("add_")
        made["class_embedding.weight" if name == "label_emb.weight" else name] = weight
    return made

"""Builds the networks of diffusers and transformers without weights, and connects them with a file's."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from ckptool.verify.configs import Config, Shapes, Unknown, control_config, text_config, unet_config, vae_config
from ckptool.verify.ldm_extra import Weights
from ckptool.verify.mapped import TYPES, Maps
from ckptool.verify.streamed import attach

MOST_NAMED = 3
# In a file beside the weights, or in some versions of it only; no layer multiplies by them.
SPARE = ("embeddings.position_ids", "text_projection.weight")


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network that can run, its weights in their file."""

    component: str
    module: Any
    config: Config
    maps: Maps
    unused: tuple[str, ...]
    """Tensors of the component that the network has no place for."""


def build(component: str, weights: Weights, device: str = "cpu") -> Network:
    """The network of a component. Raises Unknown when its tensors are not those of one that is known."""
    config = config_of(component, weights)
    module = bare(component, config)
    wanted = {name: tuple(p.shape) for name, p in module.named_parameters()}
    chosen: Weights = {}
    wrong: list[str] = []
    for name, shape in wanted.items():
        weight = weights.get(canonical(name))
        if weight is None or not fits(weight.shape, shape, weight.transposed):
            wrong.append(name)
        else:
            chosen[name] = weight
    if wrong:
        more = f" and {len(wrong) - MOST_NAMED:,} more" if len(wrong) > MOST_NAMED else ""
        raise Unknown(f"missing, or of another shape: {', '.join(wrong[:MOST_NAMED])}{more}")
    odd = next((weight.tensor for weight in chosen.values() if weight.tensor.dtype not in TYPES), None)
    if odd is not None:
        raise Unknown(f"{odd.dtype} cannot be computed with")
    maps = Maps()
    attach(module, chosen, maps, device)
    give_positions(module, weights, maps, device)
    known = {canonical(name) for name in wanted}
    unused = tuple(w.tensor.name for name, w in weights.items() if name not in known and name not in SPARE)
    return Network(component, module.eval(), config, maps, unused)


def config_of(component: str, weights: Weights) -> Config:
    shapes: Shapes = {name: weight.shape for name, weight in weights.items()}
    match component:
        case "unet":
            return unet_config(shapes)
        case "control":
            return control_config(shapes)
        case "vae":
            return vae_config(shapes)
        case _:
            openclip = any(".attn.in_proj" in weight.tensor.name for weight in weights.values())
            return text_config(shapes, openclip)


def bare(component: str, config: Config) -> Any:
    """The network on the meta device, where it takes no memory. Raises Unknown when no such network can be."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    maker = MAKERS[component]
    try:
        with torch.device("meta"):
            return maker(config)
    except (ValueError, TypeError, RuntimeError, IndexError, OverflowError, AttributeError) as error:
        raise Unknown(f"no network has these widths: {str(error)[:200]}") from error


def make_unet(config: Config) -> Any:
    from diffusers import UNet2DConditionModel

    maker: Any = UNet2DConditionModel
    return maker(**config.arguments)


def make_control(config: Config) -> Any:
    from diffusers import ControlNetModel

    maker: Any = ControlNetModel
    return maker(**config.arguments)


def make_vae(config: Config) -> Any:
    from diffusers import AutoencoderKL

    maker: Any = AutoencoderKL
    return maker(**config.arguments)


def make_text(config: Config) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    settings = CLIPTextConfig(**config.arguments)
    return CLIPTextModelWithProjection(settings) if config.projects else CLIPTextModel(settings)


MAKERS: dict[str, Callable[[Config], Any]] = {
    "unet": make_unet,
    "control": make_control,
    "vae": make_vae,
    "text_encoder": make_text,
    "text_encoder_2": make_text,
}


def canonical(name: str) -> str:
    """A parameter's name without what only some versions of transformers put in front."""
    return name.removeprefix("text_model.")


def fits(shape: tuple[int, ...], wanted: tuple[int, ...], transposed: bool) -> bool:
    """Equal, but for kernels of 1 × 1 that one of the two leaves out."""
    if transposed:
        return shape[::-1] == wanted
    kernels = prod(shape[2:]) == prod(wanted[2:]) == 1 and shape[:2] == wanted[:2]
    return shape == wanted or (len(shape) >= 2 and len(wanted) >= 2 and kernels)


def give_positions(module: Any, weights: Weights, maps: Maps, device: str) -> None:
    """The positions of a text encoder as the file has them: a damaged list changes its pictures."""
    import torch

    for layer in module.modules():
        if "position_ids" not in layer._buffers:
            continue
        count = layer.position_embedding.num_embeddings
        positions = torch.arange(count)
        weight = weights.get("embeddings.position_ids")
        if weight is not None and prod(weight.shape) == count and weight.tensor.dtype in TYPES:
            # As loaders do it: cut off, not rounded.
            positions = maps.values(weight.tensor).to(torch.float64).nan_to_num().to(torch.int64).clamp(0, count - 1)
        layer._buffers["position_ids"] = positions.view(1, -1).to(device)

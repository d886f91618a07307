"""The two ways to name the layers of Stable Diffusion: LDM's (`input_blocks.1.0`) and that of diffusers.

Each network has a table from the beginning of an LDM name to the beginning of its diffusers name; what follows is the
same in both. Read backwards it gives the other direction. The canonical names of the rest of the program are those of
diffusers, those of text encoders without `text_model.`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from ckptool.tensor import Tensor

Table = dict[str, str]
"""Beginning of an LDM name -> beginning of the diffusers name, both ending before a dot."""
Shape = tuple[int, ...]

LEVELS = 4
"""Resolutions of a UNet at most: SD1 and SD2 have four, SDXL three."""
LAYERS = 2
"""Residual blocks per resolution: the same in SD1, SD2, SDXL, its refiner and the x4 upscaler."""
RESBLOCKS = 48
"""Layers of an OpenCLIP text encoder at most: H has 24, bigG 32."""
DEEPEST = 7
"""Parts of the longest beginning in a table."""

RESNET: Table = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET: Table = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
CONTROL: Table = {
    "input_hint_block.0": "controlnet_cond_embedding.conv_in",
    "input_hint_block.14": "controlnet_cond_embedding.conv_out",
    "middle_block_out.0": "controlnet_mid_block",
}
VAE_MIDDLE: Table = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
    "mid.attn_1.q": "mid_block.attentions.0.to_q",
    "mid.attn_1.k": "mid_block.attentions.0.to_k",
    "mid.attn_1.v": "mid_block.attentions.0.to_v",
    "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
    "norm_out": "conv_norm_out",
}
# The attention of a VAE under the names that diffusers gave it before 0.18.
OLD_VAE: Table = {
    f"{half}.mid_block.attentions.0.{old}": f"{half}.mid_block.attentions.0.{new}"
    for half in ("encoder", "decoder")
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
}
OPENCLIP_LAYER: Table = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OPENCLIP: Table = {
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final": "final_layer_norm",
    # Stored transposed: OpenCLIP multiplies by it from the right.
    "text_projection": "text_projection.weight",
}
# One matrix of OpenCLIP is three of CLIP, one below the other.
STACKED: dict[str, tuple[str, ...]] = {
    f"attn.in_proj_{kind}": tuple(f"self_attn.{part}_proj.{kind}" for part in "qkv") for kind in ("weight", "bias")
}


@cache
def unet_table() -> Table:
    """Of a UNet and of an LDM ControlNet."""
    table = UNET | CONTROL
    for number in (0, 1):
        table |= under(f"middle_block.{2 * number}", f"mid_block.resnets.{number}", RESNET)
    for block in range(1, LEVELS * (LAYERS + 1)):
        level, layer = divmod(block - 1, LAYERS + 1)
        if layer == LAYERS:
            table[f"input_blocks.{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            continue
        table |= under(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}", RESNET)
        table[f"input_blocks.{block}.1"] = f"down_blocks.{level}.attentions.{layer}"
    for block in range(LEVELS * (LAYERS + 1)):
        level, layer = divmod(block, LAYERS + 1)
        table |= under(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{layer}", RESNET)
        table[f"output_blocks.{block}.1"] = f"up_blocks.{level}.attentions.{layer}"
        for place in (1, 2):  # behind the attention, or in its place where a level has none
            table[f"output_blocks.{block}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
        table[f"zero_convs.{block}.0"] = f"controlnet_down_blocks.{block}"
    for block in range(6):
        table[f"input_hint_block.{2 * block + 2}"] = f"controlnet_cond_embedding.blocks.{block}"
    return table


def under(old: str, new: str, table: Table) -> Table:
    """The table below another beginning."""
    return {f"{old}.{key}": f"{new}.{value}" for key, value in table.items()}


@cache
def vae_table(levels: int) -> Table:
    """Of a VAE; LDM counts the levels of its decoder from the largest picture, diffusers from the smallest."""
    table: Table = {}
    for half in ("encoder", "decoder"):
        table |= under(half, half, VAE_MIDDLE)
        for number in (1, 2):
            block, resnet = f"{half}.mid.block_{number}", f"{half}.mid_block.resnets.{number - 1}"
            table[f"{block}.nin_shortcut"] = f"{resnet}.conv_shortcut"
    for level in range(levels):
        for layer in range(LAYERS + 1):
            for old, new in (
                (f"encoder.down.{level}.block.{layer}", f"encoder.down_blocks.{level}.resnets.{layer}"),
                (f"decoder.up.{level}.block.{layer}", f"decoder.up_blocks.{levels - 1 - level}.resnets.{layer}"),
            ):
                table |= {old: new, f"{old}.nin_shortcut": f"{new}.conv_shortcut"}
        table[f"encoder.down.{level}.downsample"] = f"encoder.down_blocks.{level}.downsamplers.0"
        table[f"decoder.up.{level}.upsample"] = f"decoder.up_blocks.{levels - 1 - level}.upsamplers.0"
    return table


@cache
def openclip_table() -> Table:
    table = dict(OPENCLIP)
    for layer in range(RESBLOCKS):
        table |= under(f"transformer.resblocks.{layer}", f"encoder.layers.{layer}", OPENCLIP_LAYER)
    return table


@cache
def backwards(network: str, levels: int = LEVELS) -> dict[str, tuple[str, ...]]:
    """Beginning of a diffusers name -> the beginnings that LDM has for it, two for an upsampler."""
    table = {"unet": unet_table(), "vae": vae_table(levels), "openclip": openclip_table()}[network]
    result: dict[str, tuple[str, ...]] = {}
    for old, new in table.items():
        result[new] = (*result.get(new, ()), old)
    return result


def beginnings(name: str) -> Iterator[tuple[str, str]]:
    """(beginning, rest with its dot) at every dot, the longest beginning first."""
    parts = name.split(".", DEEPEST)
    at = len(name) if len(parts) <= DEEPEST else len(name) - len(parts.pop()) - 1
    for part in reversed(parts):
        yield name[:at], name[at:]
        at -= len(part) + 1


def renamed(name: str, table: Table) -> str | None:
    """The name by the table's longest beginning that it has, None when it has none."""
    return next((table[head] + rest for head, rest in beginnings(name) if head in table), None)


def ldm_names(name: str, network: str, levels: int = LEVELS) -> tuple[str, ...]:
    """What LDM calls the layer that diffusers calls `name`; `network` is unet, vae or openclip."""
    table = backwards(network, levels)
    found = next(((table[head], rest) for head, rest in beginnings(name) if head in table), None)
    return () if found is None else tuple(head + found[1] for head in found[0])


@dataclass(frozen=True, slots=True)
class Target:
    """One weight of a checkpoint as an adapter addresses it."""

    component: str
    """unet, vae, text_encoder, text_encoder_2 or control."""
    name: str
    """As diffusers names it below the component."""
    shape: Shape
    source: str
    """The tensor's name in the file; of a stacked one, three targets have the same."""


# Beginning of a tensor's name -> component and way of naming. The first that fits counts.
PREFIXES: tuple[tuple[str, str, str], ...] = (
    ("model.diffusion_model.", "unet", "unet"),
    ("diffusion_model.", "unet", "unet"),
    ("control_model.", "control", "unet"),
    ("controlnet.", "control", "diffusers"),
    ("first_stage_model.", "vae", "vae"),
    ("cond_stage_model.transformer.", "text_encoder", "clip"),
    ("cond_stage_model.model.", "text_encoder", "openclip"),
    ("conditioner.embedders.0.transformer.", "text_encoder", "clip"),
    ("conditioner.embedders.0.model.", "text_encoder_2", "openclip"),  # the refiner has only this one
    ("conditioner.embedders.1.model.", "text_encoder_2", "openclip"),
    ("unet.", "unet", "diffusers"),
    ("transformer.", "unet", "diffusers"),
    ("vae.", "vae", "old-vae"),
    ("text_encoder.", "text_encoder", "clip"),
    ("text_encoder_2.", "text_encoder_2", "clip"),
)
# In front of every name of some files; they say nothing.
WRAPPERS = ("module.", "_orig_mod.", "net.")
# A component that stands alone, by a tensor that it has at the top.
ALONE: tuple[tuple[str, str, str], ...] = (
    ("zero_convs.0.0.weight", "control", "unet"),
    ("controlnet_down_blocks.0.weight", "control", "diffusers"),
    ("input_blocks.0.0.weight", "unet", "unet"),
    ("down_blocks.0.resnets.0.conv1.weight", "unet", "diffusers"),
    ("encoder.down.0.block.0.conv1.weight", "vae", "vae"),
    ("decoder.up.0.block.0.conv1.weight", "vae", "vae"),
    ("encoder.down_blocks.0.resnets.0.conv1.weight", "vae", "old-vae"),
    ("decoder.up_blocks.0.resnets.0.conv1.weight", "vae", "old-vae"),
    ("text_model.embeddings.token_embedding.weight", "text_encoder", "clip"),
    ("transformer.resblocks.0.ln_1.weight", "text_encoder", "openclip"),
)

OTHER = (("", "unet", "diffusers"),)


def targets(tensors: Iterable[Tensor]) -> tuple[Target, ...]:
    """Every weight of a checkpoint under its canonical name; names that no table knows stay as they are."""
    listed = tuple(tensors)
    wrapper = next((w for w in WRAPPERS if listed and all(tensor.name.startswith(w) for tensor in listed)), "")
    names = [tensor.name.removeprefix(wrapper) for tensor in listed]
    ways = PREFIXES if any(name.startswith(prefix) for name in names for prefix, _, _ in PREFIXES) else alone(names)
    levels = vae_levels(names)
    result: list[Target] = []
    for name, tensor in zip(names, listed, strict=True):
        for prefix, component, way in ways:
            if name.startswith(prefix):
                result += named(tensor, name.removeprefix(prefix), component, way, levels)
                break
    return tuple(result)


def alone(names: Iterable[str]) -> tuple[tuple[str, str, str], ...]:
    """The one way of naming of a component that stands alone; a network of another family keeps its names."""
    present = set(names)
    return next(((("", component, way),) for marker, component, way in ALONE if marker in present), OTHER)


def named(tensor: Tensor, name: str, component: str, way: str, levels: int) -> Iterator[Target]:
    """The targets behind one tensor: one, or three where they are stacked."""
    for ending, parts in STACKED.items() if way == "openclip" else ():
        if name.startswith("transformer.resblocks.") and name.endswith("." + ending) and tensor.shape:
            layer = name.removeprefix("transformer.resblocks.").removesuffix("." + ending)
            shape = (tensor.shape[0] // len(parts), *tensor.shape[1:])
            for part in parts:
                yield Target(component, f"encoder.layers.{layer}.{part}", shape, tensor.name)
            return
    match way:
        case "unet":
            name = renamed(name, unet_table()) or name
        case "vae":
            name = renamed(name, vae_table(levels)) or name
        case "old-vae":
            name = renamed(name, OLD_VAE) or name
        case "openclip":
            name = renamed(name, openclip_table()) or name
        case "clip":
            name = name.removeprefix("text_model.")
    yield Target(component, name, tensor.shape, tensor.name)


def vae_levels(names: Iterable[str]) -> int:
    """How many levels the decoder of an LDM VAE has."""
    decoder = (name.partition("decoder.up.") for name in names)
    present = {rest.split(".", 1)[0] for _, found, rest in decoder if found}
    return next((level for level in range(8, 0, -1) if str(level - 1) in present), LEVELS)

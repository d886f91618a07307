"""The configuration of a network, from the names and shapes of its tensors alone: nothing is downloaded."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd
from typing import Any

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
"""Name as diffusers gives it, below the component -> shape."""

DEEPEST = 8
"""Parts of a name that are looked at."""
MOST_BLOCKS = 64
"""Blocks of one kind, one after the other: SDXL has ten transformer blocks, bigG 32 layers."""
WIDEST = 1 << 16
PICTURE = 64
"""Channels of a picture at most: a layer at full size that a small file claims could take all memory."""
LATENT = 256
HINTS = 1024
"""Channels that the control picture is given at full size: 16 and 32 in every known ControlNet."""
POSITIONS = 1024
"""Tokens of a prompt: 77 in CLIP, 248 in LongCLIP. The square of it is what attention takes."""
VAE_LEVELS = 5
HEAD = 64
"""Width of an attention head of SD2, SDXL and every text encoder."""
HEADS = 8
"""Attention heads of SD1 and of the upscaler, whatever the width."""
GROUPS = 32


class Unknown(Exception):
    """No network that is known has these tensors; the text says why."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a network is built from, and what has to be said of it."""

    arguments: dict[str, Any]
    """Of the class that builds it."""
    groups: int = GROUPS
    """Of its norms: 32, or what a scaled-down width allows."""
    time_ids: int = 0
    """Sizes that SDXL is told: six, its refiner five."""
    pooled: int = 0
    """Width of the pooled text beside them, or of the picture's embedding."""
    projects: bool = False
    """A text encoder with a projection of the pooled text."""


class Tree:
    """Names by their dots, and shapes by name."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.beginnings = set(beginnings(shapes))

    def count(self, parent: str) -> int:
        """How many numbered children follow each other from 0 on."""
        number = 0
        while f"{parent}.{number}" in self.beginnings:
            number += 1
            if number > MOST_BLOCKS:
                raise Unknown(f"{parent} has more than {MOST_BLOCKS} parts")
        return number

    def width(self, name: str, axis: int = 0, most: int = WIDEST) -> int:
        """One dimension of a tensor that has to be there."""
        shape = self.shapes.get(name, ())
        if len(shape) <= axis:
            raise Unknown(f"{name} is not there" if not shape else f"{name} has too few dimensions")
        if not 0 < shape[axis] <= most:
            raise Unknown(f"{name} is {shape[axis]:,} wide")
        return shape[axis]


def beginnings(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        parts = name.split(".", DEEPEST)
        for end in range(1, len(parts) + 1):
            yield ".".join(parts[:end])


def divisor(number: int, most: int) -> int:
    """The largest divisor of a width that is at most `most`, and at least 1."""
    return next(d for d in range(max(min(number, most), 1), 0, -1) if number % d == 0)


def unet_config(shapes: Shapes) -> Config:
    """Of UNet2DConditionModel. Raises Unknown."""
    tree = Tree(shapes)
    arguments, groups = down_half(tree)
    levels = len(arguments["down_block_types"])
    if tree.count("up_blocks") != levels:
        raise Unknown("its way up has not the levels of its way down")
    depths = [depths_of(tree, f"up_blocks.{n}") for n in range(levels)]
    arguments["up_block_types"] = tuple(f"{'CrossAttn' if any(d) else ''}UpBlock2D" for d in depths)
    downs: list[Any] = list(arguments["transformer_layers_per_block"])
    plain = all(isinstance(d, int) for d in downs) and all(len(set(d)) == 1 for d in depths)
    if not plain or downs[::-1] != [
        max(d[0], 1) if any(d) else down for d, down in zip(depths, downs[::-1], strict=True)
    ]:
        # Uneven networks (SSD-1B, Segmind-Vega) give the way up layer by layer.
        arguments["reverse_transformer_layers_per_block"] = [tuple(max(n, 1) for n in d) for d in depths]
    arguments["mid_block_only_cross_attention"] = False
    arguments["out_channels"] = tree.width("conv_out.weight", most=LATENT)
    more, time_ids, pooled = conditions(tree, levels)
    return Config(arguments | more, groups, time_ids, pooled)


def control_config(shapes: Shapes) -> Config:
    """Of ControlNetModel. Raises Unknown."""
    tree = Tree(shapes)
    arguments, groups = down_half(tree)
    arguments["layers_per_block"] = arguments["layers_per_block"][0]  # this class takes one number
    hints = [tree.width(f"controlnet_cond_embedding.blocks.{n}.weight", most=HINTS) for n in range(1, 6, 2)]
    first = tree.width("controlnet_cond_embedding.conv_in.weight", most=HINTS)
    arguments["conditioning_embedding_out_channels"] = (first, *hints)
    arguments["conditioning_channels"] = tree.width("controlnet_cond_embedding.conv_in.weight", 1, PICTURE)
    more, time_ids, pooled = conditions(tree, len(arguments["down_block_types"]))
    return Config(arguments | more, groups, time_ids, pooled)


def down_half(tree: Tree) -> tuple[dict[str, Any], int]:
    """What a UNet and a ControlNet have in common: the way down and the middle."""
    levels = tree.count("down_blocks")
    if not 1 <= levels <= 8:
        raise Unknown("it has no blocks on its way down that are known")
    channels = [tree.width(f"down_blocks.{n}.resnets.0.conv1.weight") for n in range(levels)]
    layers = tuple(tree.count(f"down_blocks.{n}.resnets") for n in range(levels))
    depths = [depths_of(tree, f"down_blocks.{n}") for n in range(levels)]
    first = next((f"down_blocks.{n}" for n in range(levels) if any(depths[n])), "mid_block") + ".attentions.0"
    linear = len(tree.shapes.get(f"{first}.proj_in.weight", ())) == 2
    middle = tree.count("mid_block.attentions.0.transformer_blocks")
    attends = middle > 0 or any(map(any, depths))
    # A ControlNet of SDXL may have no attention at all, and then no use for a text.
    context = tree.width(f"{first}.transformer_blocks.0.attn2.to_k.weight", 1) if attends else HEAD
    groups = divisor(gcd(*channels), GROUPS)
    per_block: list[Any] = [d[0] if len(set(d)) == 1 else tuple(max(n, 1) for n in d) for d in depths]
    per_block = [max(d, 1) if isinstance(d, int) else d for d in per_block]
    if not any(depths[-1]) and middle:
        per_block[-1] = middle  # the last level has no attention of its own, and the middle is told by it
    eights = not linear or "class_embedding.weight" in tree.shapes
    return {
        "in_channels": tree.width("conv_in.weight", 1, LATENT),
        "block_out_channels": tuple(channels),
        "layers_per_block": layers,
        "down_block_types": tuple(f"{'CrossAttn' if any(d) else ''}DownBlock2D" for d in depths),
        "transformer_layers_per_block": per_block,
        "cross_attention_dim": context,
        "use_linear_projection": linear,
        "mid_block_type": middle_of(tree, middle),
        "only_cross_attention": tuple(only_cross(tree, n, context, channels[n]) for n in range(levels)),
        # Under this name diffusers takes the number of heads.
        "attention_head_dim": tuple(divisor(c, HEADS if eights else c // HEAD) for c in channels),
        "norm_num_groups": groups,
    }, groups


def middle_of(tree: Tree, depth: int) -> str | None:
    if depth:
        return "UNetMidBlock2DCrossAttn"
    return "UNetMidBlock2D" if "mid_block.resnets.0" in tree.beginnings else None


def depths_of(tree: Tree, block: str) -> tuple[int, ...]:
    """Transformer blocks behind each residual block of a level, 0 where there is no attention."""
    layers = range(tree.count(f"{block}.resnets"))
    return tuple(tree.count(f"{block}.attentions.{n}.transformer_blocks") for n in layers)


def only_cross(tree: Tree, level: int, context: int, channels: int) -> bool:
    """Whether the first attention of a level looks at the text too, as in the upscaler."""
    shape = tree.shapes.get(f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn1.to_k.weight", ())
    return len(shape) == 2 and shape[1] == context != channels


def conditions(tree: Tree, levels: int) -> tuple[dict[str, Any], int, int]:
    """What else it is told: sizes and pooled text (SDXL), a picture's embedding (unCLIP), a noise level (upscaler)."""
    if "class_embedding.weight" in tree.shapes:
        return {"num_class_embeds": tree.width("class_embedding.weight")}, 0, 0
    if "class_embedding.linear_1.weight" in tree.shapes:
        inputs = tree.width("class_embedding.linear_1.weight", 1)
        return {"class_embed_type": "projection", "projection_class_embeddings_input_dim": inputs}, 0, inputs
    if "add_embedding.linear_1.weight" not in tree.shapes:
        return {}, 0, 0
    inputs = tree.width("add_embedding.linear_1.weight", 1)
    # SDXL: 1280 of pooled text and 6 × 256 of sizes; its refiner, which has a level more, 5 × 256.
    time_ids = 5 if levels > 3 else 6
    step = inputs // (5 + time_ids)
    if step < 1:
        raise Unknown("its label embedding is too narrow")
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": step,
        "projection_class_embeddings_input_dim": inputs,
    }, time_ids, inputs - time_ids * step  # fmt: skip


def vae_config(shapes: Shapes) -> Config:
    """Of AutoencoderKL. Raises Unknown."""
    tree = Tree(shapes)
    levels = tree.count("encoder.down_blocks")
    if not 1 <= levels <= VAE_LEVELS:
        raise Unknown("it has no encoder that is known")
    channels = tuple(tree.width(f"encoder.down_blocks.{n}.resnets.0.conv1.weight") for n in range(levels))
    groups = divisor(gcd(*channels), GROUPS)
    return Config(
        {
            "in_channels": tree.width("encoder.conv_in.weight", 1, PICTURE),
            "out_channels": tree.width("decoder.conv_out.weight", most=PICTURE),
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": channels,
            "layers_per_block": tree.count("encoder.down_blocks.0.resnets"),
            "latent_channels": tree.width("decoder.conv_in.weight", 1, LATENT),
            "norm_num_groups": groups,
            "use_quant_conv": "quant_conv.weight" in shapes,
            "use_post_quant_conv": "post_quant_conv.weight" in shapes,
            "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in shapes,
        },
        groups,
    )


def text_config(shapes: Shapes, openclip: bool) -> Config:
    """Of CLIPTextModel, or CLIPTextModelWithProjection where it has one. Raises Unknown."""
    tree = Tree(shapes)
    vocabulary = tree.width("embeddings.token_embedding.weight")
    width = tree.width("embeddings.token_embedding.weight", 1)
    layers = tree.count("encoder.layers")
    if not layers or vocabulary < 3:
        raise Unknown("it is no text encoder that is known")
    # OpenCLIP's encoders, which are deeper than CLIP-L, are the ones with an exact GELU.
    exact = openclip or layers > 12
    return Config(
        {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": tree.width("encoder.layers.0.mlp.fc1.weight"),
            "num_hidden_layers": layers,
            "num_attention_heads": divisor(width, width // HEAD),
            "max_position_embeddings": tree.width("embeddings.position_embedding.weight", most=POSITIONS),
            "projection_dim": tree.width("text_projection.weight") if "text_projection.weight" in shapes else width,
            "hidden_act": "gelu" if exact else "quick_gelu",
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        projects="text_projection.weight" in shapes,
    )

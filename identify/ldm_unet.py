"""Every name in an LDM UNet, by its topology: for files that kept the names without their dots."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topology:
    """What decides which layers there are; widths don't."""

    depths: tuple[int, ...]
    """Transformer blocks of the attention at each level, 0 where a level has none."""
    middle: int
    """Transformer blocks in the middle."""
    widens: tuple[bool, ...]
    """At each level: does its first block take another number of channels than it gives?"""
    label: bool
    """It is also told of sizes, or of an image's embedding."""


# Sources: the configs of CompVis/stable-diffusion, Stability-AI/stablediffusion and Stability-AI/generative-models.
FOUR = (False, True, True, False)
TOPOLOGIES: dict[str, Topology] = {
    "Stable Diffusion 1 and 2": Topology((1, 1, 1, 0), 1, FOUR, False),
    "Stable Diffusion 2.1 unCLIP": Topology((1, 1, 1, 0), 1, FOUR, True),
    "SDXL": Topology((0, 2, 10), 10, FOUR[:3], True),
    "SDXL refiner": Topology((0, 4, 4, 0), 4, FOUR, True),
}
BOTH = ("weight", "bias")
ATTENTION = tuple(
    f"{attention}.{part}"
    for attention in ("attn1", "attn2")
    for part in ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
)
LAYERS = 2
"""Residual blocks of a level on the way down; one more on the way up."""


def names(topology: Topology) -> Iterator[str]:
    """The names below `diffusion_model.`."""
    for layer in ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"):
        yield from pair(layer)
    if topology.label:
        yield from (*pair("label_emb.0.0"), *pair("label_emb.0.2"))
    yield from (*residual("middle_block.0", False), *attention("middle_block.1", topology.middle))
    yield from residual("middle_block.2", False)
    yield from down(topology)
    yield from up(topology)


def down(topology: Topology) -> Iterator[str]:
    block = 1
    for level, depth in enumerate(topology.depths):
        for layer in range(LAYERS):
            yield from residual(f"input_blocks.{block}.0", topology.widens[level] and layer == 0)
            yield from attention(f"input_blocks.{block}.1", depth)
            block += 1
        if level + 1 < len(topology.depths):
            yield from pair(f"input_blocks.{block}.0.op")
            block += 1


def up(topology: Topology) -> Iterator[str]:
    block = 0
    for level in reversed(range(len(topology.depths))):
        depth = topology.depths[level]
        for layer in range(LAYERS + 1):
            yield from residual(f"output_blocks.{block}.0", True)
            yield from attention(f"output_blocks.{block}.1", depth)
            if level > 0 and layer == LAYERS:
                yield from pair(f"output_blocks.{block}.{2 if depth else 1}.conv")
            block += 1


def pair(layer: str) -> Iterator[str]:
    return (f"{layer}.{part}" for part in BOTH)


def residual(block: str, skip: bool) -> Iterator[str]:
    for layer in ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"):
        yield from pair(f"{block}.{layer}")
    if skip:
        yield from pair(f"{block}.skip_connection")


def attention(block: str, depth: int) -> Iterator[str]:
    for layer in ("norm", "proj_in", "proj_out") if depth else ():
        yield from pair(f"{block}.{layer}")
    for number in range(depth):
        inner = f"{block}.transformer_blocks.{number}"
        yield from (f"{inner}.{name}" for name in ATTENTION)
        for layer in ("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"):
            yield from pair(f"{inner}.{layer}")


def restored(dotless: Iterable[str]) -> dict[str, str]:
    """Dotless -> dotted names of the UNet that `dotless` comes closest to; empty when it is none at all."""
    given = set(dotless)
    best: dict[str, str] = {}
    nearest = 0
    for topology in TOPOLOGIES.values():
        table = {name.replace(".", ""): name for name in (f"diffusion_model.{name}" for name in names(topology))}
        shared = len(given & table.keys())
        distance = len(table) + len(given) - 2 * shared
        if shared and (not best or distance < nearest):
            best, nearest = table, distance
    return best

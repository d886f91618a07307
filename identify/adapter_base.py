"""What an adapter was made for: by the layers that its modules change, and how wide these are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ckptool.identify.adapters import AdapterModule
from ckptool.identify.attention import MAX_NAME, Cross, Seen, cross_signs, place_signs, seen_in, titles
from ckptool.identify.components import adapted
from ckptool.identify.families import DEEP, UNET_BASES, UNETS, Place, title
from ckptool.identify.identity import AMBIGUOUS
from ckptool.identify.names import shown
from ckptool.identify.signs import STRUCTURE, WIDTH, WRAPPER, Decision, Sign, decide, open_to
from ckptool.tensor import Tensor

# Parts of module names, dots written as underscores, that only the adapters of one family have; first match wins.
FAMILY_LAYERS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("hidream",), ("double_stream_blocks_",)),
    (("hunyuan-video",), ("individual_token_refiner_", "double_blocks_19_", "single_blocks_38_", "img_mod_linear")),
    (("auraflow",), ("joint_transformer_blocks_", "double_layers_")),
    (("sd3",), ("joint_blocks_",)),
    (("flux",), ("double_blocks_", "single_blocks_", "single_transformer_blocks_")),
    (("qwen-image",), ("_img_mlp_", "_img_mod_")),
    (("lumina2", "z-image"), ("_feed_forward_w1", "context_refiner_")),
    (("wan",), ("_self_attn_q", "_cross_attn_q", "_cross_attn_k", "_ffn_0")),
)  # fmt: skip
BARE_BLOCKS = (
    "transformer_transformer_blocks_",
    "diffusion_model_transformer_blocks_",
    "lora_unet_transformer_blocks_",
)
"""A transformer without levels: SD3 has the text in the same attention, PixArt and LTX-Video in a second."""

# The text encoders by how trainers name them, and what has such ones.
ENCODERS: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = (
    (("lora_te1_", "lora_te2_", "text_encoder_2.", "clip_g."), frozenset({"sdxl"})),
    (("lora_te_",), frozenset({"sd1", "sd2"})),
    (("text_encoder.", "text_model."), frozenset({"sd1", "sd2", "sdxl"})),
)
ENCODER_WIDTHS: dict[int, frozenset[str]] = {768: frozenset({"sd1", "sdxl"}), 1024: frozenset({"sd2"})}
LAYER = re.compile(r"_layers_(\d{1,3})_")
ADAPTED_BASES = ("sd1", "sd2", "sdxl")
"""What there are adapters of: nobody trains any for the refiner."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What one module changes."""

    name: str
    """With underscores for dots."""
    module: AdapterModule
    seen: Seen | None
    encoder: bool


def layers_of(modules: dict[str, AdapterModule]) -> list[Layer]:
    found = []
    for module in modules.values():
        layer = module.layer.removeprefix("base_model.model.")
        if len(layer) > MAX_NAME:
            continue
        name = layer.replace(".", "_").replace("_processor_", "_")
        encoder = adapted(layer).startswith("text_encoder")
        found.append(Layer(name, module, None if encoder else seen_in(name), encoder))
    return found


def base_of(modules: dict[str, AdapterModule]) -> Decision:
    """The base of an adapter, with the modules that tell it."""
    layers = layers_of(modules)
    family = family_of([layer for layer in layers if not layer.encoder])
    if family is not None:
        return family
    crosses = [cross for layer in layers if (cross := cross_of(layer))]
    signs = [*cross_signs(crosses), *unet_signs(layers), *encoder_signs(layers)]
    decision = decide(signs, UNET_BASES)
    if crosses or any(layer.encoder or (layer.seen and layer.seen.layer == "attn2_to_k") for layer in layers):
        return open_to(decision, ADAPTED_BASES)
    return without_text(decision, layers)


def without_text(decision: Decision, layers: list[Layer]) -> Decision:
    """No module that meets the text: only SDXL has a third transformer block in one place, the rest is ambiguous.

    SDXL's refiner has one too, but no adapters.
    """
    deep = next((layer for layer in layers if layer.seen and layer.seen.depth >= 2), None)
    if deep is not None:
        return replace(decision, base="sdxl", candidates=(), evidence=(f"{evidence_of(deep)}: only SDXL is so deep",))
    if not any(layer.seen or "_blocks_" in layer.name or "mid_block" in layer.name for layer in layers):
        return decision
    candidates = tuple(base for base in decision.candidates if base in ADAPTED_BASES)
    if len(candidates) < 2:
        candidates = ADAPTED_BASES
    why = "no module of attn2 or of a text encoder, and no transformer block after the second: several bases have those"
    return replace(decision, base=AMBIGUOUS, candidates=candidates, evidence=(*decision.evidence, why))


def family_of(layers: list[Layer]) -> Decision | None:
    """A network after Stable Diffusion's UNets, by the names of its layers."""
    for bases, marks in FAMILY_LAYERS:
        found = next((layer for layer in layers if not layer.seen and any(mark in layer.name for mark in marks)), None)
        if found:
            evidence = (f"{evidence_of(found)}: a layer of {' or '.join(map(title, bases))}",)
            return Decision(bases[0], (), evidence) if len(bases) == 1 else Decision(AMBIGUOUS, bases, evidence)
    bare = [layer for layer in layers if layer.name.startswith(BARE_BLOCKS)]
    if not bare:
        return None
    joint = next((layer for layer in bare if "_add_k_proj" in layer.name), None)
    if joint:
        return Decision("sd3", (), (f"{evidence_of(joint)}: text and picture in one attention, {title('sd3')}",))
    second = next((layer for layer in bare if "_attn2_" in layer.name), None)
    why = f"{evidence_of(second or bare[0])}: a transformer without levels"
    return Decision(AMBIGUOUS, ("pixart", "ltxv") if second else ("sd3", "flux", "pixart", "ltxv"), (why,))


def cross_of(layer: Layer) -> Cross | None:
    """The widths of a module on the keys of a cross attention."""
    if layer.seen is None or layer.seen.layer != "attn2_to_k":
        return None
    outputs, inputs = widths(layer.module)
    return Cross(layer.seen.place, inputs, outputs, evidence_of(layer)) if inputs else None


def widths(module: AdapterModule) -> tuple[int | None, int | None]:
    """Outputs and inputs of the layer that a module changes, each None where it does not say."""
    shape = module.shape
    if shape is not None and len(shape) >= 2:
        return shape[0], shape[1]
    parts = module.parts
    match module.algorithm:
        case "glora":  # the two factors of each pair have the rank in common, and it is the smaller side
            return widest(parts["b1"], parts["b1"]), widest(parts["a1"], parts["a2"])
        case "oft" | "boft":
            blocks = parts.get("oft_blocks") or parts["oft_diag"]
            return (blocks.shape[-3] * blocks.shape[-1] if len(blocks.shape) >= 3 else None), None
    # Parts that do not fit each other, or of which some are missing: what is there still has its width.
    up, down = parts.get("up"), parts.get("down")
    return side(up, 0), side(down, 1)


def side(tensor: Tensor | None, axis: int) -> int | None:
    return tensor.shape[axis] if tensor is not None and len(tensor.shape) > axis else None


def widest(*tensors: Tensor) -> int | None:
    return max((n for tensor in tensors for n in tensor.shape[:2]), default=None)


def unet_signs(layers: list[Layer]) -> Iterator[Sign]:
    """Where the modules on attention are, how deep, and whether the projections are convolutions."""
    places: dict[Place, str] = {}
    depth, deepest = -1, ""
    proj: Layer | None = None
    for layer in layers:
        if layer.seen is None:
            continue
        if layer.seen.place not in places:
            places[layer.seen.place] = evidence_of(layer)
        if layer.seen.depth > depth:
            depth, deepest = layer.seen.depth, evidence_of(layer)
        if proj is None and layer.seen.layer == "proj_in" and "down" in layer.module.parts:
            proj = layer
    yield from place_signs(places, depth, False, deepest)
    dims = len(proj.module.parts["down"].shape) if proj else 0
    if proj and dims in (2, 4):
        says = frozenset(base for base, row in UNETS.items() if row.linear == (dims == 2))
        yield Sign(
            STRUCTURE, says, f"{evidence_of(proj)}: a {'matrix' if dims == 2 else 'convolution'}, {titles(says)}"
        )


def encoder_signs(layers: list[Layer]) -> Iterator[Sign]:
    """Which text encoders are changed, how wide they are, and whether they go on after the layers of CLIP-L."""
    for beginnings, says in ENCODERS:
        mine = [
            layer for layer in layers if layer.module.layer.removeprefix("base_model.model.").startswith(beginnings)
        ]
        if not mine:
            continue
        yield Sign(WRAPPER, says, f"{evidence_of(mine[0])}: the text encoder as of {titles(says)}")
        if len(says) == 1:
            return
        square = next((layer for layer in mine if "_self_attn_" in layer.name), None)
        width = next((n for n in widths(square.module) if n), None) if square else None
        if square and width in ENCODER_WIDTHS:
            told = says & ENCODER_WIDTHS[width]
            yield Sign(WIDTH, told, f"{evidence_of(square)}: text encoder {width}, {titles(told)}")
        last, held = max(mine, key=layer_number), {layer_number(layer) for layer in mine}
        # All layers of CLIP-L and no other; where some are missing, so may be those that follow.
        if layer_number(last) >= DEEP or held >= set(range(DEEP)):
            told = frozenset({"sd2"}) if layer_number(last) >= DEEP else says - {"sd2"}
            yield Sign(STRUCTURE, told, f"{evidence_of(last)}: the text encoder of {titles(told)}")
        return


def layer_number(layer: Layer) -> int:
    found = LAYER.search(layer.name)
    return int(found[1]) if found else -1


def evidence_of(layer: Layer) -> str:
    """The tensor that shows the width of a module."""
    parts = layer.module.parts
    for role in ("down", "hada_w1_b", "lokr_w2", "lokr_w2_b", "diff"):
        if role in parts:
            return shown(parts[role])
    return shown(next(iter(parts.values())))

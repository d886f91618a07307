"""The network that takes the noise away: which one it is, by its names, its widths and the encoders beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from ckptool.identify.attention import Cross, cross_signs, place_signs, seen_in, titles
from ckptool.identify.families import (
    DEEP,
    ENCODER_SIGNS,
    FAMILIES,
    INPUTS,
    UNCLIP_LABELS,
    UNET_BASES,
    UNET_RULE,
    UNETS,
    Place,
    title,
)
from ckptool.identify.names import Names, shown
from ckptool.identify.rules import holds
from ckptool.identify.signs import PLACE, RATIO, STRUCTURE, WIDTH, WRAPPER, Decision, Sign, decide, open_to
from ckptool.identify.variants import family_variant
from ckptool.tensor import Tensor

PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "prior.",
    # Where a file holds nothing but the average.
    "unet_ema.", "transformer_ema.", "ema_model.", "ema.", "state_dict_ema.model.diffusion_model.",
    "",
)  # fmt: skip
"""Where the network stands in a file, in the LDM layout, in a diffusers folder, or alone."""
KEYS = ("attn2_to_k_weight", "attn2_to_k_down")
"""What takes the text in: whole, or the first factor of a Control-LoRA, whose outputs are a rank."""
EMA = "model_ema."
LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight", "class_embedding.linear_1.weight")
FIRST_CONVS = ("input_blocks.0.0.weight", "conv_in.weight")
# SDXL without attention in the middle: the last transformer block in its second and its third level -> variant.
WITHOUT_MIDDLE: dict[tuple[int, int], str] = {(1, 3): "ssd-1b", (0, 1): "segmind-vega"}
UPSCALER_LABELS = ("label_emb.weight", "class_embedding.weight")
"""SD2's upscaler looks its noise level up in a table."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network that was recognised."""

    prefix: str
    names: Names
    """Its tensors, without the prefix."""
    decision: Decision
    variant: str | None
    inputs: int | None = None
    """Input channels of the first convolution of a UNet."""


def find_network(names: Names) -> Network | None:
    """The network of a checkpoint, or that stands alone; None when there is none that is known."""
    for prefix in PREFIXES:
        if prefix and not names.has(prefix):
            continue
        inner = names.under(prefix)
        for family in FAMILIES:
            found = family.rule(inner)
            if found:
                evidence = f"{prefix}{found}: only {title(family.base)} has it"
                variant, why = family_variant(family.base, inner)
                return Network(prefix, inner, Decision(family.base, (), (evidence, *why)), variant)
        if UNET_RULE(inner):
            return unet(prefix, inner, names)
    if EMA[:-1] in names.firsts and (restored := restored_names(names)):
        return unet(EMA, restored, names)
    return None


def unet(prefix: str, inner: Names, outer: Names) -> Network:
    """A UNet of Stable Diffusion."""
    conv = next((inner.tensors[name] for name in FIRST_CONVS if name in inner.tensors), None)
    inputs = conv.shape[1] if conv and len(conv.shape) == 4 else None
    label = next((inner.tensors[name] for name in UPSCALER_LABELS if name in inner.tensors), None)
    if inputs == 7 and conv and label:
        evidence = f"{shown(conv)} and {shown(label)}: {title('sd2')}, upscaler"
        return Network(prefix, inner, Decision("sd2", (), (evidence,)), "upscaler", inputs)
    view = look(inner)
    signs = [*unet_signs(inner, view), *encoder_signs(outer)]
    decision = open_to(decide(signs, UNET_BASES), UNET_BASES)
    variant, why = unet_variant(decision.base, inner, view, conv, inputs)
    more = Decision(decision.base, decision.candidates, (*decision.evidence, *why), decision.problems)
    return Network(prefix, inner, more, variant, inputs)


@dataclass(frozen=True, slots=True)
class View:
    """What is seen of a network's attention."""

    places: dict[Place, str]
    """Evidence for each place with attention."""
    depths: dict[Place, int]
    """The last transformer block of each."""
    depth: int
    deepest: str
    crosses: tuple[Cross, ...]
    proj: Tensor | None


def look(names: Names) -> View:
    """The attention of a whole network or a ControlNet; only weights count, which have two dimensions."""
    places: dict[Place, str] = {}
    depths: dict[Place, int] = {}
    crosses: list[Cross] = []
    depth, deepest, proj = -1, "", None
    for name, tensor in names.tensors.items():
        seen = seen_in(name)
        if seen is None:
            continue
        if seen.place not in places:
            places[seen.place] = shown(tensor)
        depths[seen.place] = max(seen.depth, depths.get(seen.place, -1))
        if seen.depth > depth:
            depth, deepest = seen.depth, shown(tensor)
        if proj is None and seen.layer == "proj_in" and name.endswith("proj_in.weight"):
            proj = tensor
        if seen.layer in KEYS and len(tensor.shape) == 2:
            inner = tensor.shape[0] if seen.layer == KEYS[0] else None
            crosses.append(Cross(seen.place, tensor.shape[1], inner, shown(tensor)))
    return View(places, depths, depth, deepest, tuple(crosses), proj)


def unet_signs(names: Names, view: View, whole: bool = True) -> Iterator[Sign]:
    """Everything that the network itself says; `whole` is False for half of one, a ControlNet."""
    yield from cross_signs(view.crosses)
    yield from place_signs(view.places, view.depth, whole, view.deepest)
    if view.proj is not None and len(view.proj.shape) in (2, 4):
        linear = len(view.proj.shape) == 2
        says = frozenset(base for base, row in UNETS.items() if row.linear == linear)
        yield Sign(STRUCTURE, says, f"{shown(view.proj)}: a {'matrix' if linear else 'convolution'}, {titles(says)}")
    label = next((names.tensors[name] for name in LABELS if name in names.tensors), None)
    if label is not None:
        yield from label_signs(label)
    elif whole and view.places:
        says = frozenset(base for base, row in UNETS.items() if row.label is None)
        yield Sign(PLACE, says, f"no label embedding, as in {titles(says)}")


def label_signs(label: Tensor) -> Iterator[Sign]:
    """The label embedding by its width, alone and against the width of the time embedding (4 × channels)."""
    outputs, inputs = label.shape if len(label.shape) == 2 else (0, 0)
    widths = {base: (row.label,) if row.label else () for base, row in UNETS.items()} | {"sd2": UNCLIP_LABELS}
    exact = frozenset(base for base, labels in widths.items() if inputs in labels)
    if exact:
        yield Sign(WIDTH, exact, f"{shown(label)}: label {inputs}, {titles(exact)}")
    scaled = frozenset(
        base
        for base, labels in widths.items()
        if outputs and any(inputs * UNETS[base].channels * 4 == outputs * size for size in labels)
    )
    if scaled:
        yield Sign(RATIO, scaled, f"{shown(label)}: label to channels as in {titles(scaled)}")
    says = frozenset(base for base, labels in widths.items() if labels)
    yield Sign(STRUCTURE, says, f"{shown(label)}: a label embedding, as in {titles(says)}")


def encoder_signs(outer: Names) -> Iterator[Sign]:
    """Which UNets were trained with the text encoders in the file."""
    for rule, says in ENCODER_SIGNS:
        found = rule(outer)
        if found:
            yield Sign(WRAPPER, says, f"{found}…: the text encoder of {titles(says)}")
    if not holds("text_encoder.", outer) or holds("text_encoder_2.", outer):
        return
    last, deep = (layer_of(outer, number) for number in (DEEP - 1, DEEP))
    if deep or last:
        says = frozenset({"sd2"} if deep else {"sd1"})
        evidence = f"{shown(deep)}: more than {DEEP} layers" if deep else f"{last and shown(last)}: the last of {DEEP}"
        yield Sign(WRAPPER, says, f"{evidence}, the text encoder of {titles(says)}")


def layer_of(outer: Names, number: int) -> Tensor | None:
    """Some tensor of a layer of the text encoder of a diffusers folder."""
    part = f".layers.{number}."
    return next((t for name, t in outer.tensors.items() if name.startswith("text_encoder.") and part in name), None)


def unet_variant(
    base: str | None, names: Names, view: View, conv: Tensor | None, inputs: int | None
) -> tuple[str | None, tuple[str, ...]]:
    """What the network was made for, where that is not pictures from text, with its evidence."""
    if conv is not None and inputs in INPUTS:
        return INPUTS[inputs], (f"{shown(conv)}: takes {inputs} channels, {INPUTS[inputs]}",)
    label = next((names.tensors[name] for name in LABELS if name in names.tensors), None)
    if base == "sd2" and label is not None:
        return "unclip", (f"{shown(label)}: conditioned on an image",)
    if base == "sdxl" and ("up", 0) in view.places and ("mid", 0) not in view.places:
        deepest = (view.depths.get(("down", 1), -1), view.depths.get(("down", 2), -1))
        variant = WITHOUT_MIDDLE.get(deepest, "distilled")
        like = variant if deepest in WITHOUT_MIDDLE else "distilled models"
        return variant, (f"no attention in the middle, as in {like}",)
    return None, ()


def restored_names(names: Names) -> Names | None:
    """The few names that tell a UNet, from a file that holds nothing but averages: their names have lost their dots."""
    wanted = [*FIRST_CONVS, "time_embed.0.weight", *LABELS, "middle_block.1.proj_in.weight"]
    for place in ("1.1", "2.1", "4.1", "5.1", "7.1", "8.1"):
        block = f"input_blocks.{place}"
        wanted += [f"{block}.proj_in.weight", *(f"{block}.transformer_blocks.{n}.attn2.to_k.weight" for n in (0, 1))]
    found = {
        name: tensor
        for name in wanted
        if (tensor := names.tensors.get(f"{EMA}diffusion_model{name.replace('.', '')}")) is not None
    }
    return Names.of(found) if UNET_RULE(Names.of(found)) else None

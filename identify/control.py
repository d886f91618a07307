"""ControlNets in every layout, Control-LoRA and LLLite: half a UNet, or less."""

from dataclasses import dataclass

from ckptool.identify.attention import place_signs, seen_in
from ckptool.identify.families import CONTROL_RULE, UNET_BASES, Place, title
from ckptool.identify.names import Names, shown
from ckptool.identify.network import look, unet_signs
from ckptool.identify.rules import Rule, has_all, has_any
from ckptool.identify.signs import STRUCTURE, Decision, Sign, decide, open_to

PREFIXES = ("control_model.", "controlnet.", "")
CONTROL_LORA = "lora_controlnet"
DIFFERENCE = "difference"
LLLITE = "lllite_"

# ControlNets of networks without levels, whose layers have names of their own.
FAMILIES: tuple[tuple[str, Rule], ...] = (
    ("flux", has_any(
        has_all("controlnet_x_embedder.weight", "single_transformer_blocks.0."),
        has_all("controlnet_x_embedder.weight", "time_text_embed.text_embedder.linear_1.weight", "x_embedder.weight"),
        has_all("controlnet_blocks.0.weight", "double_blocks.0.img_attn.qkv.weight"),
    )),
    ("sd3", has_any(
        has_all("controlnet_blocks.0.weight", "pos_embed_input.proj.weight"),
        has_all("controlnet_blocks.0.weight", "pos_embed.proj.weight"),
    )),
    ("qwen-image", has_all("controlnet_blocks.0.weight", "transformer_blocks.0.img_mod.1.weight")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Control:
    """A network that steers another."""

    kind: str
    variant: str | None
    decision: Decision
    whole: bool = False
    """Whether the checkpoint that it steers is in the same file."""


def control_of(names: Names) -> Control | None:
    if names.has(CONTROL_LORA):
        return Control(
            "control-lora", None, with_evidence(control_net("", names), (f"{CONTROL_LORA}: a Control-LoRA",))
        )
    if any(first.startswith(LLLITE) for first in names.firsts):
        return Control("control-lora", "lllite", lllite(names))
    for prefix in PREFIXES:
        if prefix and not names.has(prefix):
            continue
        inner = names.under(prefix)
        found = CONTROL_RULE(inner)
        if not found:
            continue
        whole = bool(prefix) and (names.has("model.diffusion_model.") or names.has("unet."))
        if prefix == "controlnet." and whole:
            return None  # a pipeline that has a ControlNet among its components
        decision = with_evidence(control_net(prefix, inner), (f"{prefix}{found}: a ControlNet",))
        if names.has(DIFFERENCE):
            return Control("controlnet", DIFFERENCE, decision)
        return Control("controlnet", None, decision, whole)
    return None


def with_evidence(decision: Decision, first: tuple[str, ...]) -> Decision:
    return Decision(decision.base, decision.candidates, (*first, *decision.evidence), decision.problems)


def control_net(prefix: str, inner: Names) -> Decision:
    """The base of a ControlNet: by its attention, or the label embedding where it has none."""
    for base, rule in FAMILIES:
        found = rule(inner)
        if found:
            return Decision(base, (), (f"{prefix}{found}: a ControlNet of {title(base)}",))
    return open_to(decide(unet_signs(inner, look(inner), whole=False), UNET_BASES), UNET_BASES)


def lllite(names: Names) -> Decision:
    """The base of a LLLite, which names the layers that it steers as a LoRA does."""
    places: dict[Place, str] = {}
    depth, deepest = -1, ""
    first = next(iter(names.tensors.values()))
    for name, tensor in names.tensors.items():
        seen = seen_in(name)
        if seen is None:
            continue
        places.setdefault(seen.place, shown(tensor))
        if seen.depth > depth:
            depth, deepest = seen.depth, shown(tensor)
    signs = [
        Sign(STRUCTURE, frozenset({"sd1", "sd2", "sdxl"}), f"{shown(first)}: a LLLite"),
        *place_signs(places, depth, False, deepest),
    ]
    return decide(signs, UNET_BASES)

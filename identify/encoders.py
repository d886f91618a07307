"""VAEs and text encoders that stand alone: which ones they are, and what they can belong to."""

from dataclasses import dataclass

from ckptool.identify.identity import AMBIGUOUS
from ckptool.identify.names import Names, shown
from ckptool.identify.rules import Rule, has_all, has_any
from ckptool.identify.signs import Decision
from ckptool.tensor import Tensor

VAE_PREFIXES = ("first_stage_model.", "vae.", "")
VAE_RULE: Rule = has_any("encoder.conv_in.weight", "decoder.conv_in.weight")
WAN_VAE: Rule = has_all("encoder.conv1.weight", "decoder.middle.")
# Channels of the latent, and what has such a one. Networks with the same latent share the structure of their VAEs.
LATENTS: dict[int, tuple[str, ...]] = {
    4: ("sd1", "sd2", "sdxl"),
    16: ("sd3", "flux"),
    32: ("flux2",),
}


@dataclass(frozen=True, slots=True)
class Encoder:
    """A text encoder."""

    variant: str
    names: str
    """clip: as transformers names it; open-clip: as OpenCLIP does."""
    width: int
    layers: int
    bases: tuple[str, ...]


ENCODERS = (
    Encoder("clip-l", "clip", 768, 12, ("sd1", "sdxl", "sd3", "flux")),
    Encoder("openclip-h", "clip", 1024, 23, ("sd2",)),
    Encoder("openclip-h", "clip", 1024, 24, ("sd2",)),
    Encoder("openclip-bigg", "clip", 1280, 32, ("sdxl", "sdxl-refiner", "sd3")),
    Encoder("openclip-h", "open-clip", 1024, 24, ("sd2",)),
    Encoder("openclip-bigg", "open-clip", 1280, 32, ("sdxl", "sdxl-refiner", "sd3")),
)
ENCODER_PREFIXES = (
    "", "text_model.", "text_encoder.", "text_encoder.text_model.", "text_encoder_2.", "text_encoder_2.text_model.",
    "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.", "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.0.model.",
    "conditioner.embedders.1.model.", "transformer.text_model.",
)  # fmt: skip
CLIP = "embeddings.token_embedding.weight"
OPEN_CLIP = "token_embedding.weight"
LAYER_PREFIX = {"clip": "encoder.layers.", "open-clip": "transformer.resblocks."}
T5 = "encoder.block.0.layer.0.SelfAttention.q.weight"
T5_XXL = 4096
LLM: Rule = has_all("embed_tokens.weight", "layers.0.self_attn.q_proj.weight")


@dataclass(frozen=True, slots=True)
class Alone:
    """A VAE or a text encoder by itself."""

    variant: str | None
    decision: Decision


def vae_of(names: Names) -> Alone | None:
    for prefix in VAE_PREFIXES:
        inner = names.under(prefix) if not prefix or names.has(prefix) else None
        if inner is None:
            continue
        if VAE_RULE(inner):
            return latent(inner.tensors.get("decoder.conv_in.weight") or inner.tensors["encoder.conv_in.weight"], inner)
        found = WAN_VAE(inner)
        if found:
            return Alone(None, Decision("wan", (), (f"{prefix}{found}: the VAE of Wan",)))
    return None


def latent(conv: Tensor, inner: Names) -> Alone:
    """A VAE by the channels of its latent, which say what it can belong to and no more."""
    if not inner.has("decoder.conv_in.weight") or len(conv.shape) < 2:
        return Alone(None, Decision(None, (), (f"{shown(conv)}: a VAE without a decoder",)))
    channels = conv.shape[1]
    bases = LATENTS.get(channels, ())
    evidence = (f"{shown(conv)}: a {channels}-channel latent",)
    if len(bases) > 1:
        why = (f"{', '.join(bases)} have VAEs of the same structure",)
        return Alone(f"{channels}-channel", Decision(AMBIGUOUS, bases, evidence + why))
    return Alone(f"{channels}-channel", Decision(bases[0] if bases else None, (), evidence))


def text_encoder_of(names: Names) -> Alone | None:
    for prefix in ENCODER_PREFIXES:
        for kind, marker in (("clip", CLIP), ("open-clip", OPEN_CLIP)):
            tensor = names.tensors.get(prefix + marker)
            if tensor is not None:
                return clip(kind, tensor, layers(names, prefix + LAYER_PREFIX[kind]))
    for prefix in ("", "text_encoder.", "text_encoder_2.", "text_encoder_3."):
        tensor = names.tensors.get(prefix + T5)
        if tensor is not None:
            return t5(tensor)
    found = LLM(names)
    if found:
        return Alone("llm", Decision(None, (), (f"{found}: a language model as text encoder",)))
    return None


def layers(names: Names, prefix: str) -> int:
    """How many layers have a number after `prefix`."""
    return len({n[len(prefix) :].partition(".")[0] for n in names.tensors if n.startswith(prefix)})


def clip(kind: str, tensor: Tensor, count: int) -> Alone:
    """By width, else by the number of layers, which stays when all widths are divided."""
    width = tensor.shape[-1] if tensor.shape else 0
    rows = [row for row in ENCODERS if row.names == kind]
    found = next((row for row in rows if row.width == width), None)
    by_layers = next((row for row in rows if row.layers == count), None)
    if found and by_layers and found.variant != by_layers.variant:
        why = f"{shown(tensor)}: {width} wide as {found.variant}, but {count} layers as {by_layers.variant}"
        both = tuple(dict.fromkeys((*found.bases, *by_layers.bases)))
        return Alone(None, Decision(AMBIGUOUS, both, (why,), (why,)))
    row = found or by_layers
    if row is None:
        return Alone(None, Decision(None, (), (f"{shown(tensor)}: {width} wide with {count} layers, as none known",)))
    said = f"{width} wide" if found else f"{count} layers"
    evidence = (f"{shown(tensor)}: {said}, {row.variant}",)
    if len(row.bases) > 1:
        return Alone(row.variant, Decision(AMBIGUOUS, row.bases, (*evidence, f"in use by {', '.join(row.bases)}")))
    return Alone(row.variant, Decision(row.bases[0], (), evidence))


def t5(tensor: Tensor) -> Alone:
    width = tensor.shape[-1] if tensor.shape else 0
    variant = "t5-xxl" if width == T5_XXL else "t5"
    evidence = (f"{shown(tensor)}: T5, {width} wide", "in use by sd3, flux, pixart and others")
    return Alone(variant, Decision(AMBIGUOUS, ("sd3", "flux", "pixart"), evidence))

"""Give the tensors of one component the names under which loaders find it in a file of its own."""

from ckptool.prune.outcome import Outcome, renamed
from ckptool.tensor import Plan

# What goes from the names of a component that stands alone. ComfyUI and Forge load a UNet with or without its prefix,
# and see `v_pred` beside it without alone; every UI takes a VAE and a text encoder without.
# A control network keeps `control_model.`: that is how the UIs know it.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.", "unet.", "transformer."),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer.",
        "conditioner.embedders.0.model.", "text_encoders.clip_l.transformer.", "text_encoder.",
    ),
    "text_encoder_2": (
        "conditioner.embedders.1.model.", "conditioner.embedders.1.transformer.", "text_encoders.clip_g.transformer.",
        "text_encoders.t5xxl.transformer.", "text_encoder_2.", "text_encoder_3.",
    ),
    "control": ("controlnet.",),
}  # fmt: skip
# The parts of a CLIP text model, where a file leaves `text_model.` off.
BARE_CLIP = ("embeddings.", "encoder.", "final_layer_norm.")
CLIP = "text_model."
MARKER = "embeddings.token_embedding.weight"


def stand_alone(plan: Plan, component: str, outcome: Outcome) -> Plan:
    """The plan of one component without what stands in front of all its names; others keep theirs."""
    prefixes = [prefix for prefix in PREFIXES.get(component, ()) if any_under(plan, prefix)]
    if len(prefixes) != 1:
        return plan
    prefix = prefixes[0]
    names = {t.name: t.name.removeprefix(prefix) for t in plan.tensors if t.name.startswith(prefix)}
    if component.startswith("text_encoder") and MARKER in names.values():
        names = {old: CLIP + new if new.startswith(BARE_CLIP) else new for old, new in names.items()}
    return renamed(plan, names, outcome)


def any_under(plan: Plan, prefix: str) -> bool:
    return any(tensor.name.startswith(prefix) for tensor in plan.tensors)

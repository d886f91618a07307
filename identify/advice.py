"""What follows from what a file is: its size in pixels, what it fits, what is missing."""

from ckptool.identify.families import TITLES
from ckptool.identify.identity import Identity
from ckptool.tensor import Plan

# Pixels along a side that a network was trained on; below it pictures fall apart.
NATIVE: dict[str, int] = {
    "sd1": 512, "sd2": 512, "sdxl": 1024, "sdxl-refiner": 1024, "sd3": 1024, "flux": 1024, "flux2": 1024,
    "chroma": 1024, "auraflow": 1024, "hunyuan-dit": 1024, "lumina2": 1024, "z-image": 1024, "qwen-image": 1024,
    "cascade": 1024, "hidream": 1024,
}  # fmt: skip
SD2_V = 768
PICTURES = frozenset({"checkpoint", "unet", "lora", "lycoris", "controlnet", "control-lora", "t2i-adapter"})

ADDONS = "LoRA, LyCORIS, textual inversions, ControlNets and other additions"
# What a kind has to be of the same base as.
FITS: dict[str, str] = {
    "lora": "checkpoints", "lycoris": "checkpoints", "hypernetwork": "checkpoints", "textual-inversion": "checkpoints",
    "controlnet": "checkpoints", "control-lora": "checkpoints", "t2i-adapter": "checkpoints",
    "ip-adapter": "checkpoints", "vae": "checkpoints", "text-encoder": "checkpoints", "checkpoint": ADDONS,
    "unet": ADDONS,
}  # fmt: skip


def native_size(identity: Identity) -> int | None:
    """Pixels along a side; None where the base is not known or has several sizes."""
    if identity.kind not in PICTURES or identity.base is None or identity.variant == "upscaler":
        return None
    if identity.base == "sd2" and identity.kind in ("checkpoint", "unet"):
        return SD2_V if identity.prediction.type == "v" else NATIVE["sd2"] if identity.prediction.type else None
    return None if identity.base == "sd2" else NATIVE.get(identity.base)


def size_advice(identity: Identity, size: int | None) -> str | None:
    """What to do about it."""
    if size is None:
        return None
    return f"make pictures of about {size} × {size} pixels, not below {size} on the shorter side"


def compatible_with(identity: Identity) -> list[str]:
    """The bases that it goes together with."""
    if identity.base in TITLES:
        return [identity.base] if identity.kind != "text-encoder" or not identity.candidates else []
    return list(identity.candidates)


def missing(plan: Plan, identity: Identity, components: frozenset[str]) -> list[str]:
    """Components that a checkpoint of this base needs and does not have."""
    if identity.kind != "checkpoint":
        return []
    found = []
    if "unet" not in components and "ema" not in components:
        found.append("no UNet: there is nothing in it that makes pictures")
    elif "unet" not in components:
        found.append("no UNet but its EMA: prune with --ema use puts the average under the plain names")
    if not components & {"text_encoder", "text_encoder_2"}:
        found.append("no text encoder: A1111 would keep the last one loaded")
    elif identity.base == "sdxl" and not {"text_encoder", "text_encoder_2"} <= components:
        one = "first" if "text_encoder" not in components else "second"
        found.append(f"no {one} text encoder: Stable Diffusion XL has two, and A1111 would keep the last one loaded")
    if "vae" not in components:
        found.append("no VAE: UIs would decode with the one that is selected, or that was loaded last")
    return found

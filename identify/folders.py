"""Where each kind of file belongs in each UI: a table, and for what a UI cannot load the reason and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass

# What `--ui` takes, with the name that people know it by.
UIS: dict[str, str] = {
    "a1111": "A1111",
    "forge": "Forge",
    "comfyui": "ComfyUI",
    "sdnext": "SD.Next",
    "invokeai": "InvokeAI",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which a UI looks for a kind."""

    folder: str
    """Relative to the UI's root, its parts joined by `/`."""


@dataclass(frozen=True, slots=True)
class NoPlace:
    """A UI cannot load a kind."""

    reason: str
    hint: str


Where = Place | NoPlace

INVOKEAI = NoPlace(
    "InvokeAI keeps its models in a database of its own: a file dropped into its folder is not installed",
    "open its Model Manager, choose Add Model and give it the path of the file",
)
UNET_IN_A1111 = NoPlace(
    "A1111 loads whole checkpoints only, and this is a UNet alone",
    "use Forge or ComfyUI, which load it beside a VAE and text encoders, or merge it into a checkpoint",
)
TEXT_ENCODER_IN_A1111 = NoPlace(
    "A1111 takes text encoders from the checkpoint only",
    "use Forge or ComfyUI, which load text encoders on their own",
)

# Kind -> UI -> where. The embeddings of A1111 and Forge are at the root; all of ComfyUI is below models/.
FOLDERS: dict[str, dict[str, Where]] = {
    "checkpoint": {
        "a1111": Place("models/Stable-diffusion"),
        "forge": Place("models/Stable-diffusion"),
        "comfyui": Place("models/checkpoints"),
        "sdnext": Place("models/Stable-diffusion"),
    },
    "unet": {
        "a1111": UNET_IN_A1111,
        "forge": Place("models/Stable-diffusion"),
        "comfyui": Place("models/diffusion_models"),
        "sdnext": Place("models/UNET"),
    },
    "vae": {
        "a1111": Place("models/VAE"),
        "forge": Place("models/VAE"),
        "comfyui": Place("models/vae"),
        "sdnext": Place("models/VAE"),
    },
    "text-encoder": {
        "a1111": TEXT_ENCODER_IN_A1111,
        "forge": Place("models/text_encoder"),
        "comfyui": Place("models/text_encoders"),
        "sdnext": Place("models/Text-encoder"),
    },
    "lora": {
        "a1111": Place("models/Lora"),
        "forge": Place("models/Lora"),
        "comfyui": Place("models/loras"),
        "sdnext": Place("models/Lora"),
    },
    "textual-inversion": {
        "a1111": Place("embeddings"),
        "forge": Place("embeddings"),
        "comfyui": Place("models/embeddings"),
        "sdnext": Place("models/embeddings"),
    },
    "hypernetwork": {
        "a1111": Place("models/hypernetworks"),
        "forge": Place("models/hypernetworks"),
        "comfyui": Place("models/hypernetworks"),
        "sdnext": Place("models/hypernetworks"),
    },
    "controlnet": {
        "a1111": Place("models/ControlNet"),
        "forge": Place("models/ControlNet"),
        "comfyui": Place("models/controlnet"),
        "sdnext": Place("models/control"),
    },
    "ip-adapter": {
        "a1111": Place("models/ControlNet"),
        "forge": Place("models/ControlNet"),
        "comfyui": Place("models/ipadapter"),
        "sdnext": Place("models/control"),
    },
    "upscaler": {
        "a1111": Place("models/ESRGAN"),
        "forge": Place("models/ESRGAN"),
        "comfyui": Place("models/upscale_models"),
        "sdnext": Place("models/ESRGAN"),
    },
}

# Kinds that every UI keeps together with another one.
SAME_AS: dict[str, str] = {"lycoris": "lora", "control-lora": "controlnet", "t2i-adapter": "controlnet"}

KINDS: tuple[str, ...] = tuple(sorted((*FOLDERS, *SAME_AS)))
"""Every kind that has a place."""

# A1111, Forge and SD.Next name the folders of upscalers after their architecture.
BY_ARCHITECTURE = ("a1111", "forge", "sdnext")
# Part of a tensor's name -> folder, the first that fits; all others go with ESRGAN.
ARCHITECTURES: tuple[tuple[str, str], ...] = (
    ("layers.0.residual_group.overlap_attn.", "models/HAT"),
    ("layers.0.residual_group.", "models/SwinIR"),
    ("layers.0.blocks.0.attn.attn_mask_0", "models/DAT"),
    ("before_RG.1.weight", "models/DAT"),
    ("m_body.0.trans_block.", "models/ScuNET"),
)

# A1111 ends with SD3; what came later needs another UI. Bases that it can load, for the kinds that have a base.
A1111_BASES = frozenset({"sd1", "sd2", "sdxl", "sdxl-refiner", "sd3"})


def where(kind: str, ui: str, base: str | None = None, names: Iterable[str] = ()) -> Where:
    """Where `ui` looks for a file of this kind and base; `names` are its tensors, which tell upscalers apart.

    An unknown kind has no place anywhere.
    """
    kind = SAME_AS.get(kind, kind)
    if kind not in FOLDERS:
        return NoPlace(
            "what it is could not be told, so no folder is right for it", f"say what it is: --kind {'|'.join(KINDS)}"
        )
    if ui == "invokeai":
        return INVOKEAI
    if ui == "a1111" and base not in (None, "ambiguous") and base not in A1111_BASES:
        return NoPlace(f"A1111 cannot load models of the family {base!r}", "use ComfyUI, Forge or SD.Next for it")
    if kind == "upscaler" and ui in BY_ARCHITECTURE:
        listed = tuple(names)
        own = (folder for part, folder in ARCHITECTURES if any(part in name for name in listed))
        return Place(next(own, "models/ESRGAN"))
    return FOLDERS[kind][ui]


def folders_of(kind: str, base: str | None = None, names: Iterable[str] = ()) -> dict[str, str]:
    """UI -> folder of this kind, for the UIs that load it."""
    listed = tuple(names)
    found = {ui: where(kind, ui, base, listed) for ui in UIS}
    return {ui: place.folder for ui, place in found.items() if isinstance(place, Place)}


def refusals_of(kind: str, base: str | None = None) -> dict[str, NoPlace]:
    """UI -> why it cannot take this kind, for the UIs that do not load it; empty for an unknown kind."""
    if SAME_AS.get(kind, kind) not in FOLDERS:
        return {}
    found = {ui: where(kind, ui, base) for ui in UIS}
    return {ui: place for ui, place in found.items() if isinstance(place, NoPlace)}

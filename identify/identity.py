"""What a file is, and what that was told from."""

from dataclasses import dataclass

KINDS = (
    "checkpoint", "unet", "vae", "text-encoder", "lora", "lycoris", "hypernetwork", "textual-inversion", "controlnet",
    "control-lora", "t2i-adapter", "ip-adapter", "upscaler", "unknown",
)  # fmt: skip
ALGORITHMS = ("lora", "locon", "loha", "lokr", "dora", "ia3", "oft", "boft", "glora", "full")
AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network was trained to predict."""

    type: str | None
    """epsilon, v or edm; None where the question has no answer or the file does not say."""
    evidence: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is. Nothing here is guessed: without evidence a field is None, or `ambiguous`."""

    kind: str
    """One of KINDS."""
    algorithm: str | None
    """One of ALGORITHMS, for lora and lycoris only."""
    base: str | None
    """The architecture: sd1, sd2, sdxl, sdxl-refiner, sd3, flux …, or `ambiguous`."""
    candidates: tuple[str, ...]
    """What it may be, where the base is ambiguous."""
    variant: str | None
    """inpainting, instruct-pix2pix, depth, unclip, upscaler …"""
    prediction: Prediction
    evidence: tuple[str, ...]
    """For each label the names and shapes that it was told from."""
    problems: tuple[str, ...]
    """What contradicts itself or would surprise."""

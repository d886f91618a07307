"""What the metadata say a file is, held against what its names and shapes say: these are the truth."""

from dataclasses import replace

from ckptool.identify.families import title
from ckptool.identify.identity import AMBIGUOUS
from ckptool.identify.signs import Decision
from ckptool.text import escape

# kohya's name of the model that was trained on, by its beginning; the first that fits.
KOHYA: tuple[tuple[str, str], ...] = (
    ("sdxl", "sdxl"), ("sd_xl", "sdxl"), ("sd_v1", "sd1"), ("sd_1", "sd1"), ("sd1", "sd1"), ("sd_v2", "sd2"),
    ("sd_2", "sd2"), ("sd2", "sd2"), ("sd3", "sd3"), ("flux", "flux"), ("lumina", "lumina2"),
)  # fmt: skip
# Architectures of https://github.com/Stability-AI/ModelSpec, by their beginning; the first that fits.
MODELSPEC: tuple[tuple[str, str], ...] = (
    ("stable-diffusion-v1", "sd1"), ("stable-diffusion-v2", "sd2"), ("stable-diffusion-xl-v1-refiner", "sdxl-refiner"),
    ("stable-diffusion-xl", "sdxl"), ("stable-diffusion-v3", "sd3"), ("stable-diffusion-3", "sd3"),
    ("stable-video-diffusion", "svd"), ("hunyuan-video", "hunyuan-video"), ("qwen-image", "qwen-image"),
    ("flux-2", "flux2"), ("flux", "flux"), ("chroma", "chroma"), ("auraflow", "auraflow"), ("lumina-2", "lumina2"),
    ("pixart", "pixart"), ("stable-cascade", "cascade"),
)  # fmt: skip
TRAINED_ON, ARCHITECTURE, SECOND = "ss_base_model_version", "modelspec.architecture", "ss_v2"
# What may follow the architecture after a slash, and the kinds that are one.
PARTS: dict[str, frozenset[str]] = {
    "lora": frozenset({"lora", "lycoris"}),
    "textual-inversion": frozenset({"textual-inversion"}),
    "control-net": frozenset({"controlnet", "control-lora"}),
    "controlnet": frozenset({"controlnet", "control-lora"}),
    "vae": frozenset({"vae"}),
}


def said_by(metadata: dict[str, str]) -> dict[str, str]:
    """Key of the metadata -> the base that it names."""
    said: dict[str, str] = {}
    for key, table in ((TRAINED_ON, KOHYA), (ARCHITECTURE, MODELSPEC)):
        text = metadata.get(key, "").strip().lower()
        base = next((base for start, base in table if text.startswith(start)), "")
        if base:
            said[key] = base
    if metadata.get(SECOND, "").strip().lower() == "true":
        said[SECOND] = "sd2"
    return said


def against_metadata(decision: Decision, kind: str, metadata: dict[str, str]) -> Decision:
    """A decision with what the metadata add: a choice among candidates, or a contradiction.

    A choice only where all of them agree: shapes left it open, and whoever trained the file knew.
    """
    said = said_by(metadata)
    problems = [*decision.problems]
    for key, base in said.items():
        if decision.base not in (None, AMBIGUOUS, base) or (
            decision.base == AMBIGUOUS and base not in decision.candidates
        ):
            problems.append(f"metadata {key} says {escape(metadata[key], 80)}, but {shapes_say(decision)}")
    if metadata.get(SECOND, "").strip().lower() == "false" and decision.base == "sd2":
        problems.append(f"metadata {SECOND} says {escape(metadata[SECOND], 80)}, but {shapes_say(decision)}")
    part = metadata.get(ARCHITECTURE, "").strip().lower().partition("/")[2]
    if part in PARTS and kind not in PARTS[part]:
        problems.append(f"metadata {ARCHITECTURE} says {part}, but the names are those of kind {kind}")
    bases = set(said.values())
    if decision.base == AMBIGUOUS and len(bases) == 1 and not decision.problems and bases <= set(decision.candidates):
        (base,), key = bases, next(iter(said))
        why = f"metadata {key}: {escape(metadata[key], 80)}; the shapes allow it"
        return replace(decision, base=base, candidates=(), evidence=(*decision.evidence, why), problems=tuple(problems))
    return replace(decision, problems=tuple(problems))


def shapes_say(decision: Decision) -> str:
    if decision.base == AMBIGUOUS:
        return f"names and shapes say {' or '.join(map(title, decision.candidates))}"
    return f"names and shapes say {title(decision.base or '')}"

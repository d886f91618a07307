"""What `model_index.json` of a diffusers folder says a pipeline is: it decides how diffusers runs it."""

from dataclasses import replace

from ckptool.identify.families import title
from ckptool.identify.identity import AMBIGUOUS
from ckptool.identify.signs import Decision
from ckptool.text import escape

# Beginnings of pipeline classes and the bases that such a pipeline runs; the first that fits.
PIPELINES: tuple[tuple[str, frozenset[str]], ...] = (
    ("StableDiffusionXL", frozenset({"sdxl", "sdxl-refiner"})),
    ("StableDiffusion3", frozenset({"sd3"})),
    ("StableDiffusion", frozenset({"sd1", "sd2"})),
    ("StableUnCLIP", frozenset({"sd2"})),
    ("StableVideoDiffusion", frozenset({"svd"})),
    ("StableCascade", frozenset({"cascade"})),
    ("Flux2", frozenset({"flux2"})),
    ("Flux", frozenset({"flux"})),
    ("Chroma", frozenset({"chroma"})),
    ("AuraFlow", frozenset({"auraflow"})),
    ("HunyuanDiT", frozenset({"hunyuan-dit"})),
    ("HunyuanVideo", frozenset({"hunyuan-video"})),
    ("PixArt", frozenset({"pixart"})),
    ("Lumina2", frozenset({"lumina2"})),
    ("ZImage", frozenset({"z-image"})),
    ("QwenImage", frozenset({"qwen-image"})),
    ("Wan", frozenset({"wan"})),
    ("LTX", frozenset({"ltxv"})),
    ("HiDream", frozenset({"hidream"})),
)

# Parts of pipeline classes, and the variant that they mean.
VARIANTS: tuple[tuple[str, str], ...] = (
    ("InstructPix2Pix", "instruct-pix2pix"),
    ("Inpaint", "inpainting"),
    ("Depth2Img", "depth"),
    ("StableUnCLIP", "unclip"),
    ("Upscale", "upscaler"),
    ("FluxFill", "fill"),
    ("FluxControlPipeline", "control"),
)


def against_pipeline(decision: Decision, variant: str | None, pipeline: str) -> tuple[Decision, str | None]:
    """A decision and a variant with what the pipeline's class adds or contradicts."""
    says = next((bases for start, bases in PIPELINES if pipeline.startswith(start)), frozenset[str]())
    why = f"model_index.json: {escape(pipeline, 80)}"
    if says:
        decision = with_class(decision, says, why)
    return decision, variant or next((name for part, name in VARIANTS if part in pipeline), None)


def with_class(decision: Decision, says: frozenset[str], why: str) -> Decision:
    evidence = (*decision.evidence, f"{why}, for {' or '.join(sorted(map(title, says)))}")
    if decision.base in says:
        return replace(decision, evidence=evidence)
    if decision.base == AMBIGUOUS:
        left = tuple(base for base in decision.candidates if base in says)
        if left:
            return replace(decision, base=left[0] if len(left) == 1 else AMBIGUOUS, evidence=evidence,
                           candidates=() if len(left) == 1 else left)  # fmt: skip
    if decision.base is None:
        known = tuple(sorted(says))
        return replace(decision, base=known[0] if len(known) == 1 else AMBIGUOUS, evidence=evidence,
                       candidates=() if len(known) == 1 else known)  # fmt: skip
    problem = f"{why}, but names and shapes say {title(decision.base)}"
    both = tuple(dict.fromkeys((*(decision.candidates or (decision.base,)), *sorted(says))))
    return replace(decision, base=AMBIGUOUS, candidates=both, evidence=evidence, problems=(*decision.problems, problem))

"""Whether a file is quantised already: its numbers then mean something only together with their scales."""

from ckptool.tensor import Plan
from ckptool.text import escape

# How a name ends that only a quantised file has, and what wrote it.
ENDINGS: dict[str, str] = {
    ".weight_scale": "FP8 or INT8 weights with scales",
    ".weight_scale_2": "FP4 weights with scales",
    ".scale_weight": "FP8 weights with scales, as ComfyUI reads them",
    ".scale_input": "FP8 weights with scales of their inputs, as ComfyUI reads them",
    ".input_scale": "weights with scales of their inputs",
    ".comfy_quant": "quantised for ComfyUI",
    ".quant_state.bitsandbytes__nf4": "NF4 of bitsandbytes",
    ".quant_state.bitsandbytes__fp4": "FP4 of bitsandbytes",
    ".absmax": "4-bit weights of bitsandbytes",
    ".SCB": "INT8 weights of bitsandbytes",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
}
MARKER = "scaled_fp8"
"""An empty tensor at the top, or behind a prefix."""


def quantised(plan: Plan) -> str | None:
    """The reason why a file is quantised already, None when it is not. Such a file is never to be cast again."""
    scales: list[str] = []
    endings = tuple(ENDINGS)
    for tensor in plan.tensors:
        name = tensor.name
        if name == MARKER or name.endswith("." + MARKER):
            return f"{escape(name, 120)}: FP8 weights with scales, as ComfyUI reads them"
        if name.endswith(endings):
            return f"{escape(name, 120)}: {next(what for end, what in ENDINGS.items() if name.endswith(end))}"
        if name.endswith(".scale"):
            scales.append(name.removesuffix("scale"))
    # A scale alone is a norm's, as in Flux; beside a weight it is the weight's.
    names = {tensor.name for tensor in plan.tensors} if scales else set()
    scaled = next((stem for stem in scales if f"{stem}weight" in names), None)
    return f"{escape(scaled, 120)}weight beside its scale" if scaled else None

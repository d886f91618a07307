"""How far the outputs of the denoise step may be apart: that follows from what was done to the weights."""

from ckptool.verify.explanation import Explanation

MAX_ERROR = 0.05
"""Relative L2 error of an output where values were left out on purpose, unless --max-error says otherwise."""
# The same where weights were only rounded: about three times the worst that was measured (docs/verify.md has the runs).
# A decoder doubles its picture three times over and has the most layers that add up.
ROUNDED: dict[str, dict[str, float]] = {
    "F16": {"unet": 5e-3, "vae": 1.2e-2, "text_encoder": 4e-3, "text_encoder_2": 4e-3, "control": 4e-3},
    "BF16": {"unet": 4e-2, "vae": 9e-2, "text_encoder": 2.5e-2, "text_encoder_2": 2.5e-2, "control": 3e-2},
    "F8_E4M3": {"unet": 0.45, "vae": 0.9, "text_encoder": 0.3, "text_encoder_2": 0.3, "control": 0.45},
    "F8_E5M2": {"unet": 0.7, "vae": 0.95, "text_encoder": 0.7, "text_encoder_2": 0.7, "control": 0.7},
    # Only what was F64 is rounded to F32, by less than one sum in another order.
    "F32": dict.fromkeys(("unet", "vae", "text_encoder", "text_encoder_2", "control"), 1e-5),
}


def tolerance(explanation: Explanation, component: str, max_error: float | None) -> float:
    """The relative L2 error that a component's outputs may have; what --max-error says counts for every change."""
    casts = [item for item in explanation.cast if item["component"] == component]
    changed = bool(casts) or component in explanation.zeroed or bool(explanation.rank) or bool(explanation.repaired)
    if not changed:
        return 0.0
    if max_error is not None:
        return max_error
    if component in explanation.zeroed or explanation.rank:
        return MAX_ERROR
    # A list of positions that was repaired moves the text as little as a cast.
    return max((ROUNDED.get(item["to"], {}).get(component, 0.0) for item in casts), default=ROUNDED["F16"]["unet"])

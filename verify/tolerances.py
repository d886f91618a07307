"""How far the outputs of the denoise step may be apart: that follows from what was done to the weights."""

from ckptool.verify.explanation import Explanation

MAX_ERROR = 0.05
"""Relative L2 error of an output where values were left out on purpose, unless --max-error says otherwise."""
# The same where weights were only rounded: some ten times what random and real weights showed at full size.
ROUNDED: dict[str, float] = {
    "F64": 0.0, "F32": 1e-5, "F16": 5e-3, "BF16": 4e-2, "F8_E4M3": 0.3, "F8_E5M2": 0.5,
}  # fmt: skip


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
    return max((ROUNDED.get(item["to"], 0.0) for item in casts), default=ROUNDED["F16"])

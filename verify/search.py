"""How far a model may be changed: the largest threshold, or the fewest wide tensors, within an error of the step."""

from collections.abc import Callable
from math import isfinite, log10, sqrt

from ckptool.errors import Refused, UsageError
from ckptool.tensor import Plan
from ckptool.verify.configs import Unknown
from ckptool.verify.denoise import Settings, Trace, apart, inputs_of, run
from ckptool.verify.ldm_extra import components_of
from ckptool.verify.probe import block_of
from ckptool.verify.sides import Side, sides, unet_for_control

Step = Callable[[Plan], Plan]
LOWEST, HIGHEST = 1e-7, 1e-1
"""Thresholds that are tried: below, F16 has no number between it and zero; above, weights are not small."""
EVALUATIONS = 10
"""Halvings of the range in log space: the result is right to about 1.4 %."""


class Reference:
    """The outputs of the original, made once, that candidates are held against. No file is written for them."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        """Raises Refused when nothing of the plan can be run."""
        self.inputs = inputs_of(plan, settings)
        self.traces: dict[str, Trace] = {}
        try:
            self.unet = unet_for_control(plan, None)
            self.ours = sides(plan, None, self.inputs.base, self.unet)
        except Unknown as error:
            raise refused(error) from error

    def trace(self, component: str) -> Trace:
        if component not in self.traces:
            try:
                self.traces[component] = run(component, self.ours[component], self.inputs)
            except Unknown as error:
                raise refused(error) from error
        return self.traces[component]

    def errors(self, candidate: Plan) -> dict[str, float]:
        """Relative L2 of each component that the candidate changes. Raises Refused when one cannot be run."""
        try:
            theirs = sides(candidate, None, self.inputs.base, self.unet)
            return {
                name: apart(self.trace(name), run(name, theirs[name], self.inputs)).relative_l2
                for name, side in self.ours.items()
                if name in theirs and not untouched(side, theirs[name])
            }
        except Unknown as error:
            raise refused(error) from error

    def error(self, candidate: Plan) -> float:
        """Of the component that is changed most."""
        return max(self.errors(candidate).values(), default=0.0)


def refused(error: Unknown) -> Refused:
    return Refused(f"the reference step cannot run this model: {error}", "give a threshold instead of a largest error")


def untouched(ours: Side, theirs: Side) -> bool:
    """Whether every weight comes from the same bytes in the same way."""
    return ours.weights.keys() == theirs.weights.keys() and all(
        weight.tensor.data is theirs.weights[name].tensor.data for name, weight in ours.weights.items()
    )


def check_error(max_error: float) -> None:
    if not isfinite(max_error) or max_error <= 0:
        raise UsageError(f"{max_error} is no error that could be allowed", "give a number above 0, for example 0.001")


def largest_threshold(
    plan: Plan, prune_step: Callable[[float], Step], max_error: float, settings: Settings | None = None
) -> float:
    """The largest threshold whose step keeps the relative L2 within `max_error`; 0.0 when none does.

    The error need not grow evenly, so the result is one that was tried, and everything tried below it fits as well.
    """
    check_error(max_error)
    reference = Reference(plan, settings or Settings())

    def fits(threshold: float) -> bool:
        return reference.error(prune_step(threshold)(plan)) <= max_error

    if not fits(LOWEST):
        return 0.0
    if fits(HIGHEST):
        return HIGHEST
    low, high = log10(LOWEST), log10(HIGHEST)
    best = LOWEST
    for _ in range(EVALUATIONS):
        middle = (low + high) / 2
        threshold = float(f"{10**middle:.2e}")  # what is reported can be typed
        if fits(threshold):
            low, best = middle, threshold
        else:
            high = middle
    return best


def keep_wide(
    plan: Plan, cast_step: Callable[[frozenset[str]], Step], max_error: float, settings: Settings | None = None
) -> frozenset[str]:
    """The tensors that must stay as they are, so that all others can be cast within `max_error`.

    Chosen by block: each is cast alone to see what it costs, and the costliest stay, as few as will do.
    """
    check_error(max_error)
    reference = Reference(plan, settings or Settings())
    kept: frozenset[str] = frozenset()
    for component, error in reference.errors(cast_step(kept)(plan)).items():
        if error > max_error:
            kept |= widest(reference, plan, component, cast_step, max_error)
    return kept


def widest(
    reference: Reference, plan: Plan, component: str, cast_step: Callable[[frozenset[str]], Step], max_error: float
) -> frozenset[str]:
    """The same for one component, all others left as they are."""
    blocks: dict[str, set[str]] = {}
    for name, weight in reference.ours[component].weights.items():
        blocks.setdefault(block_of(name), set()).add(weight.tensor.name)
    everything = {
        weight.tensor.name for weights in components_of(plan).values() for weight in weights.values()
    }  # fmt: skip

    def cost(kept: set[str]) -> float:
        return reference.errors(cast_step(frozenset(kept))(plan)).get(component, 0.0)

    costs = {block: cost(everything - names) for block, names in blocks.items()}
    order = sorted(costs, key=lambda block: -costs[block])
    # Errors of rounding are independent, so their squares add up: a first guess at how many have to stay.
    count = next(
        (n for n in range(1, len(order)) if sqrt(sum(costs[block] ** 2 for block in order[n:])) <= max_error),
        len(order),
    )
    others = everything - set().union(*blocks.values())
    while count < len(order) and cost(others | named(blocks, order[:count])) > max_error:
        count += 1
    while count > 1 and cost(others | named(blocks, order[: count - 1])) <= max_error:
        count -= 1
    return frozenset(named(blocks, order[:count]))


def named(blocks: dict[str, set[str]], chosen: list[str]) -> set[str]:
    return set().union(*(blocks[block] for block in chosen)) if chosen else set()

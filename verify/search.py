"""How far a model may be changed: the largest threshold, or the fewest wide tensors, within an error of the step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import inf, isfinite, log10, sqrt

from ckptool.convert.crew import Advance
from ckptool.errors import NotShown, Refused, UsageError
from ckptool.reached import Step
from ckptool.tensor import Plan
from ckptool.verify.configs import Unknown
from ckptool.verify.denoise import Settings, Trace, apart, inputs_of, run
from ckptool.verify.ldm_extra import components_of
from ckptool.verify.probe import block_of
from ckptool.verify.sides import Side, sides, unet_for_control

Watch = Callable[[int], AbstractContextManager[Advance]]
"""Told how many trials there will be, gives what is told of each."""
LOWEST, HIGHEST = 1e-7, 1e-1
"""Thresholds that are tried: below, F16 has no number between it and zero; above, weights are not small."""
EVALUATIONS = 10
"""Halvings of the range in log space: the result is right to about 1.4 %."""


@dataclass(frozen=True, slots=True)
class Found:
    """A threshold and what it costs."""

    threshold: float
    """0.0 when none keeps the error."""
    errors: dict[str, float]
    """Component -> relative L2."""


@dataclass(frozen=True, slots=True)
class Wide:
    """What stays as it is, and what the cast of all else costs."""

    costs: dict[str, float]
    """Tensor -> how far the cast of its block alone moves the step."""
    errors: dict[str, float]
    """Component -> relative L2."""


def unwatched(_: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _: None)


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
        """Relative L2 of each component that the candidate changes; infinite where it cannot run any more.

        Raises Refused when the original of such a component cannot be run.
        """
        try:
            theirs = sides(candidate, None, self.inputs.base, self.unet)
        except Unknown:
            theirs = {}
        return {
            name: self.apart(name, theirs.get(name))
            for name, side in self.ours.items()
            if name not in theirs or not untouched(side, theirs[name])
        }

    def apart(self, name: str, theirs: Side | None) -> float:
        before = self.trace(name)
        try:
            return inf if theirs is None else apart(before, run(name, theirs, self.inputs)).relative_l2
        except Unknown:
            return inf


def refused(error: Unknown) -> Refused:
    return Refused(f"the reference step cannot run this model: {error}", "leave --max-error out: then nothing is run")


def untouched(ours: Side, theirs: Side) -> bool:
    """Whether every weight comes from the same bytes in the same way, with nothing of an addon's done to it."""
    if ours.prepare is not theirs.prepare or any(weight.change for weight in ours.weights.values()):
        return False
    return ours.weights.keys() == theirs.weights.keys() and all(
        weight.tensor.data is theirs.weights[name].tensor.data for name, weight in ours.weights.items()
    )


def check_error(max_error: float) -> None:
    if not isfinite(max_error) or max_error <= 0:
        raise UsageError(f"{max_error} is no error that could be allowed", "give a number above 0, for example 0.001")


def largest_threshold(
    plan: Plan,
    prune_step: Callable[[float], Step],
    max_error: float,
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> Found:
    """The largest threshold whose step keeps the relative L2 within `max_error`.

    The error need not grow evenly, so the result is one that was tried, and the next larger one that was does not fit.
    """
    check_error(max_error)
    reference = Reference(plan, settings or Settings())
    best = Found(0.0, {})
    with watch(EVALUATIONS + 2) as advance:

        def fits(threshold: float) -> bool:
            nonlocal best
            errors = reference.errors(prune_step(threshold)(plan))
            advance(1)
            if not within(errors, max_error):
                return False
            best = Found(threshold, errors)
            return True

        if not fits(LOWEST) or fits(HIGHEST):
            return best
        low, high = log10(LOWEST), log10(HIGHEST)
        for _ in range(EVALUATIONS):
            middle = (low + high) / 2
            if fits(float(f"{10**middle:.2e}")):  # what is reported can be typed
                low = middle
            else:
                high = middle
    return best


def within(errors: dict[str, float], max_error: float) -> bool:
    """What is no number is beyond every error."""
    return all(error <= max_error for error in errors.values())


def keep_wide(
    plan: Plan,
    cast_step: Callable[[frozenset[str]], Step],
    max_error: float,
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> Wide:
    """The tensors that must stay as they are, so that all others can be cast within `max_error`.

    Chosen by block: each is cast alone to see what it costs, and the costliest stay, as few as will do. Raises
    NotShown for a file that only changes other networks and does not keep the error as a whole.
    """
    check_error(max_error)
    reference = Reference(plan, settings or Settings())
    errors = reference.errors(cast_step(frozenset())(plan))
    if within(errors, max_error):
        return Wide({}, errors)
    own = {tensor.name for tensor in plan.tensors}
    costs: dict[str, float] = {}
    for component, error in errors.items():
        if error <= max_error:
            continue
        if not any(weight.tensor.name in own for weight in reference.ours[component].weights.values()):
            raise NotShown(
                f"cast as a whole it moves the denoise step of {component} by {error:.3g}, more than {max_error:g}",
                "allow more, or name what is to stay with --keep-fp32: parts of such a file cannot be tried alone",
            )
        costs |= widest(reference, plan, component, cast_step, max_error, watch)
    return Wide(costs, reference.errors(cast_step(frozenset(costs))(plan)))


def widest(
    reference: Reference,
    plan: Plan,
    component: str,
    cast_step: Callable[[frozenset[str]], Step],
    max_error: float,
    watch: Watch,
) -> dict[str, float]:
    """The same for one component, all others left as they are."""
    blocks: dict[str, set[str]] = {}
    for name, weight in reference.ours[component].weights.items():
        blocks.setdefault(block_of(name), set()).add(weight.tensor.name)
    everything = {
        weight.tensor.name for weights in components_of(plan).values() for weight in weights.values()
    }  # fmt: skip
    with watch(len(blocks) + 2) as advance:

        def cost(kept: set[str]) -> float:
            error = reference.errors(cast_step(frozenset(kept))(plan)).get(component, 0.0)
            advance(1)
            return error if error == error else inf

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
    return {name: costs[block] for block in order[:count] for name in sorted(blocks[block])}


def named(blocks: dict[str, set[str]], chosen: list[str]) -> set[str]:
    return set().union(*(blocks[block] for block in chosen)) if chosen else set()

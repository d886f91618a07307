"""Whether a threshold explains the values that became zero.

A stated threshold is believed. One that is inferred has to explain the whole component: it is the largest value that
became zero, and no weight of the component may have kept a smaller one. A single damaged value does not pass as that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from math import fsum, sqrt
from typing import Any

from ckptool.convert.crew import each
from ckptool.prune.threshold import is_target
from ckptool.verify.compare import PIECE, Comparison
from ckptool.verify.difference import Counts
from ckptool.verify.expect import Expectation
from ckptool.verify.rounding import codes_of, numbers_of, rounded

FEWEST = 4
"""Fewer zeros than this are not taken for a threshold that nobody stated."""
MOST = 0.5
"""Of the norm of all weights: what is lost beyond that is not taken for a threshold that nobody stated."""
SLACK = 1 + 1e-9
"""The RMS of a tensor is a sum, and sums come out a little different each way."""
STATE_IT = "--threshold states one, where it was another"


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A tensor that is compared, as far as a threshold is concerned."""

    name: str
    comparison: Comparison
    total: Counts

    @property
    def is_target(self) -> bool:
        return is_target(self.comparison.original.tensor, self.comparison.component)


@dataclass(slots=True)
class Measure:
    """Of one tensor of the original."""

    squares: float = 0.0
    finite: int = 0
    below: list[int] = field(default_factory=list)
    """How many of its values are not zero, and not larger than each of the limits that were asked for."""

    @property
    def rms(self) -> float:
        return sqrt(self.squares / self.finite) if self.finite else 0.0


@dataclass(slots=True, eq=False)
class Judgement:
    """What became of the zeros."""

    refused: dict[str, str] = field(default_factory=dict)
    """Tensor -> why its zeros are not explained."""
    threshold: float | None = None
    relative: bool = False
    inferred: bool = False
    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Component -> values, of, fraction, relative_error."""


def judge(tensors: Iterable[Looked], expected: Expectation) -> Judgement:
    """Hold what became zero against the threshold. The originals of those components are read again."""
    every = list(tensors)
    zeroed = [item for item in every if item.total.zeroed]
    if not zeroed:
        return Judgement()
    parts = {item.comparison.component for item in zeroed}
    looked = [item for item in every if item.comparison.component in parts and (item.is_target or item.total.zeroed)]
    measures = measured(looked, {})
    if expected.threshold is not None:
        judgement = by_threshold(zeroed, measures, expected.threshold, expected.relative)
    else:
        judgement = by_report(zeroed, expected) if expected.stated else Judgement()
        refused = judgement.refused
        judgement = inferred([item for item in zeroed if item.name not in refused], looked, measures)
        judgement.refused |= refused
    judgement.components = figures(looked, measures, judgement.refused)
    return judgement


def by_threshold(zeroed: list[Looked], measures: dict[str, Measure], threshold: float, relative: bool) -> Judgement:
    import numpy

    judgement = Judgement(threshold=threshold, relative=relative)
    with numpy.errstate(over="ignore"):
        absolute = max(threshold, float(numpy.float32(threshold)))
    for item in zeroed:
        limit = threshold * measures[item.name].rms * SLACK if relative else absolute
        largest = min(item.total.largest_zeroed, item.total.largest_narrow)
        if not largest < limit:
            judgement.refused[item.name] = (
                f"{item.total.zeroed:,} values became zero, up to {largest:.6g}, and the threshold is {limit:.6g}"
            )
    return judgement


def by_report(zeroed: list[Looked], expected: Expectation) -> Judgement:
    """Only what the report says may be zero, and no more values than it says."""
    judgement = Judgement()
    for component in {item.comparison.component for item in zeroed}:
        mine = [item for item in zeroed if item.comparison.component == component]
        count, said = sum(item.total.zeroed for item in mine), expected.zeroed.get(component, 0)
        if count > said:
            why = f"{count:,} values of the {component} became zero, and the report says {said:,}"
            judgement.refused |= dict.fromkeys((item.name for item in mine), why)
    return judgement


def inferred(zeroed: list[Looked], looked: list[Looked], measures: dict[str, Measure]) -> Judgement:
    """A threshold, absolute or relative, that explains every zero and every value that is none."""
    stray = [item for item in zeroed if not item.is_target]
    if stray:
        rest = [item for item in zeroed if item.is_target]
        targets = [item for item in looked if item.is_target]
        judgement = inferred(rest, targets, measures) if rest else Judgement()
        why = "values became zero in a tensor that no threshold is for"
        judgement.refused |= {item.name: f"{item.total.zeroed:,} {why}; {STATE_IT}" for item in stray}
        return judgement
    count = sum(item.total.zeroed for item in zeroed)
    if count < FEWEST:
        return Judgement({item.name: f"{item.total.zeroed:,} became zero, too few for a threshold" for item in zeroed})
    if fsum(item.total.zeroed_squares for item in zeroed) > MOST**2 * fsum(measures[i.name].squares for i in looked):
        why = "so much that it is no model any more"
        return Judgement({item.name: f"{item.total.zeroed:,} values became zero, {why}" for item in zeroed})
    largest = max(item.total.largest_zeroed for item in zeroed)
    narrow = max(item.total.largest_narrow for item in zeroed)
    ratio = max(item.total.largest_zeroed / (measures[item.name].rms or 1.0) for item in zeroed)
    limits = {item.name: limits_of(item, largest, narrow, ratio * measures[item.name].rms * SLACK) for item in looked}
    below = measured(looked, limits)
    for place, threshold in enumerate((largest, narrow, ratio)):
        if sum(below[item.name].below[place] for item in looked) == count:
            return Judgement(threshold=threshold, relative=place == 2, inferred=True)
    why = "though smaller ones were kept: no threshold explains that"
    return Judgement({item.name: f"{item.total.zeroed:,} values became zero, {why}; {STATE_IT}" for item in zeroed})


def limits_of(item: Looked, largest: float, narrow: float, relative: float) -> list[float]:
    """The largest values that count as small; the second is told after the rounding of a cast."""
    change = item.comparison.change
    before = narrow if change.before == change.after else edge(narrow, change.before, change.after)
    return [largest, before, relative]


@lru_cache(maxsize=256)
def edge(limit: float, before: str, after: str) -> float:
    """The largest number of `before` whose rounding to `after` is at most `limit`, by halving the bits it may have."""
    import numpy

    kind, bits = ("<f8", "<u8") if before == "F64" else ("<f4", "<u4")
    low, high = 0, int(numpy.array(numpy.inf, kind).view(bits))
    while high - low > 1:
        middle = (low + high) // 2
        number = numpy.array([middle], bits).view(kind)
        within = numbers_of(rounded(number, after), after)[0] <= limit
        low, high = (middle, high) if within else (low, middle)
    return float(numpy.array(low, bits).view(kind))


def measured(looked: list[Looked], limits: dict[str, list[float]]) -> dict[str, Measure]:
    """Read originals, and count what is at most each limit, by tensor, where limits are given."""
    found: dict[str, Measure] = {}

    def measure(item: Looked) -> None:
        found[item.name] = measure_of(item.comparison, limits.get(item.name, []))

    each(looked, measure)
    return found


def measure_of(comparison: Comparison, limits: list[float]) -> Measure:
    import numpy

    reach, change = comparison.original, comparison.change
    # What rounds to zero was not made zero by a threshold.
    nothing = edge(0.0, change.before, change.after) if limits else 0.0
    squares: list[float] = []
    measure = Measure(below=[0] * len(limits))
    for start in range(0, comparison.elements, PIECE):
        count = min(PIECE, comparison.elements - start)
        buffer = memoryview(bytearray(count * reach.width))
        reach.read(start * reach.width, buffer)
        reach.change(buffer)
        sizes = numpy.abs(numbers_of(codes_of(buffer, reach.tensor.dtype), reach.tensor.dtype))
        if limits:
            below = number_up_to(sizes, nothing)
            measure.below = [
                so_far + number_up_to(sizes, limit) - below for so_far, limit in zip(measure.below, limits, strict=True)
            ]
            continue
        if not numpy.isfinite(sizes.max(initial=0)):
            sizes = sizes[numpy.isfinite(sizes)]
        wide = sizes.astype("<f8")
        squares.append(float(numpy.dot(wide, wide)))
        measure.finite += len(sizes)
    measure.squares = fsum(squares)
    return measure


def number_up_to(sizes: Any, limit: float) -> int:
    """How many are at most `limit`, which is brought down to a number of their dtype."""
    import numpy

    nearest = sizes.dtype.type(limit)
    if nearest > limit:
        nearest = numpy.nextafter(nearest, sizes.dtype.type(0))
    return int(numpy.count_nonzero(sizes <= nearest))


def figures(looked: list[Looked], measures: dict[str, Measure], refused: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What the zeros cost, by component, as `prune` says it."""
    result: dict[str, dict[str, Any]] = {}
    for component in sorted({item.comparison.component for item in looked}):
        mine = [item for item in looked if item.comparison.component == component and item.name not in refused]
        zeroed, of = sum(item.total.zeroed for item in mine), sum(item.comparison.elements for item in mine)
        if not zeroed:
            continue
        squares = fsum(measures[item.name].squares for item in mine)
        lost = fsum(item.total.zeroed_squares for item in mine)
        result[component] = {
            "values": zeroed,
            "of": of,
            "fraction": float(f"{zeroed / of:.6g}"),
            "relative_error": float(f"{sqrt(lost / squares):.6g}") if squares else 0.0,
        }
    return result

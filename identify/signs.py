"""Signs of an architecture, and what follows from all of them together."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ckptool.identify.identity import AMBIGUOUS

# The order in which signs count. A width as published says it all, unless the whole network is scaled down: then widths
# stand to each other as published, and a single one that looks like another network's means nothing.
# What stands where, and what is missing, is the weakest: a network cut down to two levels has attention in other places
# than it was published with, but the same layers.
WIDTH, RATIO, STRUCTURE, WRAPPER, PLACE = "width", "ratio", "structure", "wrapper", "place"


@dataclass(frozen=True, slots=True)
class Sign:
    """What one thing in a file says about its base."""

    strength: str
    says: frozenset[str]
    """The bases that it allows."""
    evidence: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a base was decided to be."""

    base: str | None
    candidates: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def decide(signs: Iterable[Sign], order: tuple[str, ...]) -> Decision:
    """The one base that the signs allow, `ambiguous` when they allow several or contradict each other.

    `order` lists all bases, as candidates are shown.
    """
    signs = [sign for sign in signs if sign.says]
    if not signs:
        return Decision(None)
    inner = allowed(signs, order, STRUCTURE)
    outer = inner & allowed(signs, order, WRAPPER)
    evidence = tuple(sign.evidence for sign in signs)
    if not inner:
        return conflict(signs, order, evidence)
    left = narrowed(signs, (outer & allowed(signs, order, PLACE)) or outer) if outer else frozenset()
    if not left:
        return conflict(signs, order, evidence)
    candidates = tuple(base for base in order if base in left)
    if len(candidates) > 1:
        return Decision(AMBIGUOUS, candidates, evidence)
    return Decision(candidates[0], (), tuple(sign.evidence for sign in signs if candidates[0] in sign.says))


def open_to(decision: Decision, order: tuple[str, ...]) -> Decision:
    """`ambiguous` among all of `order` in place of no answer: the layers are theirs, and nothing tells them apart."""
    return replace(decision, base=AMBIGUOUS, candidates=order) if decision.base is None else decision


def allowed(signs: list[Sign], order: tuple[str, ...], strength: str) -> frozenset[str]:
    left = frozenset(order)
    for sign in signs:
        if sign.strength == strength:
            left &= sign.says
    return left


def narrowed(signs: list[Sign], left: frozenset[str]) -> frozenset[str]:
    """What widths and their ratios leave of `left`; nothing when they contradict it."""
    by_width = [sign.says & left for sign in signs if sign.strength == WIDTH]
    by_ratio = [sign.says & left for sign in signs if sign.strength == RATIO]
    given = [says for says in (*by_width, *by_ratio) if says]
    if not given:
        return frozenset() if by_width else left  # a width as published that the structure does not allow
    together = frozenset.intersection(*given)
    return together or frozenset().union(*given)


def conflict(signs: list[Sign], order: tuple[str, ...], evidence: tuple[str, ...]) -> Decision:
    """Two signs exclude each other: all that any narrow sign says is a candidate, and the two are shown."""
    narrow = [sign for sign in signs if len(sign.says) == min(len(s.says) for s in signs)]
    said = frozenset().union(*(sign.says for sign in narrow))
    first, second = opposed(signs)
    problem = f"signs that exclude each other: {first.evidence}; but {second.evidence}"
    return Decision(AMBIGUOUS, tuple(base for base in order if base in said), evidence, (problem,))


def opposed(signs: list[Sign]) -> tuple[Sign, Sign]:
    """Two signs without a base in common; where only three together have none, the first and the last."""
    for index, sign in enumerate(signs):
        for other in signs[index + 1 :]:
            if not sign.says & other.says:
                return sign, other
    return signs[0], signs[-1]

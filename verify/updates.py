"""Whether a module of an adapter that was lowered in rank, or turned into plain LoRA, is still the best it can be.

Its update, up·down·alpha/rank, is held against that of the original: it must be as near to it as a matrix of its rank
can be (Eckart and Young), but for the rounding of its factors.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

from ckptool.convert.crew import each
from ckptool.errors import CkptoolError
from ckptool.identify.adapters import AdapterModule, modules
from ckptool.prune.modules import norm
from ckptool.prune.rank_peft import Settings, read_settings, scale
from ckptool.prune.rank_update import PLAIN, Reader, scale_of
from ckptool.prune.svd import Dense, Factored, Kron, Unfit, Update, decompose, shape_of
from ckptool.tensor import Plan

CORE = ("up", "down", "mid", "alpha", "hada_", "lokr_", "diff")
"""How the roles begin that make an update; `diff_b` changes a bias and stands apart."""
APART = frozenset({"diff_b"})
# Bits of a number, and the power of two of the smallest step between two numbers.
STEPS: dict[str, tuple[int, int]] = {"F64": (53, -1074), "F32": (24, -149), "F16": (11, -24), "BF16": (8, -133)}
SMALLEST = 1e-6
"""Of the update: below this, figures in F64 say little."""
MARGIN = 2.0
"""Roundings are taken as independent of each other, which they nearly are."""


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One module in both files."""

    original: AdapterModule
    candidate: AdapterModule

    @property
    def names(self) -> tuple[frozenset[str], frozenset[str]]:
        """The tensors that are compared as an update, in the original and in the candidate."""
        one, other = (core_names(module) for module in (self.original, self.candidate))
        return one, other


@dataclass(frozen=True, slots=True)
class Held:
    """How near an update is to the one that it stands for."""

    before: int | None
    after: int
    relative_error: float
    best: float
    """The smallest error that is possible at its rank."""
    tolerance: float
    """What the rounding of both factors may add, relative to the update."""

    @property
    def fits(self) -> bool:
        return self.relative_error <= sqrt(self.best**2 + self.tolerance**2)


def core_names(module: AdapterModule) -> frozenset[str]:
    return frozenset(
        tensor.name for role, tensor in module.parts.items() if role.startswith(CORE) and role not in APART
    )


def changed_modules(original: Plan, candidate: Plan) -> list[Module]:
    """Modules of both files whose update is made of other tensors, or of tensors of other shapes."""
    before = {module.layer: module for module in modules(original).values()}
    after = {module.layer: module for module in modules(candidate).values()}
    found = []
    for layer, module in before.items():
        other = after.get(layer)
        if other is None or other.algorithm not in PLAIN:
            continue
        shapes = [
            {t.name: t.shape for t in item.parts.values() if t.name in core_names(item)} for item in (module, other)
        ]
        # A part that is missing makes no other update: it is named as what it is, a loss.
        if shapes[0] != shapes[1] and not shapes[1].items() <= shapes[0].items():
            found.append(Module(module, other))
    return found


def hold(found: list[Module], original: Plan, candidate: Plan) -> dict[str, Held | str]:
    """Module -> how near it is, or why that cannot be worked out."""
    import numpy

    before = read_settings(original.metadata, [module.original for module in found])
    after = read_settings(candidate.metadata, [module.candidate for module in found])
    result: dict[str, Held | str] = {}

    def work(module: Module) -> None:
        try:
            with numpy.errstate(all="ignore"):
                result[module.original.name] = held(module, before, after)
        except (Unfit, CkptoolError) as error:
            result[module.original.name] = str(error)
        except numpy.linalg.LinAlgError:
            result[module.original.name] = "its numbers are too large"

    each(found, work)
    return {module.original.name: result[module.original.name] for module in found}


def held(module: Module, before: Settings | None, after: Settings | None) -> Held:
    """Raises Unfit where the updates cannot be worked out."""
    update, ratio = Reader().update(module.original), ratio_of(module.original, before)
    new, new_ratio = Reader().update(module.candidate), ratio_of(module.candidate, after)
    if shape_of(update) != shape_of(new):
        raise Unfit(f"its update is {shape_of(new)} and was {shape_of(update)}")
    assert isinstance(new, Factored)
    new = Factored(new.left * new_ratio, new.right)
    rank = new.left.shape[1]
    values = decompose(update).values * abs(ratio)
    whole = float(sqrt((values**2).sum()))
    lost = distance(update, ratio, new, whole)
    tail = float((values[rank:] ** 2).sum())
    if whole == 0.0:
        return Held(module.original.rank, rank, 0.0 if lost == 0.0 else float("inf"), 0.0, SMALLEST)
    noise = rounding(module.candidate, new) / whole + SMALLEST
    return Held(module.original.rank, rank, lost / whole, sqrt(tail) / whole, noise)


def rounding(module: AdapterModule, new: Factored) -> float:
    """The norm of what the rounding of both factors adds: half a step of each number, carried through the product.

    `new` has the scale in its left factor, and where there is a Tucker core, that in its right one.
    """
    import numpy

    up, down = (module.parts[role].dtype for role in ("up", "down"))
    stored = Reader().update(module)
    assert isinstance(stored, Factored)
    scale = numpy.linalg.norm(new.left, axis=0) / numpy.maximum(numpy.linalg.norm(stored.left, axis=0), 1e-300)
    left = numpy.linalg.norm(half_steps(stored.left, up), axis=0) * scale
    right = numpy.linalg.norm(half_steps(new.right, down), axis=1)
    squares = (left * numpy.linalg.norm(new.right, axis=1)) ** 2 + (numpy.linalg.norm(new.left, axis=0) * right) ** 2
    return float(MARGIN * numpy.sqrt(squares.sum()))


def half_steps(array: Any, dtype: str) -> Any:
    """Half the distance between neighbouring numbers of a dtype, at each of the numbers."""
    import numpy

    bits, smallest = STEPS[dtype]
    _, exponents = numpy.frexp(array)
    return numpy.ldexp(0.5, numpy.maximum(exponents - bits, smallest))


def ratio_of(module: AdapterModule, settings: Settings | None) -> float:
    return scale_of(module, 1.0 if "alpha" in module.parts else scale(settings, module.layer))


def distance(update: Update, ratio: float, new: Factored, whole: float) -> float:
    """The Frobenius norm of what lies between two updates."""
    import numpy

    with numpy.errstate(all="ignore"):
        if isinstance(update, Factored):
            # The QR of both together: squares of differences would lose half of the digits.
            left = numpy.hstack([update.left * ratio, -new.left])
            right = numpy.vstack([update.right, new.right])
            (_, one), (_, other) = numpy.linalg.qr(left), numpy.linalg.qr(right.T)
            return float(numpy.linalg.norm(one @ other.T))
        if isinstance(update, Dense):
            return float(numpy.linalg.norm(update.matrix * ratio - new.left @ new.right))
        square = whole**2 - 2 * ratio * inner(update, new) + norm(new) ** 2
        return float(sqrt(max(square, 0.0)))


def inner(update: Kron, new: Factored) -> float:
    """The sum of the products of all entries of both; the large matrices are never made."""
    import numpy

    one, other = (matrix(part) for part in (update.one, update.two))
    rank = new.left.shape[1]
    left = new.left.T.reshape(rank, one.shape[0], other.shape[0])
    right = new.right.reshape(rank, one.shape[1], other.shape[1])
    product = numpy.tensordot(one, left, axes=(0, 1)).swapaxes(0, 1) @ other
    return float(numpy.vdot(product, right))


def matrix(update: Dense | Factored) -> Any:
    return update.matrix if isinstance(update, Dense) else update.left @ update.right

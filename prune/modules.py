"""Take the modules out of a LoRA or LyCORIS file whose whole update is about zero: loaders skip absent modules."""

from dataclasses import dataclass, replace
from math import hypot, isfinite, sqrt
from typing import Any

from ckptool.errors import Refused
from ckptool.identify.adapters import AdapterModule, modules
from ckptool.prune.effort import Effort, multiplying
from ckptool.prune.rank_peft import Settings, read_settings, scale
from ckptool.prune.rank_update import Reader, scale_of
from ckptool.prune.svd import Dense, Factored, Kron, Unfit, Update, norm_of_product, shape_of
from ckptool.tensor import Dropped, Plan

BLOCK = 1 << 21
"""Entries of a product that are made at once."""
MOST_ENTRIES = 1 << 27
"""Of an update: twice what the widest layer of Flux has. Two thin factors of a small file could span any number."""
LOADED_BESIDE = ("diff_b", "bias", "bias_values")
"""Parts that are added to the bias: they must be below the threshold as well."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How large an update is, its scale included."""

    norm: float
    """Frobenius norm."""
    entries: int


def remove_near_zero_modules(plan: Plan, threshold: float, relative: bool = False) -> Plan:
    """Drop every module all of whose update's entries are smaller than the threshold, each with its largest entry.

    The update is alpha/rank·up·down, or what LoHa, LoKr and full differences add to the weight. `relative` takes the
    threshold as a fraction of the RMS over the entries of all updates in the file. Modules with a dora_scale stay,
    since they change the weight with an update of zero too, and so do those whose update cannot be worked out.
    Raises Refused when no module would stay.
    """
    import numpy

    every = modules(plan)
    if not every or not threshold > 0:
        return plan
    with numpy.errstate(all="ignore"):  # an update beyond float64 stays, without a word from numpy
        return without_near_zero(plan, every, threshold, relative)


def without_near_zero(plan: Plan, every: dict[str, AdapterModule], threshold: float, relative: bool) -> Plan:
    reader, settings = Reader(), read_settings(plan.metadata, every.values())
    effort = Effort.of(plan.nbytes)
    words = f"{threshold:g}"
    if relative:
        threshold *= rms(every, reader, settings)
        words = f"{words} of the RMS of all updates, which is {threshold:.3g}"
    reasons: dict[str, str] = {}
    for name, module in every.items():
        largest = largest_below(module, threshold, reader, settings, effort)
        if largest is not None:
            reasons[name] = f"its module's whole update is below {words}: the largest entry is {largest:.3g}"
    if len(reasons) == len(every):
        raise Refused(
            f"all {len(every):,} modules are below the threshold of {words}",
            "give a smaller --threshold: none would stay",
        )
    dropped = [Dropped(tensor.name, why) for name, why in reasons.items() for tensor in every[name].parts.values()]
    gone = {item.name for item in dropped}
    tensors = tuple(tensor for tensor in plan.tensors if tensor.name not in gone)
    return replace(plan, tensors=tensors, dropped=(*plan.dropped, *dropped))


def rms(every: dict[str, AdapterModule], reader: Reader, settings: Settings | None) -> float:
    """Root mean square of all entries of all updates that can be worked out; 0, below which is none, beyond float64."""
    norms, entries = [], 0
    for module in every.values():
        try:
            update, ratio = scaled(module, reader, settings)
        except Unfit:
            continue
        extent = extent_of(update, ratio)
        if isfinite(extent.norm):
            norms.append(extent.norm)
            entries += extent.entries
    whole = hypot(*norms)  # which squares nothing that could overflow
    return whole / sqrt(entries) if entries and isfinite(whole) else 0.0


def largest_below(
    module: AdapterModule, threshold: float, reader: Reader, settings: Settings | None, effort: Effort
) -> float | None:
    """The largest entry of a module's update where that is below the threshold; None for a module that stays."""
    if "dora_scale" in module.parts:
        return None
    try:
        update, ratio = scaled(module, reader, settings)
        found = largest_entry(update, ratio, threshold, effort)
        beside = [reader.largest(module.parts[role]) for role in LOADED_BESIDE if role in module.parts]
    except Unfit:
        return None
    if found is None:
        return None
    largest = max(found, *beside, 0.0)
    return largest if largest < threshold else None


def scaled(module: AdapterModule, reader: Reader, settings: Settings | None) -> tuple[Update, float]:
    without = 1.0 if "alpha" in module.parts else scale(settings, module.layer)
    return reader.update(module), abs(scale_of(module, without))


def extent_of(update: Update, ratio: float) -> Extent:
    rows, columns = shape_of(update)
    return Extent(norm(update) * ratio, rows * columns)


def norm(update: Update) -> float:
    import numpy

    match update:
        case Dense():
            return float(numpy.linalg.norm(update.matrix))
        case Factored():
            return norm_of_product(update.left, update.right)
        case Kron():
            return norm(update.one) * norm(update.two)


def largest_entry(update: Update, ratio: float, threshold: float, effort: Effort) -> float | None:
    """The largest absolute entry; None when it is not below the threshold."""
    largest: float | None
    match update:
        case Dense():
            largest = float(abs(update.matrix).max())
        case Factored():
            largest = largest_of_product(update.left, update.right, threshold / ratio, effort)
        case Kron():
            one = largest_entry(update.one, 1.0, float("inf"), effort)
            two = largest_entry(update.two, 1.0, float("inf"), effort)
            largest = None if one is None or two is None else one * two
    if largest is None or not largest * ratio < threshold:
        return None
    return largest * ratio


def largest_of_product(left: Any, right: Any, limit: float, effort: Effort) -> float | None:
    """The largest absolute entry of left·right, made block by block; None as soon as one reaches the limit."""
    rows, inner = left.shape
    columns = right.shape[1]
    if not left.any() or not right.any():
        return 0.0
    # The mean square is at most the largest square, which settles nearly all modules without the product.
    mean = norm_of_product(left, right) / sqrt(rows * columns)
    if not isfinite(mean) or mean >= limit:
        return None
    if rows * columns > MOST_ENTRIES or not effort.allows(multiplying(rows, inner, columns)):
        return None  # it stays
    largest = 0.0
    wide = min(columns, BLOCK)
    high = max(BLOCK // wide, 1)
    for row in range(0, rows, high):
        for column in range(0, columns, wide):
            largest = max(largest, float(abs(left[row : row + high] @ right[:, column : column + wide]).max()))
            if largest >= limit:
                return None
    return largest
